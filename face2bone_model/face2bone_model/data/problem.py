"""What is wrong with one row, photo or patient, in words the hospital can act on; and why a patient is left out."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Problem:
    """One thing that could not be used, or was used with a note. It stays at the site."""

    where: str
    """File and row (``dxa_export.csv row 12``), or a photo's path below the site folder."""
    what: str
    """A sentence: what was found."""
    mend: str
    """A sentence: what to change, or what was done."""


class Reason(StrEnum):
    """Why a patient is not in the cohort, in the words of the flow diagram."""

    CONTRADICTING = "contradicting rows"
    NO_SEX = "sex missing"
    NO_AGE = "age missing"
    UNREADABLE_SITE = "unreadable T-score at a diagnostic site"
    NO_SITE = "no T-score at a diagnostic site"
    PREMENOPAUSAL = "premenopausal woman"
    MENOPAUSE_UNKNOWN = "menopausal status unknown"
    YOUNG_MAN = "man below the age limit"
    LISTED = "named in exclude_patients"
    NO_PHOTO = "no usable photo"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A patient who is not in the cohort."""

    patient_id: str
    reason: Reason
    problem: Problem
