"""The patients: who is left out and why, how many each class and split has, and what their identifiers tell."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from f2b_client.doctor.data_facts import SYSTEMATIC, SiteFacts, known_patients, patients, places
from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from face2bone_model.contract.errors import Face2BoneError
from face2bone_model.contract.keys import CLASSES, OSTEOPOROSIS, Phase, Split
from face2bone_model.contract.payload import decode
from face2bone_model.data.dxa import DxaPatient
from face2bone_model.data.manifest import Manifest, ManifestEntry
from face2bone_model.data.problem import Reason

_ADULT = 18
_YOUNG_MENOPAUSE = 40
"""Years; before it menopause is premature and rare (about one woman in a hundred)."""
_EXPECTED_SHARE = 0.05
"""Of the export may be left out for a reason before anybody need look."""
_ENOUGH = 40
"""Patients, below which shares say little."""
_OSTEOPOROSIS_SHARE = (0.03, 0.75)
"""Of a cohort referred to DXA. Chinese adults from 50 have 19 %, women from 65 52 %; referral adds to it."""
_SHIFT = 0.10
"""Change of a class's share since the cohort was described, above which a chance below 1 in 1000 counts."""
_BY_CHANCE = 1e-3
_TABLE = "table/all/classes/counts"
_RELEASED = "table/all/classes/released"

_REASONS = {
    Reason.NO_SEX: ("sex-missing", 0.0),
    Reason.NO_AGE: ("age-missing", 0.0),
    Reason.UNREADABLE_SITE: ("t-score-unreadable", 0.0),
    Reason.NO_SITE: ("no-diagnostic-site", _EXPECTED_SHARE),
    Reason.PREMENOPAUSAL: ("premenopausal", _EXPECTED_SHARE),
    Reason.MENOPAUSE_UNKNOWN: ("menopause-unknown", _EXPECTED_SHARE),
    Reason.YOUNG_MAN: ("men-below-50", _EXPECTED_SHARE),
    Reason.NO_PHOTO: ("label-without-photo", _EXPECTED_SHARE),
}
"""The check, and the share of the export above which it is worth a look."""

_NAME_LIKE = re.compile(
    r"[A-Za-zÀ-ž]{2,}(?:[ ._-]+[A-Za-zÀ-ž]{2,}){1,3}|[A-ZÀ-Ž][a-zà-ž]{3,}|[\u4e00-\u9fff]{2,4}"
)


def check_left_out(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """One finding for each reason for which many patients are left out."""
    known = known_patients(manifest)
    for reason, (check, share) in _REASONS.items():
        own = [item.problem for item in manifest.left_out if item.reason is reason]
        if own and len(own) > share * known:
            what = f"{patients(len(own))} of {known} left out: {reason}. The first: {own[0].what}"
            yield warned(check, what, places([problem.where for problem in own]), own[0].mend)
        else:
            yield passed(check, f"{patients(len(own))} of {known} left out: {reason}.", facts.export_name)


def check_children(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find children, and women whose menopause came too early to be true."""
    children = [item.where for item in manifest.patients if _age(item) < _ADULT]
    if children:
        what = f"{patients(len(children))} below {_ADULT} years; WHO classes do not apply to children."
        yield warned(
            "children", what, places(children), "Take them and their photos out, or correct the age."
        )
    else:
        yield passed("children", "Everybody is an adult.", facts.export_name)
    early = [item.where for item in manifest.patients if item.menopause == "postmenopausal" and _young(item)]
    if early:
        what = f"{patients(len(early))} with menopause before {_YOUNG_MENOPAUSE}."
        yield warned("early-menopause", what, places(early), "Check age and menopause in the records.")
    else:
        yield passed(
            "early-menopause", f"Nobody's menopause came before {_YOUNG_MENOPAUSE}.", facts.export_name
        )


def _age(patient: DxaPatient) -> float:
    return float("inf") if patient.age_years is None else patient.age_years


def _young(patient: DxaPatient) -> bool:
    return _ADULT <= _age(patient) < _YOUNG_MENOPAUSE


def check_sizes(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find a class or a split without patients."""
    classes = Counter(entry.label for entry in manifest.entries)
    missing = [name for index, name in enumerate(CLASSES) if not classes[index]]
    if missing:
        what = f"No patient of {known_patients(manifest)} is of class {' or '.join(missing)}."
        mend = "Check the T-score columns and who was exported; a cohort without a class cannot validate it."
        yield failed("class-missing", what, facts.export_name, mend)
    else:
        yield passed("class-missing", f"All classes occur: {_shares(manifest.entries)}.", facts.export_name)
    splits = Counter(entry.split for entry in manifest.entries)
    empty = [split.value for split in Split if not splits[split]]
    if empty:
        what = f"There is no patient in the split {' and '.join(empty)}."
        mend = "Add patients, or change [split] in site.toml before the first preparation."
        yield failed("split-empty", what, "site.toml", mend)
    else:
        counts = ", ".join(f"{split} {splits[split]}" for split in Split)
        yield passed("split-empty", f"Patients by split: {counts}.", facts.export_name)


def _shares(entries: tuple[ManifestEntry, ...]) -> str:
    classes = Counter(entry.label for entry in entries)
    return ", ".join(f"{name} {classes[index]}" for index, name in enumerate(CLASSES))


def check_prevalence(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Compare osteoporosis with what referral gives, and the classes with those described to the centre."""
    now = np.bincount([entry.label for entry in manifest.entries], minlength=len(CLASSES))
    share = now[OSTEOPOROSIS] / max(1, now.sum())
    low, high = _OSTEOPOROSIS_SHARE
    if now.sum() >= _ENOUGH and not low <= share <= high:
        what = f"{share:.0%} of the patients have osteoporosis; {low:.0%} to {high:.0%} are usual after referral."
        mend = "Check the T-score columns, the reference database and who was exported."
        yield warned("prevalence", what, facts.export_name, mend)
    else:
        yield passed("prevalence", f"{share:.0%} of the patients have osteoporosis.", facts.export_name)
    yield from _against_description(facts, now)


def _against_description(facts: SiteFacts, now: NDArray[np.int64]) -> Iterator[Finding]:
    check = "prevalence-since-describe"
    then = described_classes(facts)
    if then is None:
        yield passed(check, "The cohort's classes were not described to the centre yet.", "replies/")
    elif _shifted(then, now):
        what = f"The classes were described as {_counts(then)}; they are {_counts(now)} now."
        mend = "Find out what changed in export, photos or settings since; the study stands on what was described."
        yield warned(check, what, "replies/", mend)
    else:
        yield passed(check, "The classes are as they were described to the centre.", "replies/")


def described_classes(facts: SiteFacts) -> NDArray[np.int64] | None:
    """Patients by class (3,) as last described to the centre; None where they were withheld or never asked for."""
    files = facts.folder.replies.glob(f"*/{Phase.DESCRIBE}-*.safetensors")
    for path in sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            tables, _ = decode(path.read_bytes())
        except (Face2BoneError, OSError):
            continue
        if _TABLE in tables and int(tables.get(_RELEASED, np.zeros(1)).sum()):
            classes: NDArray[np.int64] = tables[_TABLE].reshape(-1, len(CLASSES)).sum(axis=0).astype(np.int64)
            return classes
    return None


def _shifted(then: NDArray[np.int64], now: NDArray[np.int64]) -> bool:
    """Whether a share moved by more than `_SHIFT`, and not by chance."""
    if not then.sum() or not now.sum():
        return bool(then.sum() != now.sum())
    moved = np.abs(then / then.sum() - now / now.sum()).max()
    table = np.array([then, now])
    table = table[:, table.sum(axis=0) > 0]
    if moved <= _SHIFT or table.shape[1] < 2:  # noqa: PLR2004  # one class cannot shift
        return False
    result: Any = chi2_contingency(table)
    return bool(result[1] < _BY_CHANCE)


def _counts(classes: NDArray[np.int64]) -> str:
    return ", ".join(f"{name} {count}" for name, count in zip(CLASSES, classes, strict=True))


def check_identifiers(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find patients called by their names: identifiers stand in file names, logs and pages of this site."""
    named = [item for item in manifest.patients if _NAME_LIKE.fullmatch(item.patient_id)]
    if len(named) > SYSTEMATIC * len(manifest.patients) and named:
        what = f"{patients(len(named))} with an identifier that looks like a name, such as the one at {named[0].where}."
        mend = "Replace names by numbers in the export and in the photos' file names."
        yield warned("ids-are-names", what, places([item.where for item in named]), mend)
    else:
        yield passed("ids-are-names", "Identifiers do not look like names.", facts.export_name)
