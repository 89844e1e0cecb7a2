"""DXA exports in the three shapes hospitals really have, and the `[dxa]` tables of `site.toml` that describe them."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from face2bone_model.data.synthetic.records import DxaRecord, Reading
from face2bone_model.data.synthetic.styles import ExportFormat

FILES: dict[ExportFormat, str] = {
    "csv-long": "dxa_export.csv",
    "csv-wide": "densitometrie.csv",
    "fhir": "bundle.json",
}

_LONG_REGIONS = {
    "lumbar_spine": "L1-L4",
    "femoral_neck": "Neck",
    "total_hip": "Total",
    "wards": "Wards",
    "single_vertebra": "L3",
}
_LONG_COLUMNS = (
    "PatientID",
    "Sex",
    "Age",
    "Menopause",
    "Height_cm",
    "Weight_kg",
    "ScanDate",
    "Region",
    "BMD",
    "T_score",
    "Z_score",
    "Device",
)
_MENOPAUSE = {"postmenopausal": "post", "premenopausal": "pre", None: ""}

LONG_TABLE = """\
[dxa]
file = "dxa_export.csv"
format = "csv-long"
delimiter = ","
decimal = "."
encoding = "utf-8"

[dxa.columns]
patient = "PatientID"
sex = "Sex"
age = "Age"
menopause = "Menopause"
height_cm = "Height_cm"
weight_kg = "Weight_kg"
skeletal_site = "Region"
t_score = "T_score"
z_score = "Z_score"
bmd = "BMD"
device = "Device"

[dxa.values]
female = ["F", "Female"]
male = ["M", "Male"]
postmenopausal = ["post"]
premenopausal = ["pre"]
lumbar_spine = ["L1-L4"]
femoral_neck = ["Neck"]
total_hip = ["Total"]
"""


def write_long(records: Sequence[DxaRecord], path: Path) -> None:
    """Comma, decimal point, one row per region of interest, Hologic-like headings."""
    rows = [
        (
            record.patient_id,
            record.sex[:1].upper(),
            record.age_years,
            _MENOPAUSE[record.menopause],
            record.height_cm,
            record.weight_kg,
            record.scan_date.isoformat(),
            _LONG_REGIONS[reading.region],
            reading.bmd,
            reading.t,
            reading.z,
            record.device,
        )
        for record in records
        for reading in record.readings
    ]
    _write_csv(path, _LONG_COLUMNS, rows, delimiter=",", encoding="utf-8")


_WIDE_COLUMNS = (
    "Pat-Nr",
    "Geschlecht",
    "Geburtsdatum",
    "Untersuchung",
    "Menopause",
    "Größe (cm)",
    "Gewicht (kg)",
    "LWS L1-L4 BMD",
    "LWS L1-L4 T",
    "LWS L1-L4 Z",
    "Hals BMD",
    "Hals T",
    "Hals Z",
    "Hüfte ges. BMD",
    "Hüfte ges. T",
    "Hüfte ges. Z",
    "Ward T",
    "Gerät",
)
_WIDE_SEX = {"female": "w", "male": "m", "": ""}
_WIDE_MENOPAUSE = {"postmenopausal": "ja", "premenopausal": "nein", None: ""}

WIDE_TABLE = """\
[dxa]
file = "densitometrie.csv"
format = "csv-wide"
delimiter = ";"
decimal = ","
encoding = "cp1252"
date_format = "%d.%m.%Y"

[dxa.columns]
patient = "Pat-Nr"
sex = "Geschlecht"
birth_date = "Geburtsdatum"
scan_date = "Untersuchung"
menopause = "Menopause"
height_cm = "Größe (cm)"
weight_kg = "Gewicht (kg)"
device = "Gerät"
t_lumbar_spine = "LWS L1-L4 T"
t_femoral_neck = "Hals T"
t_total_hip = "Hüfte ges. T"
z_lumbar_spine = "LWS L1-L4 Z"
z_femoral_neck = "Hals Z"
z_total_hip = "Hüfte ges. Z"
bmd_lumbar_spine = "LWS L1-L4 BMD"
bmd_femoral_neck = "Hals BMD"
bmd_total_hip = "Hüfte ges. BMD"

[dxa.values]
female = ["w"]
male = ["m"]
postmenopausal = ["ja"]
premenopausal = ["nein"]
"""


def write_wide(records: Sequence[DxaRecord], path: Path) -> None:
    """Semicolon, decimal comma, Windows-1252, one row per patient, German headings as a GE console may print them."""
    _write_csv(
        path, _WIDE_COLUMNS, [_wide_row(record) for record in records], delimiter=";", encoding="cp1252"
    )


def _wide_row(record: DxaRecord) -> list[str]:
    found = {reading.region: reading for reading in record.readings}
    empty = Reading(region="", t="", z="", bmd="")
    spine, neck, hip, wards = (
        found.get(region, empty) for region in ("lumbar_spine", "femoral_neck", "total_hip", "wards")
    )
    row = [
        record.patient_id,
        _WIDE_SEX[record.sex],
        f"{record.birth_date:%d.%m.%Y}",
        f"{record.scan_date:%d.%m.%Y}",
        _WIDE_MENOPAUSE[record.menopause],
    ]
    numbers = [f"{record.height_cm}", f"{record.weight_kg}"]
    numbers += [text for reading in (spine, neck, hip) for text in (reading.bmd, reading.t, reading.z)]
    return [*row, *(text.replace(".", ",") for text in (*numbers, wards.t)), record.device]


def _write_csv(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]], *, delimiter: str, encoding: str
) -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow(header)
        writer.writerows(rows)


FHIR_TABLE = """\
[dxa]
file = "bundle.json"
format = "fhir"

[dxa.values]
postmenopausal = ["307429007"]
premenopausal = ["309606002"]
"""

_LOINC = "http://loinc.org"
_SNOMED = "http://snomed.info/sct"
_FHIR_REGIONS = {
    "lumbar_spine": ("38267-1", "24966-4", {"text": "L1-L4"}),
    "single_vertebra": ("38267-1", "24966-4", {"text": "L3"}),
    "femoral_neck": (
        "38263-0",
        "24701-5",
        {"coding": [{"system": _SNOMED, "code": "29627003"}], "text": "Neck of femur"},
    ),
    "total_hip": ("38264-8", "38261-4", {"text": "Total hip"}),
    "wards": ("38263-0", "24701-5", {"text": "Ward's triangle"}),
}
"""LOINC codes of T-score and BMD, and the body site, which alone tells neck from Ward's triangle."""
_MENOPAUSE_CODES = {
    "postmenopausal": ("307429007", "After menopause"),
    "premenopausal": ("309606002", "Before menopause"),
}


def write_fhir(records: Sequence[DxaRecord], path: Path) -> None:
    """A FHIR R4 Bundle of Patients and Observations; the T-score's unit is written in both of the ways in use."""
    entries = [
        {"resource": resource}
        for index, record in enumerate(records)
        for resource in _resources(record, index)
    ]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": entries}
    path.write_text(json.dumps(bundle, indent=1, ensure_ascii=False), encoding="utf-8")


def _resources(record: DxaRecord, index: int) -> list[dict[str, Any]]:
    person: dict[str, Any] = {"resourceType": "Patient", "id": record.patient_id}
    if record.sex:
        person["gender"] = record.sex
    person["birthDate"] = record.birth_date.isoformat()
    body = [("8302-2", record.height_cm, "cm"), ("29463-7", record.weight_kg, "kg")]
    found = [_quantity(record, f"{index}-{code}", code, str(value), unit) for code, value, unit in body]
    for number, reading in enumerate(record.readings):
        t_code, bmd_code, site = _FHIR_REGIONS[reading.region]
        t_unit = reading.t_unit or ("{T-score}" if index % 2 else "1")
        for code, text, unit in ((t_code, reading.t, t_unit), (bmd_code, reading.bmd, "g/cm2")):
            if text:
                found.append(
                    {**_quantity(record, f"{index}-{number}-{code}", code, text, unit), "bodySite": site}
                )
    if record.menopause:
        found.append(_menopause(record, index))
    return [person, *found]


def _observation(record: DxaRecord, name: str, system: str, code: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"obs-{name}",
        "status": "final",
        "code": {"coding": [{"system": system, "code": code}]},
        "subject": {"reference": f"Patient/{record.patient_id}"},
        "effectiveDateTime": record.scan_date.isoformat(),
    }


def _quantity(record: DxaRecord, name: str, code: str, text: str, unit: str) -> dict[str, Any]:
    quantity = {"value": float(text), "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    return {**_observation(record, name, _LOINC, code), "valueQuantity": quantity}


def _menopause(record: DxaRecord, index: int) -> dict[str, Any]:
    code, display = _MENOPAUSE_CODES[str(record.menopause)]
    value = {"coding": [{"system": _SNOMED, "code": code, "display": display}]}
    return {**_observation(record, f"{index}-menopause", _SNOMED, "161712005"), "valueCodeableConcept": value}


WRITERS: dict[ExportFormat, Callable[[Sequence[DxaRecord], Path], None]] = {
    "csv-long": write_long,
    "csv-wide": write_wide,
    "fhir": write_fhir,
}
TABLES: dict[ExportFormat, str] = {"csv-long": LONG_TABLE, "csv-wide": WIDE_TABLE, "fhir": FHIR_TABLE}
