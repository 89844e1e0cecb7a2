"""DXA exports as DICOM structured reports (Basic Text, Enhanced, Comprehensive), read with pydicom.

DICOM has no DXA template: GE enCORE and Hologic Apex each arrange their reports in their own way. Read is
whatever follows the common rules of structured reporting:
    - NUM items whose concept is a LOINC code of `data.loinc`, or whose name says T-score, Z-score or BMD;
    - their region from, in this order, the item's own modifiers (finding site, laterality), its name, and the
      containers around it with their site, region or laterality items;
    - patient, sex, age, size and weight from the header; menopausal state from an item named so.
Images, private elements and encapsulated PDF are not read. Verify the first reports by eye against the site
report.
"""

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from face2bone_model.data.coded_region import SNOMED_SIDES, SNOMED_SITES, coded_region
from face2bone_model.data.dxa_row import DxaExport, DxaRow, Measurement, Menopause
from face2bone_model.data.dxa_value import (
    BadValueError,
    age_on,
    age_years,
    attempt,
    body_mass_index,
    choice,
    day,
    is_missing,
    number,
    score,
)
from face2bone_model.data.loinc import DXA_CODES, Bone, Quantity
from face2bone_model.data.problem import Problem
from face2bone_model.data.region_names import RegionNames, menopause_options, sex_options
from face2bone_model.data.site_settings import DxaSettings
from face2bone_model.data.skeletal_site import normalised, side_in

if TYPE_CHECKING:
    from pydicom import Dataset

_SITE_CONCEPT = re.compile(r"\b(?:site|region|anatom\w*|laterality|side|scan type|roi)\b")
_MENOPAUSE = re.compile(r"^(?!.*\bage\b).*menopaus")
_QUANTITIES: tuple[tuple[re.Pattern[str], Quantity], ...] = (
    (re.compile(r"\bt[- ]?score"), "t_score"),
    (re.compile(r"\bz[- ]?score"), "z_score"),
    (re.compile(r"\bbmd\b|bone mineral density"), "bmd"),
)


def read_dicom_sr(path: Path, dxa: DxaSettings) -> DxaExport:
    """Read one report, or all reports below a folder. Other files become problems."""
    return _SrReader(path, dxa).read()


class _SrReader:
    """One pass over all files."""

    def __init__(self, path: Path, dxa: DxaSettings) -> None:
        self.path = path
        self.dxa = dxa
        self.names = RegionNames(dxa.values)
        self.problems: list[Problem] = []

    def read(self) -> DxaExport:
        files = (
            sorted(item for item in self.path.rglob("*") if item.is_file())
            if self.path.is_dir()
            else [self.path]
        )
        reports = (file for file in files if not file.name.startswith(".") and file.name != "DICOMDIR")
        rows = [self._guarded_row(file) for file in reports]
        found = tuple(row for row in rows if row is not None)
        return DxaExport(rows=found, problems=(*self.problems, *self.names.problems(self.path.name)))

    def _guarded_row(self, file: Path) -> DxaRow | None:
        where = file.name if file == self.path else file.relative_to(self.path.parent).as_posix()
        try:
            return self._row(file, where)
        except (
            AttributeError,
            TypeError,
            ValueError,
        ):  # elements of other kinds than the standard gives them
            what = "The report is not formed as DICOM says; it is not used."
            self.problems.append(Problem(where, what, "Export it again."))
            return None

    def _row(self, file: Path, where: str) -> DxaRow | None:
        report = attempt(self.problems, where, _open, file)
        if report is None:
            return None
        patient_id = str(report.get("PatientID", "")).strip()
        if not patient_id:
            self.problems.append(
                Problem(where, "The report names no patient; it is not used.", "Fill in Patient ID.")
            )
            return None
        sexes = sex_options(self.dxa.values)
        scan_date = attempt(self.problems, where, _scan_date, report)
        return DxaRow(
            where=where,
            patient_id=patient_id,
            sex=attempt(self.problems, where, choice, str(report.get("PatientSex") or ""), "Sex", sexes),
            age_years=attempt(self.problems, where, _age, report, scan_date),
            menopause=attempt(self.problems, where, self._menopause, report),
            bmi=attempt(self.problems, where, _bmi, report),
            scan_date=scan_date,
            device=str(report.get("ManufacturerModelName") or ""),
            measurements=tuple(self._measurements(report, where)),
        )

    def _menopause(self, report: "Dataset") -> Menopause | None:
        options = menopause_options(self.dxa.values)
        listed = {normalised(name) for theirs in options.values() for name in theirs}
        for item in _items(report):
            texts = _item_texts(item) if _MENOPAUSE.search(_concept(item)) else ()
            if texts:
                text = next((text for text in texts if normalised(text) in listed), texts[0])
                return choice(text, "Menopause", options)
        return None

    def _measurements(self, report: "Dataset", where: str) -> Iterator[Measurement]:
        for item, words in _numbers(report, _site_words(report)):
            measurement = attempt(self.problems, where, self._measurement, item, words, where)
            if measurement is not None:
                yield measurement

    def _measurement(self, item: "Dataset", words: tuple[str, ...], where: str) -> Measurement | None:
        meaning = _meaning(item)
        if meaning is None:
            return None
        quantity, bone, side = meaning
        region = coded_region(bone, words, self.names, where)
        if region is None:
            return None
        value = attempt(self.problems, where, _value, item, quantity, region.site.words)
        return Measurement(
            site=region.site,
            region=normalised(f"{region.site} {region.vertebrae} {side or side_in(' '.join(words))}"),
            vertebrae=region.vertebrae,
            unreadable=quantity == "t_score" and value is None and not is_missing(_numeric_text(item)),
            t_score=value if quantity == "t_score" else None,
            z_score=value if quantity == "z_score" else None,
            bmd=value if quantity == "bmd" else None,
        )


def _open(file: Path) -> "Dataset":
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        report = dcmread(file, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError) as error:
        raise BadValueError(
            "It is not a DICOM file; it is not used.", "Remove it, or export it again."
        ) from error
    if "ContentSequence" not in report:
        kind = report.get("SOPClassUID", "")
        name = getattr(kind, "name", "") or "a report without content"
        raise BadValueError(
            f"It is no structured report but {name}; it is not used.", "Export structured reports (SR)."
        )
    return report


def _scan_date(report: "Dataset") -> date | None:
    texts = (str(report.get(name) or "") for name in ("AcquisitionDate", "StudyDate", "ContentDate"))
    return day(next(filter(None, texts), ""), "Scan date")


def _age(report: "Dataset", scan_date: date | None) -> int | None:
    stated = age_years(str(report.get("PatientAge") or ""))
    if stated is not None:
        return stated
    birth = day(str(report.get("PatientBirthDate") or ""), "Birth date")
    return age_on(birth, scan_date) if birth and scan_date else None


def _bmi(report: "Dataset") -> float | None:
    metres, kilograms = (
        number(str(report.get(name) or ""), name) for name in ("PatientSize", "PatientWeight")
    )
    return body_mass_index(metres[0] * 100 if metres else None, kilograms[0] if kilograms else None)


def _items(parent: "Dataset") -> Iterator["Dataset"]:
    """All content items below `parent`, in order."""
    for child in parent.get("ContentSequence") or ():
        yield child
        yield from _items(child)


def _numbers(parent: "Dataset", words: tuple[str, ...]) -> Iterator[tuple["Dataset", tuple[str, ...]]]:
    """NUM items with the words that tell their region, innermost first."""
    for child in parent.get("ContentSequence") or ():
        inner = (*_site_words(child), _concept(child), *words)
        if child.get("ValueType") == "NUM":
            yield child, inner
        yield from _numbers(child, inner)


def _site_words(parent: "Dataset") -> tuple[str, ...]:
    """What the site, region and laterality items directly below `parent` say."""
    named = (item for item in parent.get("ContentSequence") or () if _SITE_CONCEPT.search(_concept(item)))
    return tuple(_spelt_out(text) for item in named for text in _item_texts(item)[:1])


def _spelt_out(text: str) -> str:
    return SNOMED_SITES.get(text) or SNOMED_SIDES.get(text) or text


def _concept(item: "Dataset") -> str:
    """The item's name, normalised; empty if it has none."""
    names = item.get("ConceptNameCodeSequence") or ()
    return normalised(str(names[0].get("CodeMeaning") or "")) if names else ""


def _item_texts(item: "Dataset") -> tuple[str, ...]:
    """Value of a CODE item (code, then meaning) or a TEXT item."""
    codes = item.get("ConceptCodeSequence") or ()
    if codes:
        code, meaning = str(codes[0].get("CodeValue") or ""), str(codes[0].get("CodeMeaning") or "")
        return (code, meaning) if code in SNOMED_SITES or code in SNOMED_SIDES else (meaning, code)
    text = str(item.get("TextValue") or "")
    return (text,) if text else ()


def _meaning(item: "Dataset") -> tuple[Quantity, Bone | None, str] | None:
    """Quantity, bone (if the code says) and side of a NUM item; None if it is not about bone density."""
    for concept in item.get("ConceptNameCodeSequence") or ():
        known = DXA_CODES.get(str(concept.get("CodeValue") or ""))
        if known is not None and concept.get("CodingSchemeDesignator") == "LN":
            return known.quantity, known.bone, known.side
    name = _concept(item)
    for pattern, quantity in _QUANTITIES:
        if pattern.search(name):
            return quantity, None, ""
    return None


def _numeric_text(item: "Dataset") -> str:
    values = item.get("MeasuredValueSequence") or ()
    return str(values[0].get("NumericValue") or "") if values else ""


def _value(item: "Dataset", quantity: Quantity, site: str) -> Decimal | None:
    text = _numeric_text(item)
    if quantity == "bmd":
        parsed = number(text, "BMD")
        return None if parsed is None else parsed[0]
    values = item.get("MeasuredValueSequence") or ()
    units = (values[0].get("MeasurementUnitsCodeSequence") or ()) if values else ()
    unit = str(units[0].get("CodeValue") or "") if units else ""
    return score(text, f"{'T' if quantity == 't_score' else 'Z'}-score of the {site}", unit=unit)
