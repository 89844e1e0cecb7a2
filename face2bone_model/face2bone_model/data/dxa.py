"""From a DXA export in any format to one record a patient.

Rules:
    - Rows that say the same are merged, with a note.
    - Of several scan dates the latest with a diagnostic region is used, with a note: the class describes the
      patient as she is, and earlier scans may precede treatment. The lowest of all dates would mix the two.
    - A patient whose rows contradict each other (sex; age, menopause or a T-score of the same scan) is left
      out: which row is right cannot be known here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import TypeVar

from face2bone_model.contract.errors import InputError
from face2bone_model.data.csv_export import read_csv
from face2bone_model.data.dicom_sr import read_dicom_sr
from face2bone_model.data.dxa_row import DxaExport, DxaRow, Measurement, Menopause, Sex
from face2bone_model.data.fhir import read_fhir
from face2bone_model.data.problem import LeftOut, Problem, Reason
from face2bone_model.data.site_settings import DxaSettings
from face2bone_model.data.skeletal_site import SkeletalSite

Fact = TypeVar("Fact")

_BMI_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class DxaPatient:
    """One patient at one examination. None means: the export does not say."""

    patient_id: str
    where: str
    """The first row about the patient."""
    sex: Sex | None
    age_years: int | None
    """At the scan."""
    menopause: Menopause | None = None
    bmi: float | None = None
    scan_date: date | None = None
    device: str = ""
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DxaPatients:
    """All patients of an export, those left out by contradictions, and what was noted on the way."""

    patients: tuple[DxaPatient, ...]
    left_out: tuple[LeftOut, ...]
    problems: tuple[Problem, ...]


def read_dxa(site_folder: Path, dxa: DxaSettings) -> DxaPatients:
    """Read the export named in `site.toml` and merge its rows by patient.

    Raises:
        InputError: the export is missing, empty, or does not fit its settings as a whole.
        SettingsError: a needed column is not mapped.
    """
    path = site_folder / dxa.file
    if not path.exists():
        files = ", ".join(sorted(item.name for item in site_folder.iterdir() if item.is_file())) or "no file"
        raise InputError(f"{path} does not exist; the folder holds {files}.", "Set [dxa] file in site.toml.")
    export = _reader(dxa)(path, dxa)
    if not export.rows:
        first = f" The first problem: {export.problems[0].what}" if export.problems else ""
        raise InputError(
            f"{dxa.file} holds no usable row.{first}",
            f"Check that it is a {dxa.format} export of DXA results.",
        )
    merged = merge_rows(export.rows)
    return DxaPatients(
        patients=merged.patients, left_out=merged.left_out, problems=(*export.problems, *merged.problems)
    )


def merge_rows(rows: Iterable[DxaRow]) -> DxaPatients:
    """One record a patient, in the order of first appearance."""
    by_patient: dict[str, list[DxaRow]] = {}
    for row in rows:
        by_patient.setdefault(row.patient_id, []).append(row)
    patients: list[DxaPatient] = []
    left_out: list[LeftOut] = []
    problems: list[Problem] = []
    for patient_id, own in by_patient.items():
        try:
            patients.append(_merge_patient(own, problems))
        except _ContradictionError as contradiction:
            problem = Problem(contradiction.where, contradiction.what, contradiction.mend)
            left_out.append(LeftOut(patient_id=patient_id, reason=Reason.CONTRADICTING, problem=problem))
    return DxaPatients(patients=tuple(patients), left_out=tuple(left_out), problems=tuple(problems))


class _ContradictionError(Exception):
    """Two rows of one patient that cannot both be true."""

    def __init__(
        self, first: DxaRow, second: DxaRow, what: str, mend: str = "Correct one of the rows."
    ) -> None:
        super().__init__(what)
        self.where = second.where
        self.what = f"Patient {second.patient_id}: {what} contradicts {first.where}; the patient is left out."
        self.mend = mend


def _reader(dxa: DxaSettings) -> Callable[[Path, DxaSettings], DxaExport]:
    return {"csv-long": read_csv, "csv-wide": read_csv, "fhir": read_fhir, "dicom-sr": read_dicom_sr}[
        dxa.format
    ]


def _merge_patient(rows: Sequence[DxaRow], problems: list[Problem]) -> DxaPatient:
    distinct = _without_repeats(rows, problems)
    sex: Sex | None = _agreed(distinct, "sex", lambda row: row.sex)
    exam = _latest_exam(distinct, problems)
    return DxaPatient(
        patient_id=rows[0].patient_id,
        where=rows[0].where,
        sex=sex,
        age_years=_agreed(exam, "age", lambda row: row.age_years),
        menopause=_agreed(exam, "menopause", lambda row: row.menopause),
        bmi=_body_mass_index(exam, problems),
        scan_date=next((row.scan_date for row in exam if row.scan_date), None),
        device=next((row.device for row in exam if row.device), ""),
        measurements=_measurements(exam),
    )


def _without_repeats(rows: Sequence[DxaRow], problems: list[Problem]) -> list[DxaRow]:
    """Rows without a measurement carry only facts about the patient; many of them may be alike."""
    distinct: list[DxaRow] = []
    for row in rows:
        first = next((earlier for earlier in distinct if row.measurements and earlier == row), None)
        if first is None:
            distinct.append(row)
        else:
            what = f"Patient {row.patient_id}: the row repeats {first.where}."
            problems.append(Problem(row.where, what, "Merged; nothing to do."))
    return distinct


def _latest_exam(rows: Sequence[DxaRow], problems: list[Problem]) -> list[DxaRow]:
    """Rows of the latest dated scan, and rows without date and measurement, which describe the patient."""
    scans = sorted({row.scan_date for row in rows if row.scan_date and row.measurements})
    if not scans:
        return list(rows)
    latest = scans[-1]
    if len(scans) > 1:
        what = (
            f"Patient {rows[0].patient_id} was scanned on {len(scans)} days; the latest, {latest}, is used."
        )
        problems.append(Problem(rows[0].where, what, "Nothing to do."))
    undated = next((row for row in rows if row.measurements and row.scan_date is None), None)
    if undated is not None:
        what = f"Patient {undated.patient_id}: the row has no scan date, others have; it is not used."
        problems.append(Problem(undated.where, what, "Fill in the scan date."))
    return [
        row for row in rows if row.scan_date == latest or (row.scan_date is None and not row.measurements)
    ]


def _agreed(rows: Sequence[DxaRow], name: str, fact: Callable[[DxaRow], Fact | None]) -> Fact | None:
    """The one value that the rows give, or None if none does."""
    stated = [(row, value) for row in rows if (value := fact(row)) is not None]
    for row, value in stated:
        if value != stated[0][1]:
            raise _ContradictionError(stated[0][0], row, f"{name} {value}")
    return stated[0][1] if stated else None


def _body_mass_index(rows: Sequence[DxaRow], problems: list[Problem]) -> float | None:
    """BMI is a minor input: contradiction costs the value, not the patient."""
    stated = [(row.where, row.bmi) for row in rows if row.bmi is not None]
    if not stated:
        return None
    where, value = max(stated, key=lambda item: abs(item[1] - stated[0][1]))
    if abs(value - stated[0][1]) > _BMI_TOLERANCE:
        what = f"Patient {rows[0].patient_id}: height or weight contradicts {stated[0][0]}; BMI is taken as not known."
        problems.append(Problem(where, what, "Correct one of the rows."))
        return None
    return stated[0][1]


def _measurements(rows: Sequence[DxaRow]) -> tuple[Measurement, ...]:
    """One measurement a region; T, Z and BMD may come in rows of their own."""
    seen: dict[tuple[str, str], tuple[DxaRow, Measurement]] = {}
    for row in rows:
        for item in row.measurements:
            first_row, first = seen.get((item.site, item.region), (row, item))
            if None not in (first.t_score, item.t_score) and first.t_score != item.t_score:
                two_hips = "; if they are two hips, map side or scan_type in [dxa.columns]"
                hint = "" if item.site is SkeletalSite.LUMBAR_SPINE else two_hips
                what = f"T-score {item.t_score} of the {item.site.words}"
                raise _ContradictionError(first_row, row, what, f"Correct one of the rows{hint}.")
            seen[item.site, item.region] = (first_row, _joined(first, item))
    return tuple(item for _, item in seen.values())


def _joined(first: Measurement, second: Measurement) -> Measurement:
    return replace(
        first,
        t_score=second.t_score if first.t_score is None else first.t_score,
        z_score=second.z_score if first.z_score is None else first.z_score,
        bmd=second.bmd if first.bmd is None else first.bmd,
        unreadable=first.unreadable or second.unreadable,
    )
