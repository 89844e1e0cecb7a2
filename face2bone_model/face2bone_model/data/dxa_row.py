"""What one row, observation or report of a DXA export says, whatever its format."""

from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal

from face2bone_model.data.problem import Problem
from face2bone_model.data.skeletal_site import SkeletalSite

Sex = Literal["female", "male"]
Menopause = Literal["postmenopausal", "menopausal_transition", "premenopausal"]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One region of one scan."""

    site: SkeletalSite
    region: str
    """The export's own name for it, normalised: two names are two regions (left and right neck, L1-L4 and L2-L4)."""
    vertebrae: tuple[int, ...] = ()
    t_score: Decimal | None = None
    z_score: Decimal | None = None
    bmd: Decimal | None = None
    """g/cm2"""
    unreadable: bool = False
    """A T-score was given but cannot be one."""


@dataclass(frozen=True, kw_only=True)
class DxaRow:
    """One row. None means: this row does not say."""

    where: str = field(compare=False)
    """File and row, for messages; two rows that say the same are equal."""
    patient_id: str
    sex: Sex | None = None
    age_years: int | None = None
    menopause: Menopause | None = None
    bmi: float | None = None
    """kg/m2"""
    scan_date: date | None = None
    device: str = ""
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DxaExport:
    """All rows of an export, and what could not be read."""

    rows: tuple[DxaRow, ...]
    problems: tuple[Problem, ...]
