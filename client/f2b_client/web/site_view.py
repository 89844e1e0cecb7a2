"""What a hospital's folder says for the live pages, read section by section: one damaged file spoils one section."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from f2b_client import anchor
from f2b_client.approval import approved_studies
from f2b_client.local_results import LocalRound, load_rounds
from f2b_client.policy import is_private, privacy_terms
from f2b_client.receipts import UPDATE, Receipt, read_receipts
from f2b_client.released import refused_with
from f2b_client.settings import SiteFolder, load_joined, load_policy
from f2b_client.web.figures import auc_curve, loss_curve
from f2b_client.web.now import what_happens
from f2b_client.web.receipt_words import Chain, chain_of, receipt_words
from f2b_client.web.stored import prepared_photos
from f2b_client.web.stored_replies import spendings, stored_reply
from f2b_client.web.tables import policy_table, privacy_facts, reasons, round_table
from face2bone_model.contract.errors import EnrolmentError, Face2BoneError
from face2bone_model.contract.payload import decode
from face2bone_model.contract.reply import TABLE_PREFIX
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import EvaluationSettings, Study
from face2bone_model.metrics.estimate import Estimate
from face2bone_model.metrics.summary import validation_summary
from face2bone_model.report.figures_privacy import Charge, epsilon_curve
from face2bone_model.report.figures_training import RoundPoint
from face2bone_model.report.formats import count, share, size
from face2bone_model.report.live.words import plural
from face2bone_model.report.study_words import plain_words

NEWEST = 8
"""Receipts on the first page; the page of receipts has all."""
UNREADABLE = (OSError, ValueError, TypeError, KeyError, sqlite3.Error)
"""What a file that is damaged, or is being replaced this moment, raises."""
Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Section:
    """What a section shows, or the sentence that says why it cannot."""

    content: dict[str, Any]
    trouble: str = ""


@dataclass(frozen=True)
class SiteView:
    """One look at a hospital's folder."""

    folder: SiteFolder

    @cached_property
    def site(self) -> str:
        """The hospital's name in the study; its folder's before it has joined."""
        try:
            return load_joined(self.folder).site
        except Face2BoneError:
            return self.folder.path.resolve().name

    @cached_property
    def studies(self) -> tuple[Study, ...]:
        """Approved studies."""
        return approved_studies(self.folder)

    @cached_property
    def study(self) -> Study | None:
        """The approved study of the latest release, else any; None where no approval can be read."""
        try:
            by_hash = {study.hash(): study for study in self.studies}
            answered = [by_hash[one.study_hash] for one in self.receipts if one.study_hash in by_hash]
            return next(reversed(answered or self.studies), None)
        except (Face2BoneError, *UNREADABLE):
            return None

    @cached_property
    def study_names(self) -> dict[str, str]:
        """Names of approved studies by hash."""
        try:
            return {study.hash(): study.name for study in self.studies}
        except (Face2BoneError, *UNREADABLE):
            return {}

    @cached_property
    def receipts(self) -> tuple[Receipt, ...]:
        """Oldest first."""
        return read_receipts(self.folder.receipts)

    @cached_property
    def rounds(self) -> tuple[LocalRound, ...]:
        """Rounds trained here for the study."""
        return load_rounds(self.folder, self.study.hash()) if self.study else ()

    @cached_property
    def chain(self) -> Chain:
        """Whether receipts and ledger hold; looked at again only when a file changed."""
        return _chain(
            self.folder.path,
            _stamp(
                self.folder.receipts,
                self.folder.ledger,
                self.folder.path / anchor.FILE,
                *self.folder.replies.glob("*/*.safetensors"),
            ),
        )

    def settings_of(self, study_hash: str) -> EvaluationSettings:
        """Bins and age edges of a study; the defaults for one that is not approved."""
        try:
            return next(s.evaluation for s in self.studies if s.hash() == study_hash)
        except (StopIteration, Face2BoneError, *UNREADABLE):
            return EvaluationSettings()

    def sections(self) -> dict[str, Section]:
        """Every section of the live page by its name."""
        readers: dict[str, Callable[[], dict[str, Any]]] = {
            "now": self._now,
            "preparation": self._preparation,
            "training": self._training,
            "privacy": self._privacy,
            "left": self._left,
            "studies": self._studies,
        }
        return {name: _section(read) for name, read in readers.items()}

    def _now(self) -> dict[str, Any]:
        prepared = prepared_photos(self.folder)
        return {
            "now": what_happens(self.folder),
            "site": self.site,
            "study": self.study,
            "patients": count(prepared.patients) if prepared else "not prepared yet",
            "rounds": count(len(self.rounds)),
            "sent": self._sent(),
        }

    def _sent(self) -> str:
        try:
            number = len(self.receipts)
        except Face2BoneError:
            return "receipts cannot be read"
        return (
            f"{count(number)} replies, {size(sum(one.size_bytes for one in self.receipts))}"
            if number
            else "nothing"
        )

    def _preparation(self) -> dict[str, Any]:
        found = prepared_photos(self.folder)
        if found is None:
            return {"prepared": None}
        return {
            "prepared": found,
            "usable": f"{count(found.usable)} of {count(found.photos)} photos, {share(found.usable, found.photos)}",
            "patients": count(found.patients),
            "quarantine": reasons("Photos in quarantine", "Photos", found.quarantined),
            "left_out": reasons("Patients left out", "Patients", found.left_out),
            "contact_sheet": (self.folder.reports / "contact-sheet.html").exists(),
            "site_page": (self.folder.reports / "site.html").exists(),
        }

    def _training(self) -> dict[str, Any]:
        figures = (loss_curve(self.rounds), auc_curve(self._validation()))
        return {
            "rounds": round_table(self.rounds),
            "planned": self.study.training.rounds if self.study else 0,
            "done": len(self.rounds),
            "figures": [figure for figure in figures if figure],
        }

    def _validation(self) -> list[RoundPoint]:
        """AUC of the global model by round, from the sums that left with each update."""
        if self.study is None:
            return []
        points = {}
        for receipt in self.receipts:
            if receipt.kind == UPDATE and receipt.study_hash == self.study.hash():
                estimate = _validation_auc(self.folder.path, receipt, self.study.evaluation)
                if estimate is not None:
                    points[receipt.round] = RoundPoint(number=receipt.round, estimate=estimate)
        return [points[number] for number in sorted(points)]

    def _privacy(self) -> dict[str, Any]:
        policy, study = load_policy(self.folder), self.study
        private = is_private(policy, study) if study else policy.privacy.require_dp
        limit, delta = policy.privacy.epsilon_limit, policy.privacy.delta_limit
        if study:
            terms = privacy_terms(policy, study)
            limit, delta = terms.epsilon, terms.delta
        charges = _charges(
            self.folder.path, self.site, delta, _stamp(self.folder.ledger, self.folder.receipts)
        )
        spent = charges[-1].epsilon if charges else 0.0
        named = [_named(charge, self.study_names) for charge in charges]
        return {
            "private": private,
            "facts": privacy_facts(spent, limit, delta, policy),
            "curve": epsilon_curve("epsilon", named, limit=limit),
            "spent": spent,
            "limit": limit,
        }

    def _left(self) -> dict[str, Any]:
        newest = self.receipts[: -NEWEST - 1 : -1]
        refusals = sum(refused_with(receipt) is not None for receipt in self.receipts)
        return {
            "receipts": [receipt_words(receipt, self.study_names) for receipt in newest],
            "number": plural(len(self.receipts), "reply", "replies"),
            "refusals": plural(refusals, "was a refusal:", "were refusals:") if refusals else "",
            "bytes": size(sum(receipt.size_bytes for receipt in self.receipts)),
            "chain": self.chain,
            "more": len(self.receipts) > NEWEST,
        }

    def _studies(self) -> dict[str, Any]:
        policy = load_policy(self.folder)
        shown = [(study.name, study.hash(), plain_words(study, policy)) for study in reversed(self.studies)]
        return {"approved": shown, "policy": policy_table(policy), "address": self._address()}

    def _address(self) -> str:
        try:
            return load_joined(self.folder).address
        except EnrolmentError:
            return ""


def _section(read: Callable[[], dict[str, Any]]) -> Section:
    try:
        return Section(read())
    except Face2BoneError as error:
        return Section({}, f"{error} (number {error.code})")
    except UNREADABLE:
        return Section(
            {}, "A file this section needs is damaged or missing; `f2b-client doctor` looks closer."
        )


def _stamp(*databases: Path) -> Stamp:
    """Changes whenever one of the files does; a SQLite file counts with its log."""
    files = [file for one in databases for file in (one, one.with_name(f"{one.name}-wal"))]
    return tuple((s.st_mtime_ns, s.st_size) for f in files if f.exists() for s in [f.stat()])


@lru_cache(maxsize=4)
def _chain(site: Path, stamp: Stamp) -> Chain:  # the stamp makes the cache forget
    return chain_of(SiteFolder(site))


@lru_cache(maxsize=4)
def _charges(site: Path, cohort: str, delta: float, stamp: Stamp) -> tuple[Charge, ...]:
    return spendings(SiteFolder(site), cohort, delta)


def _named(charge: Charge, names: dict[str, str]) -> Charge:
    return Charge(
        at=charge.at,
        study=names.get(charge.study, charge.study),
        round=charge.round,
        epsilon=charge.epsilon,
    )


@lru_cache(maxsize=512)
def _validation_auc(site: Path, receipt: Receipt, settings: EvaluationSettings) -> Estimate | None:
    payload = stored_reply(SiteFolder(site), receipt.payload_digest)
    if payload is None:
        return None
    tables = {
        name.removeprefix(TABLE_PREFIX): table
        for name, table in decode(payload)[0].items()
        if name.startswith(TABLE_PREFIX)
    }
    return validation_summary(SiteStatistics(tables=tables), settings).auc_within_site
