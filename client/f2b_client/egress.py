"""The gate: the only module that may build what leaves the hospital.

A release goes through these steps, in this order, or not at all:
check against what the approved study declares, suppress small cells, charge the ledger, write the signed receipt,
store the reply; only then do the bytes exist outside this module. Nothing per patient has a type it accepts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from f2b_client.keys import receipt_key
from f2b_client.ledger import Ledger
from f2b_client.receipts import Receipt, write_receipt
from f2b_client.replies import ReplyStore
from f2b_client.settings import Policy, SiteFolder
from face2bone_model.contract.errors import EgressError
from face2bone_model.contract.payload import encode
from face2bone_model.contract.reply import check_update, error_content, statistics_content, update_content
from face2bone_model.contract.request import Request
from face2bone_model.contract.statistics import SiteStatistics, TableSpec, check_statistics
from face2bone_model.contract.study import PrivacySettings, Study
from face2bone_model.contract.update import ModelSignature, Update
from face2bone_model.metrics.suppression import suppress
from face2bone_model.training.privacy import DpSegment

NO_STUDY = "0" * 64


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

    def private(self, study: Study) -> bool:
        """Whether updates of this study must be differentially private here."""
        return study.privacy.required or self.policy.privacy.require_dp

    def epsilon_limit(self, study: Study) -> float:
        """The stricter of study and policy."""
        return min(study.privacy.epsilon, self.policy.privacy.epsilon_limit)

    def delta(self, study: Study) -> float:
        """The stricter of study and policy."""
        return min(study.privacy.delta, self.policy.privacy.delta_limit)

    def privacy_terms(self, study: Study) -> PrivacySettings:
        """The study's terms of private training, tightened to this hospital's limits."""
        return replace(study.privacy, epsilon=self.epsilon_limit(study), delta=self.delta(study))

    def min_cell(self, study: Study) -> int:
        """The stricter of study and policy."""
        return max(study.evaluation.min_cell, self.policy.release.min_cell)

    @property
    def ledger(self) -> Ledger:
        """The ledger of this site's patients."""
        return Ledger(self.folder.ledger, cohort=self.site)

    def again(self, request: Request) -> Release | None:
        """The stored reply to a request that was answered before: the same bytes, no new charge."""
        payload = self._store.find(request.study_hash, request.key)
        if payload is None:
            return None
        self._receipt(request.study_hash, request.phase, request.round, "repeat", payload)
        return Release(payload)

    def release_update(  # what the check needs
        self,
        request: Request,
        update: Update,
        *,
        study: Study,
        signature: ModelSignature,
        validation_schema: Sequence[TableSpec],
        segment: DpSegment | None,
    ) -> Release:
        """Let trained tensors out.

        Raises:
            EgressError: the update is not what the study declares, or lacks the privacy it must have.
            BudgetError: the privacy budget does not cover it.
        """
        check_update(update, signature, validation_schema)
        if request.round > self.policy.release.max_rounds:
            raise EgressError(
                f"Round {request.round} is past this hospital's limit of rounds.", "See policy.toml."
            )
        if update.num_patients < self.min_cell(study):
            raise EgressError(
                f"The update rests on {update.num_patients} patients; fewer than {self.min_cell(study)} must not show.",
                "Take part with a larger cohort.",
            )
        if self.private(study) and segment is None:
            raise EgressError("The study or this hospital demands differential privacy; the update has none.")
        if segment is not None and update.train_loss != 0:
            raise EgressError("A loss on private training patients would leave beside the update.")
        update = replace(update, validation=self._suppressed(update.validation, study))
        if segment is not None:
            update = self._charged(request, update, segment, study)
        return self._let_out(request, self._update_payload(request, update), "update")

    def release_statistics(
        self, request: Request, statistics: SiteStatistics, *, study: Study, schema: Sequence[TableSpec]
    ) -> Release:
        """Let sums and counts out.

        Raises:
            EgressError: a table is not what the study declares.
        """
        check_statistics(statistics, schema)
        tensors, header = statistics_content(self._suppressed(statistics, study))
        return self._let_out(request, encode(tensors, self._stamped(header, request)), "statistics")

    def release_error(self, request: Request | None, request_digest: str, code: int) -> Release:
        """Let the number of an error out. It is not stored: asked again, the site tries again."""
        tensors, header = error_content(code)
        payload = encode(tensors, {**header, "request": request_digest})
        study_hash = request.study_hash if request else NO_STUDY
        phase, number = (request.phase, request.round) if request else ("unknown", 0)
        self._receipt(study_hash, phase, number, f"error {code}", payload)
        return Release(payload)

    @property
    def _store(self) -> ReplyStore:
        return ReplyStore(self.folder.replies)

    def _suppressed(self, statistics: SiteStatistics, study: Study) -> SiteStatistics:
        return suppress(statistics, min_cell=self.min_cell(study))

    def _charged(self, request: Request, update: Update, segment: DpSegment, study: Study) -> Update:
        """The update with what was spent in all, once the ledger holds it."""
        limit, delta = self.epsilon_limit(study), self.delta(study)
        planned = replace(update, epsilon=self.ledger.check(segment, limit=limit, delta=delta), delta=delta)
        self._check_size(self._update_payload(request, planned))  # what cannot leave must not cost
        epsilon = self.ledger.charge(
            segment, study_hash=request.study_hash, round_number=request.round, limit=limit, delta=delta
        )
        return replace(planned, epsilon=epsilon)

    def _update_payload(self, request: Request, update: Update) -> bytes:
        tensors, header = update_content(update)
        return encode(tensors, self._stamped(header, request))

    def _stamped(
        self, header: dict[str, str | int | float | bool], request: Request
    ) -> dict[str, str | int | float | bool]:
        return {**header, "request": request.digest}

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self.policy.release.max_bytes_per_reply:
            raise EgressError(
                f"The reply has {len(payload)} bytes; policy.toml permits {self.policy.release.max_bytes_per_reply}.",
                "Raise [release] max_bytes_per_reply if the study needs it.",
            )

    def _let_out(self, request: Request, payload: bytes, kind: str) -> Release:
        self._check_size(payload)
        self._receipt(request.study_hash, request.phase, request.round, kind, payload)
        self._store.keep(request.study_hash, request.key, payload)
        return Release(payload)

    def _receipt(self, study_hash: str, phase: str, round_number: int, kind: str, payload: bytes) -> Receipt:
        return write_receipt(
            self.folder.receipts,
            receipt_key(self.folder),
            study_hash=study_hash,
            phase=phase,
            round_number=round_number,
            kind=kind,
            payload=payload,
        )
