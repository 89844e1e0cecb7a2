"""From a patient's T-scores to a WHO class, or to the reason why she or he cannot be classed.

Sources: WHO classes (normal T >= -1.0, osteoporosis T <= -2.5); ISCD Official Positions 2023 (lowest T-score
of PA lumbar spine, total hip and femoral neck; the 33 % radius where neither hip nor spine can be used; no
single vertebra; WHO classes for postmenopausal women, women in the menopausal transition and men from 50;
below that a Z-score of -2.0 or lower is "below the expected range for age"). T-scores are compared as
decimals exactly as written: nothing is rounded first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from face2bone_model.contract.keys import CLASSES
from face2bone_model.data.dxa import DxaPatient
from face2bone_model.data.dxa_row import Measurement, Sex
from face2bone_model.data.problem import LeftOut, Problem, Reason
from face2bone_model.data.site_settings import LabelSettings
from face2bone_model.data.skeletal_site import SkeletalSite

NORMAL_EDGE = Decimal("-1.0")
OSTEOPOROSIS_EDGE = Decimal("-2.5")
Z_EDGE = Decimal("-2.0")

_HIP_SITES = (SkeletalSite.FEMORAL_NECK, SkeletalSite.TOTAL_HIP)
_FEWEST_VERTEBRAE = 2


@dataclass(frozen=True, kw_only=True)
class Label:
    """A WHO class and what it stands on."""

    label: int
    """Index into `contract.keys.CLASSES`."""
    lowest_t: Decimal
    site: SkeletalSite
    sex: Sex
    age_years: int


def who_class(t_score: Decimal, *, normal_includes_minus_one: bool = True) -> int:
    """Index into `CLASSES`. T = -2.5 is osteoporosis; T = -1.0 is normal unless the setting says otherwise.

    >>> [CLASSES[who_class(Decimal(t))] for t in ("-1.0", "-1.01", "-2.4999", "-2.5")]
    ['normal', 'osteopenia', 'osteopenia', 'osteoporosis']
    """
    if t_score <= OSTEOPOROSIS_EDGE:
        return CLASSES.index("osteoporosis")
    if t_score > NORMAL_EDGE or (normal_includes_minus_one and t_score == NORMAL_EDGE):
        return CLASSES.index("normal")
    return CLASSES.index("osteopenia")


def label_patient(patient: DxaPatient, labels: LabelSettings) -> Label | LeftOut:
    """Class a patient, or say why not."""
    if patient.sex is None:
        return _left_out(patient, Reason.NO_SEX, "has no usable sex", "Fill it in; T-scores depend on it.")
    if patient.age_years is None:
        mend = "Fill in age, or birth date and scan date."
        return _left_out(patient, Reason.NO_AGE, "has no usable age", mend)
    refusal = _refusal(patient, patient.sex, patient.age_years, labels)
    if refusal is not None:
        return refusal
    usable = diagnostic_measurements(patient.measurements, labels)
    readable = [(item.t_score, item.site) for item in usable if item.t_score is not None]
    unreadable = any(item.unreadable for item in usable)
    if not readable:
        return _left_out(
            patient, Reason.UNREADABLE_SITE if unreadable else Reason.NO_SITE, *_no_site_words(unreadable)
        )
    lowest_t, site = min(readable, key=lambda pair: pair[0])
    if unreadable and lowest_t > OSTEOPOROSIS_EDGE:
        what = f"is not classed: another T-score cannot be read and might be lower than {lowest_t}"
        return _left_out(patient, Reason.UNREADABLE_SITE, what, "Correct that T-score in the export.")
    label = who_class(lowest_t, normal_includes_minus_one=labels.normal_includes_minus_one)
    return Label(label=label, lowest_t=lowest_t, site=site, sex=patient.sex, age_years=patient.age_years)


def _refusal(patient: DxaPatient, sex: Sex, age_years: int, labels: LabelSettings) -> LeftOut | None:
    """None if WHO classes apply to the patient, else the reason why not."""
    if patient.patient_id in labels.exclude_patients:
        return _left_out(patient, Reason.LISTED, "is named in [labels] exclude_patients", "Nothing to do.")
    if sex == "female":
        return _woman(patient, age_years, labels)
    if age_years < labels.men_from_age:
        what = f"is a man of {age_years}, below {labels.men_from_age}: WHO classes do not apply"
        return _left_out(patient, Reason.YOUNG_MAN, what, z_advice(patient))
    return None


def _woman(patient: DxaPatient, age_years: int, labels: LabelSettings) -> LeftOut | None:
    if patient.menopause in ("postmenopausal", "menopausal_transition"):
        return None
    if patient.menopause == "premenopausal":
        what = "is a premenopausal woman: WHO classes do not apply"
        return _left_out(patient, Reason.PREMENOPAUSAL, what, z_advice(patient))
    limit = labels.women_postmenopausal_from_age
    if limit is not None and age_years >= limit:
        return None
    return _left_out(
        patient,
        Reason.MENOPAUSE_UNKNOWN,
        "is a woman whose menopausal status is not given",
        "Map menopause in [dxa.columns], or set [labels] women_postmenopausal_from_age.",
    )


def z_advice(patient: DxaPatient) -> str:
    """What to read instead of a WHO class, with the patient's lowest Z-score where there is one."""
    rule = f"Use the Z-score: {Z_EDGE} or lower is below the expected range for age."
    scores = [item.z_score for item in patient.measurements if item.z_score is not None and _may_count(item)]
    if not scores:
        return rule
    verdict = "below" if min(scores) <= Z_EDGE else "within"
    return f"{rule} The lowest here is {min(scores)}, {verdict} the expected range."


def diagnostic_measurements(
    measurements: Sequence[Measurement], labels: LabelSettings
) -> tuple[Measurement, ...]:
    """The regions with a T-score that a class may stand on: hip and spine, else the 33 % radius."""
    scored = [item for item in measurements if item.t_score is not None or item.unreadable]
    hip_sites = (
        (*_HIP_SITES, SkeletalSite.FEMUR_UNSPECIFIED) if labels.accept_femur_unspecified else _HIP_SITES
    )
    central = (*_spine(scored, labels), *(item for item in scored if item.site in hip_sites))
    if central or not labels.use_radius:
        return central
    return tuple(item for item in scored if item.site is SkeletalSite.RADIUS_33)


def _may_count(item: Measurement) -> bool:
    """Whether the region is one of the four diagnostic sites."""
    if item.site is SkeletalSite.LUMBAR_SPINE:
        return len(item.vertebrae) >= _FEWEST_VERTEBRAE
    return item.site in (*_HIP_SITES, SkeletalSite.RADIUS_33)


def _spine(scored: Sequence[Measurement], labels: LabelSettings) -> tuple[Measurement, ...]:
    """The spine region with the most vertebrae whose vertebrae agree; none if no region qualifies."""
    spine = [item for item in scored if item.site is SkeletalSite.LUMBAR_SPINE]
    single = {
        item.vertebrae[0]: item.t_score
        for item in spine
        if len(item.vertebrae) == 1 and item.t_score is not None
    }
    regions = sorted((item for item in spine if _may_count(item)), key=lambda item: -len(item.vertebrae))
    return tuple(item for item in regions if _vertebrae_agree(item.vertebrae, single, labels))[:1]


def _vertebrae_agree(vertebrae: Sequence[int], single: Mapping[int, Decimal], labels: LabelSettings) -> bool:
    """Whether no vertebra of the region differs from the next by more than the setting (ISCD: 1.0)."""
    if labels.max_vertebra_difference is None:
        return True
    limit = Decimal(str(labels.max_vertebra_difference))
    pairs = [(number, number + 1) for number in vertebrae if number + 1 in vertebrae]
    return all(abs(single[a] - single[b]) <= limit for a, b in pairs if a in single and b in single)


def _no_site_words(unreadable: bool) -> tuple[str, str]:
    if unreadable:
        return "has no readable T-score at a diagnostic site", "Correct the T-score in the export."
    what = (
        "has no T-score of the lumbar spine (two vertebrae or more), total hip, femoral neck or 33 % radius"
    )
    return what, "Export these regions, or list their names in [dxa.values]."


def _left_out(patient: DxaPatient, reason: Reason, what: str, mend: str) -> LeftOut:
    problem = Problem(patient.where, f"Patient {patient.patient_id} {what}.", mend)
    return LeftOut(patient_id=patient.patient_id, reason=reason, problem=problem)
