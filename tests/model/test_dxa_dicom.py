"""DICOM structured reports, built with pydicom, give the same records as CSV."""

from decimal import Decimal

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from face2bone_model.contract.errors import InputError
from face2bone_model.data.dxa import read_dxa
from face2bone_model.data.site_settings import DxaSettings
from face2bone_model.data.skeletal_site import SkeletalSite


def code(value, meaning, scheme="99TEST"):
    item = Dataset()
    item.CodeValue, item.CodeMeaning, item.CodingSchemeDesignator = value, meaning, scheme
    return item


def item(kind, concept, *children):
    content = Dataset()
    content.RelationshipType = "CONTAINS"
    content.ValueType = kind
    content.ConceptNameCodeSequence = [concept]
    if children:
        content.ContentSequence = list(children)
    return content


def container(name, *children):
    return item("CONTAINER", code("x", name), *children)


def text(name, value):
    content = item("TEXT", code("x", name))
    content.TextValue = value
    return content


def coded(name, value):
    content = item("CODE", name)
    content.ConceptCodeSequence = [value]
    return content


def num(concept, value, *modifiers, unit="1"):
    content = item("NUM", concept if isinstance(concept, Dataset) else code("x", concept), *modifiers)
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = [code(unit, unit, "UCUM")]
    content.MeasuredValueSequence = [measured]
    return content


FINDING_SITE = code("363698007", "Finding Site", "SCT")
NECK = code("29627003", "Structure of neck of femur", "SCT")
SIDE = code("272741003", "Laterality", "SCT")
LEFT, RIGHT = code("7771000", "Left", "SCT"), code("24028007", "Right", "SCT")


def save(path, *content, sop_class=EnhancedSRStorage, **header):
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = sop_class, generate_uid()
    fields = {
        "PatientID": "P1",
        "PatientSex": "F",
        "PatientAge": "067Y",
        "PatientSize": "1.60",
        "PatientWeight": "64",
        "StudyDate": "20240501",
        "ManufacturerModelName": "Prodigy",
    }
    for name, value in (fields | header).items():
        setattr(report, name, value)
    report.ValueType = "CONTAINER"
    report.ConceptNameCodeSequence = [code("x", "DXA Bone Density Total Report")]
    if content:
        report.ContentSequence = list(content)
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.save_as(path, enforce_file_format=True)


def read(tmp_path, *content, **header):
    save(tmp_path / "report.dcm", *content, **header)
    return read_dxa(tmp_path, DxaSettings(file="report.dcm", format="dicom-sr"))


def measured(result):
    return [(m.site, m.t_score) for m in result.patients[0].measurements]


def test_a_report_of_nested_containers_becomes_one_record(tmp_path):
    spine = container(
        "AP Spine",
        container(
            "L1-L4", num("T-score", "-2.50"), num("Z-score", "-1.1"), num("BMD", "0.801", unit="g/cm2")
        ),
    )
    femur = container(
        "Left Femur", container("Neck", num("T-score", "-1.9")), container("Total", num("T-score", "-1.2"))
    )
    menopause = coded(code("111539", "Menopausal phase", "DCM"), code("76498008", "Postmenopausal", "SCT"))
    result = read(tmp_path, spine, femur, menopause)
    (patient,) = result.patients
    assert (patient.patient_id, patient.sex, patient.age_years) == ("P1", "female", 67)
    assert (patient.menopause, patient.device) == ("postmenopausal", "Prodigy")
    assert patient.bmi == pytest.approx(25.0)
    assert measured(result) == [
        (SkeletalSite.LUMBAR_SPINE, Decimal("-2.50")),
        (SkeletalSite.FEMORAL_NECK, Decimal("-1.9")),
        (SkeletalSite.TOTAL_HIP, Decimal("-1.2")),
    ]
    spine_record = patient.measurements[0]
    assert (spine_record.z_score, spine_record.bmd) == (Decimal("-1.1"), Decimal("0.801"))
    assert result.problems == ()


def test_loinc_codes_with_finding_site_and_laterality_are_understood(tmp_path):
    femur = code("38263-0", "Femur DXA T-score", "LN")
    result = read(
        tmp_path,
        num(code("38267-1", "Lumbar spine DXA T-score", "LN"), "-2.4"),
        num(femur, "-1.0", coded(FINDING_SITE, NECK), coded(SIDE, LEFT)),
        num(femur, "-2.6", coded(FINDING_SITE, NECK), coded(SIDE, RIGHT)),
        sop_class=ComprehensiveSRStorage,
    )
    assert measured(result) == [
        (SkeletalSite.LUMBAR_SPINE, Decimal("-2.4")),
        (SkeletalSite.FEMORAL_NECK, Decimal("-1.0")),
        (SkeletalSite.FEMORAL_NECK, Decimal("-2.6")),
    ]


def test_a_region_may_stand_in_a_text_or_in_the_name_of_the_number(tmp_path):
    result = read(
        tmp_path,
        container("Results", text("Region", "L1-L4"), num("T-score", "-2.4")),
        num("Femoral Neck T-score", "-1.0"),
    )
    assert [site for site, _ in measured(result)] == [SkeletalSite.LUMBAR_SPINE, SkeletalSite.FEMORAL_NECK]


def test_a_single_vertebra_wards_triangle_and_numbers_of_other_kinds_are_no_diagnosis(tmp_path):
    result = read(
        tmp_path,
        container("AP Spine", container("L2", num("T-score", "-4"))),
        container(
            "Left Femur", container("Ward's", num("T-score", "-4")), container("Neck", num("T-score", "-1"))
        ),
        container("Somewhere", num("T-score", "-5")),
        num("Fracture risk", "12"),
    )
    assert [(m.site, m.vertebrae, m.t_score) for m in result.patients[0].measurements] == [
        (SkeletalSite.LUMBAR_SPINE, (2,), Decimal(-4)),
        (SkeletalSite.FEMORAL_NECK, (), Decimal(-1)),
    ]
    assert ["not a diagnostic site" in p.what for p in result.problems] == [True, False]


@pytest.mark.parametrize(
    ("value", "unit", "sentence"), [("25", "1", "outside -8 to +6"), ("0.889", "g/cm2", "bone density")]
)
def test_what_is_no_t_score_is_refused(tmp_path, value, unit, sentence):
    result = read(tmp_path, container("AP Spine", num("T-score", value, unit=unit)))
    assert result.problems[0].where == "report.dcm"
    assert sentence in result.problems[0].what
    assert result.patients[0].measurements[0].unreadable


def test_the_age_comes_from_the_birth_date_if_it_is_not_given(tmp_path):
    result = read(tmp_path, num("Femoral Neck T-score", "-1"), PatientAge="", PatientBirthDate="19570601")
    assert result.patients[0].age_years == 66


def test_files_of_a_folder_that_are_no_reports_are_named_and_the_rest_goes_on(tmp_path):
    folder = tmp_path / "sr"
    folder.mkdir()
    (folder / "a.txt").write_text("no DICOM")
    save(folder / "b.dcm", sop_class=SecondaryCaptureImageStorage)
    save(folder / "c.dcm", num("Femoral Neck T-score", "-1"), PatientID="")
    save(folder / "d.dcm", num("Femoral Neck T-score", "-1"))
    save(folder / "e.dcm", num("Femoral Neck T-score", "-1"))
    result = read_dxa(tmp_path, DxaSettings(file="sr", format="dicom-sr"))
    assert [p.where for p in result.problems] == ["sr/a.txt", "sr/b.dcm", "sr/c.dcm", "sr/e.dcm"]
    said = " ".join(p.what for p in result.problems)
    for part in ("not a DICOM file", "Secondary Capture", "names no patient", "repeats sr/d.dcm"):
        assert part in said
    assert [patient.patient_id for patient in result.patients] == ["P1"]


def test_menopause_is_known_by_its_code_and_not_taken_from_an_age(tmp_path):
    phase = coded(
        code("111539", "Menopausal phase", "DCM"), code("76498008", "Nach den Wechseljahren", "SCT")
    )
    result = read(tmp_path, text("Age at menopause", "51"), phase, num("Femoral Neck T-score", "-1"))
    assert result.patients[0].menopause == "postmenopausal"
    assert result.problems == ()
    unknown = read(tmp_path, text("Menopausal phase", "perhaps"), num("Femoral Neck T-score", "-1"))
    assert unknown.patients[0].menopause is None
    assert unknown.problems[0].what == "Menopause is 'perhaps', which [dxa.values] does not list."


def test_a_report_that_breaks_the_standard_is_named_and_the_rest_goes_on(tmp_path):
    folder = tmp_path / "sr"
    folder.mkdir()
    save(folder / "bad.dcm", ContentSequence=[])
    raw = (folder / "bad.dcm").read_bytes()
    # the empty content sequence (0040,A730) SQ becomes four bytes of unknown kind
    head = bytes.fromhex("400030a7") + b"SQ\x00\x00" + bytes(4)
    assert head in raw
    (folder / "bad.dcm").write_bytes(raw.replace(head, bytes.fromhex("400030a7") + b"LO\x04\x00" + b"text"))
    save(folder / "good.dcm", num("Femoral Neck T-score", "-1"))
    result = read_dxa(tmp_path, DxaSettings(file="sr", format="dicom-sr"))
    assert [(p.where, p.what) for p in result.problems] == [
        ("sr/bad.dcm", "The report is not formed as DICOM says; it is not used.")
    ]
    assert [patient.patient_id for patient in result.patients] == ["P1"]


def test_a_folder_without_reports_is_refused(tmp_path):
    (tmp_path / "sr").mkdir()
    with pytest.raises(InputError, match="no usable row"):
        read_dxa(tmp_path, DxaSettings(file="sr", format="dicom-sr"))
