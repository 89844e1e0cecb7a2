"""A patient's DXA examination as a densitometer would report it, before any export format."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np
from numpy.random import Generator

from face2bone_model.data.synthetic.patients import Patient

Menopause = Literal["postmenopausal", "premenopausal"]

_PEAK_BMD = {"lumbar_spine": (1.047, 0.110), "femoral_neck": (0.858, 0.120), "total_hip": (0.942, 0.122)}
"""Mean and standard deviation of BMD in young women, g/cm2: NHANES III for the hip, a manufacturer's for the spine."""
_WARDS_OFFSET = 6
"""Ward's triangle reads lower than the neck, in tenths of T. It is exported as real machines do, and must not count."""
_FIRST_SCAN = date(2024, 3, 1)
_SCAN_DAYS = 180


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One region of interest; numbers as texts with a decimal point, empty where not measured."""

    region: str
    """`lumbar_spine`, `femoral_neck`, `total_hip`, `wards` or `single_vertebra`."""
    t: str
    z: str
    bmd: str
    t_unit: str = ""
    """Unit written beside the T-score where the format has units; empty: the usual one."""


@dataclass(frozen=True, kw_only=True)
class DxaRecord:
    """One examination of one patient."""

    patient_id: str
    sex: Literal["female", "male", ""]
    age_years: int
    birth_date: date
    scan_date: date
    menopause: Menopause | None
    height_cm: float
    weight_kg: float
    readings: tuple[Reading, ...]
    device: str = "synthetic densitometer"


def record_of(patient: Patient, patient_id: str, rng: Generator) -> DxaRecord:
    """The examination of a synthetic patient."""
    scan = _FIRST_SCAN + timedelta(days=int(rng.integers(_SCAN_DAYS)))
    birth = date(scan.year - patient.age_years, scan.month, min(scan.day, 28)) - timedelta(
        days=int(rng.integers(5, 350))
    )
    readings = [_reading(region, tenths, patient.age_years) for region, tenths in patient.t_tenths.items()]
    wards = _reading("wards", patient.t_tenths["femoral_neck"] - _WARDS_OFFSET, patient.age_years)
    return DxaRecord(
        patient_id=patient_id,
        sex=patient.sex,
        age_years=patient.age_years,
        birth_date=birth,
        scan_date=scan,
        menopause="postmenopausal" if patient.sex == "female" else None,
        height_cm=patient.height_cm,
        weight_kg=patient.weight_kg,
        readings=(*readings, wards),
    )


def _reading(region: str, tenths: int, age_years: int) -> Reading:
    mean, sd = _PEAK_BMD.get(region, _PEAK_BMD["femoral_neck"])
    z_tenths = tenths + round(0.32 * max(0, age_years - 30))
    bmd = max(0.2, mean + sd * tenths / 10)
    return Reading(region=region, t=_decimal(tenths), z=_decimal(z_tenths), bmd=f"{bmd:.3f}")


def _decimal(tenths: int) -> str:
    return f"{np.sign(tenths) * abs(tenths) / 10:.1f}".replace("-0.0", "0.0")
