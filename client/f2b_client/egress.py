"""The gate: the only module that may build what leaves the hospital.

A release goes through these steps, in this order, or not at all:
check against what the approved study declares, suppress small cells, store the reply, charge the ledger, write the
signed receipt; only then do the bytes exist outside this module. Nothing per patient has a type it accepts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from f2b_client import policy
from f2b_client.disclosure import DisclosureMemory, Subject
from f2b_client.ledger import Ledger
from f2b_client.measures import Measured
from f2b_client.receipts import ERROR, STATISTICS, UPDATE
from f2b_client.records import Records
from f2b_client.replies import Pending, Price
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import EgressError
from face2bone_model.contract.payload import Scalar, encode
from face2bone_model.contract.policy import Policy
from face2bone_model.contract.reply import (
    check_step,
    check_update,
    error_content,
    statistics_content,
    update_content,
)
from face2bone_model.contract.request import Request
from face2bone_model.contract.statistics import SiteStatistics, TableSpec, check_statistics
from face2bone_model.contract.study import PrivacySettings, Study
from face2bone_model.contract.update import ModelSignature, Update
from face2bone_model.metrics.schemas import schema_of
from face2bone_model.training.privacy import DpSegment


@dataclass(frozen=True)
class Release:
    """Bytes that passed the gate. Only this module makes one."""

    payload: bytes


@dataclass(frozen=True)
class Gate:
    """The gate of one site."""

    folder: SiteFolder
    site: str
    policy: Policy
    to: str = ""
    """Address of the coordinating centre, for the receipts."""

    def private(self, study: Study) -> bool:
        """Whether updates of this study must be differentially private here."""
        return policy.is_private(self.policy, study)

    def epsilon_limit(self, study: Study) -> float:
        """The stricter of study and policy."""
        return self.privacy_terms(study).epsilon

    def delta(self, study: Study) -> float:
        """The stricter of study and policy."""
        return self.privacy_terms(study).delta

    def privacy_terms(self, study: Study) -> PrivacySettings:
        """The study's terms of private training, tightened to this hospital's limits."""
        return policy.privacy_terms(self.policy, study)

    def min_cell(self, study: Study) -> int:
        """The stricter of study and policy."""
        return policy.min_cell(self.policy, study)

    @property
    def ledger(self) -> Ledger:
        """The ledger of this site's patients."""
        return self._records.ledger

    def again(self, request: Request) -> Release | None:
        """The reply to a request that was answered or finished before: the same bytes, no new charge.

        Raises:
            RecordsError: receipts, ledger and replies do not agree; nothing leaves until they do.
            BudgetError: a finished reply was not paid for, and the budget no longer covers it.
        """
        payload = self._records.again(request)
        return None if payload is None else Release(payload)

    def release_update(  # what the check needs
        self,
        request: Request,
        update: Update,
        *,
        subject: Subject,
        study: Study,
        signature: ModelSignature,
        segment: DpSegment | None,
    ) -> Release:
        """Let trained tensors out.

        Args:
            request: what is answered.
            update: what the training made.
            subject: whom the validation sums are about; guards them and never leaves.
            study: as approved.
            signature: of the study's model.
            segment: what the training cost; None without differential privacy.

        Raises:
            EgressError: the update is not what the study declares, or lacks the privacy it must have.
            BudgetError: the privacy budget does not cover it.
            RecordsError: receipts, ledger and replies do not agree.
        """
        check_update(update, signature, _schema(request, study))
        check_step(update.vector, request.vector, study.training.max_update_norm)
        policy.check_round(self.policy, request)
        policy.check_patients(self.policy, study, update.num_patients)
        policy.check_privacy(self.policy, study, private=segment is not None)
        if segment is not None and update.train_loss != 0:
            raise EgressError("A loss on private training patients would leave beside the update.")
        measured = Measured(update.validation, subject)
        tensors, header = update_content(
            replace(update, validation=self._suppressed(request, measured, study))
        )
        return self._let_out(request, tensors, header, UPDATE, self._price(segment, study))

    def release_statistics(self, request: Request, measured: Measured, *, study: Study) -> Release:
        """Let sums and counts out.

        Raises:
            EgressError: a table is not what the study declares.
            RecordsError: receipts, ledger and replies do not agree.
        """
        check_statistics(measured.statistics, _schema(request, study))
        tensors, header = statistics_content(self._suppressed(request, measured, study))
        return self._let_out(request, tensors, header, STATISTICS, None)

    def release_error(self, request: Request | None, request_digest: str, code: int) -> Release:
        """Let the number of an error out. It is not stored: asked again, the site tries again."""
        tensors, header = error_content(code)
        payload = encode(tensors, {**header, "request": request_digest})
        self._records.note(request, f"{ERROR}{code}", payload)
        return Release(payload)

    @property
    def _records(self) -> Records:
        return Records(self.folder, self.site, self.policy, self.to)

    def _suppressed(self, request: Request, measured: Measured, study: Study) -> SiteStatistics:
        """What may leave of these sums, beside all that left before; remembered before it leaves."""
        self._records.refuse_disagreement()
        memory = DisclosureMemory(self.folder)
        protected = memory.protect(
            measured.statistics,
            measured.subject,
            study_hash=request.study_hash,
            request_key=request.key,
            min_cell=self.min_cell(study),
        )
        memory.record(protected)
        return protected.statistics

    def _price(self, segment: DpSegment | None, study: Study) -> Price | None:
        if segment is None:
            return None
        return Price(segment=segment, limit=self.epsilon_limit(study), delta=self.delta(study))

    def _let_out(
        self,
        request: Request,
        tensors: Mapping[str, NDArray[Any]],
        header: Mapping[str, Scalar],
        kind: str,
        price: Price | None,
    ) -> Release:
        payload = encode(tensors, {**header, "request": request.digest})
        return Release(self._records.settle(request, Pending(kind=kind, payload=payload, price=price)))


def _schema(request: Request, study: Study) -> tuple[TableSpec, ...]:
    """What the approved study declares for this question; nobody else says what may leave."""
    return schema_of(request.phase, request.split, study.evaluation)
