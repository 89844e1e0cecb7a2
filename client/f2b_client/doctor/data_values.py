"""T-score, Z-score, density and body size against each other: columns exchanged, copied or in another unit."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from statistics import median

import numpy as np
from numpy.typing import NDArray

from f2b_client.doctor.data_facts import SiteFacts, by_share, patients, places
from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from face2bone_model.data.dxa import DxaPatient
from face2bone_model.data.dxa_row import Measurement
from face2bone_model.data.manifest import Manifest

_ENOUGH = 8
"""Patients with a value, below which a column is not judged."""
_DENSITIES = (0.3, 1.7)
"""g/cm2. Adults lie between 0.4 and 1.5 at hip and spine; T-scores of eight patients never all do."""
_OLD = 60
"""Years from which a T-score lies below the Z-score for certain: the reference loses bone with age."""
_MOSTLY = 0.5
_FIT_RANGE = 0.6
"""T units a score may lie off the line through density before row and line contradict each other: rounding and a change
of software explain 0.1, two reference populations 0.3."""
_NEAR = 0.9
"""Share of scores that must lie near the line for the others to be slips."""
_EXPLAINED = 0.97
"""Share of variance of T that density must explain: rounding leaves 0.99 and more, two reference populations 0.98; of a
Z-score, which follows age too, 0.95 and less."""
_BMI_MEDIAN = (17.0, 36.0)
"""kg/m2. Medians of referred adults lie from 22 to 30; pounds taken for kilograms give 55."""
_SAME_VALUES = 3
"""Densities to 0.001 g/cm2 that must be equal for two examinations to be one."""

Located = tuple[DxaPatient, Measurement]


def check_density(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find a region whose T-scores all look like densities; the reader refuses files in which all regions do."""
    suspect = []
    for region, found in _by_region(manifest.patients).items():
        scores = [float(item.t_score) for _, item in found if item.t_score is not None]
        if len(scores) >= _ENOUGH and all(_DENSITIES[0] <= value <= _DENSITIES[1] for value in scores):
            suspect.append(f"{region} ({len(scores)} values from {min(scores)} to {max(scores)})")
    if suspect:
        what = f"T-scores of a region all look like densities in g/cm2: {', '.join(suspect)}."
        yield failed("bmd-in-t-column", what, facts.export_name, "Map the T-score column in [dxa.columns].")
    else:
        yield passed("bmd-in-t-column", "No region's T-scores look like densities.", facts.export_name)


def check_z_for_t(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find Z-scores in the place of T-scores: from 60 on, T lies below Z."""
    pairs = [
        (patient, float(item.t_score - item.z_score))
        for patient in manifest.patients
        if patient.age_years is not None and patient.age_years >= _OLD
        for item in patient.measurements
        if item.t_score is not None and item.z_score is not None
    ]
    wrong = list(dict.fromkeys(patient.where for patient, difference in pairs if difference >= 0))
    above = sum(difference >= 0 for _, difference in pairs)
    if len(pairs) >= _ENOUGH and above > _MOSTLY * len(pairs):
        what = (
            f"In {above} of {len(pairs)} measurements from {_OLD} years the T-score is not below the Z-score."
        )
        mend = "The columns are exchanged, or one is a copy of the other: check [dxa.columns]."
        yield failed("z-for-t", what, places(wrong), mend)
    else:
        yield passed("z-for-t", "T-scores lie below Z-scores, as they must in old age.", facts.export_name)


def check_t_against_density(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find T-scores that do not follow from the density: single rows, or a column that is something else.

    Within one region, sex and densitometer T is (density - mean) / SD of a reference: a straight line.
    """
    off: list[Located] = []
    judged, columns = 0, []
    for name, found in _comparable(manifest.patients).items():
        density, score = _columns(found)
        slope, intercept = _robust_line(density, score)
        distance = np.abs(score - slope * density - intercept)
        judged += len(found)
        near = distance <= _FIT_RANGE
        if slope <= 0 or near.mean() < _NEAR or _explained(density[near], score[near]) < _EXPLAINED:
            columns.append(name)
        else:
            off += [one for one, is_near in zip(found, near, strict=True) if not is_near]
    yield _columns_finding(columns, facts)
    yield _rows_finding(off, judged, facts)


def _columns_finding(columns: list[str], facts: SiteFacts) -> Finding:
    check = "t-not-from-density"
    if not columns:
        return passed(check, "T-scores rise with density as one reference makes them.", facts.export_name)
    what = f"T-scores do not follow from the densities beside them: {', '.join(columns)}."
    mend = "The T-score column may hold Z-scores, or two reference populations were mixed: check the export."
    return warned(check, what, facts.export_name, mend)


def _rows_finding(off: list[Located], judged: int, facts: SiteFacts) -> Finding:
    check = "t-contradicts-density"
    if not off:
        return passed(check, f"{judged} T-scores agree with their densities.", facts.export_name)
    patient, item = off[0]
    what = (
        f"{len(off)} T-scores contradict the density beside them. The first: patient {patient.patient_id}, "
        f"{item.site.words} {item.t_score} at {item.bmd} g/cm2."
    )
    where = places([one.where for one, _ in off])
    mend = "Look both up in the DXA report and correct the wrong one."
    return Finding(check=check, verdict=by_share(len(off), judged), what=what, where=where, mend=mend)


def check_body_size(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find weights in pounds, which single values do not betray."""
    sizes = [item.bmi for item in manifest.patients if item.bmi is not None]
    if len(sizes) >= _ENOUGH and not _BMI_MEDIAN[0] <= median(sizes) <= _BMI_MEDIAN[1]:
        what = f"Half of the patients have a body mass index of {median(sizes):.0f} kg/m2 or more."
        if median(sizes) < _BMI_MEDIAN[0]:
            what = f"Half of the patients have a body mass index of {median(sizes):.0f} kg/m2 or less."
        mend = "Height is wanted in cm and weight in kg (1 kg is 2.2 lb): check the columns' units."
        yield failed("bmi-unit", what, facts.export_name, mend)
    else:
        yield passed("bmi-unit", "Body sizes look like centimetres and kilograms.", facts.export_name)


def check_same_scan(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find one examination under two patients: equal sex, age, body size and densities."""
    owners: dict[tuple[object, ...], list[DxaPatient]] = defaultdict(list)
    for patient in manifest.patients:
        values = tuple(sorted((item.region, item.t_score, item.bmd) for item in _measured(patient)))
        if len(values) >= _SAME_VALUES:
            owners[patient.sex, patient.age_years, patient.bmi, values].append(patient)
    same = [group for group in owners.values() if len(group) > 1]
    if same:
        first = " and ".join(item.patient_id for item in same[0])
        what = f"{patients(sum(map(len, same)))} with the very scan of another; the first are {first}."
        mend = "Keep the identifier that is right; one person under two may be in training and test at once."
        yield failed("same-scan-two-ids", what, places([group[0].where for group in same]), mend)
    else:
        yield passed("same-scan-two-ids", "No examination stands under two patients.", facts.export_name)


def _measured(patient: DxaPatient) -> Iterable[Measurement]:
    return (item for item in patient.measurements if item.t_score is not None and item.bmd is not None)


def _by_region(everybody: Iterable[DxaPatient]) -> Mapping[str, list[Located]]:
    groups: dict[str, list[Located]] = defaultdict(list)
    for patient in everybody:
        for item in patient.measurements:
            groups[item.region].append((patient, item))
    return groups


def _comparable(everybody: Iterable[DxaPatient]) -> Mapping[str, list[Located]]:
    """Measurements with both values by region, sex and densitometer, where there are enough of them."""
    groups: dict[str, list[Located]] = defaultdict(list)
    for patient in everybody:
        for item in _measured(patient):
            name = " ".join(filter(None, (item.region, patient.sex or "", patient.device)))
            groups[name].append((patient, item))
    return {name: found for name, found in groups.items() if len(found) >= _ENOUGH}


def _columns(found: list[Located]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Densities (N,) and T-scores (N,)."""
    density = np.array([float(item.bmd or 0) for _, item in found])
    score = np.array([float(item.t_score or 0) for _, item in found])
    return density, score


_MOST_PAIRS = 200


def _robust_line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept that a quarter of wrong points does not move (Theil 1950, Sen 1968), from 200 points."""
    chosen = np.unique(np.linspace(0, len(x) - 1, min(len(x), _MOST_PAIRS)).round().astype(int))
    x, y = x[chosen], y[chosen]
    across, up = x[:, None] - x, y[:, None] - y
    apart = across > 0
    if not apart.any():
        return 0.0, float(np.median(y))
    slope = float(np.median(up[apart] / across[apart]))
    return slope, float(np.median(y - slope * x))


def _explained(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Squared correlation; 0 where one of them does not vary."""
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1] ** 2)
