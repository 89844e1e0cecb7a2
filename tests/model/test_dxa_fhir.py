"""FHIR exports give the same records as CSV; codes, body sites and units are not trusted blindly."""

import json
from datetime import date
from decimal import Decimal

import pytest

from face2bone_model.contract.errors import InputError
from face2bone_model.data.dxa import read_dxa
from face2bone_model.data.site_settings import DxaSettings
from face2bone_model.data.skeletal_site import SkeletalSite

PATIENT = {"resourceType": "Patient", "id": "P1", "gender": "female", "birthDate": "1957-03-02"}
SPINE, HIP, FEMUR, FEMUR_LEFT, RADIUS, SPINE_Z = (
    "38267-1",
    "38264-8",
    "38263-0",
    "80948-3",
    "38265-5",
    "85394-5",
)


def coded(
    code,
    value,
    *,
    site=None,
    unit="{T-score}",
    patient="Patient/P1",
    when="2024-05-01T08:30:00+08:00",
    **more,
):
    return {
        "resourceType": "Observation",
        "id": f"{code}-{value}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "subject": {"reference": patient},
        "effectiveDateTime": when,
        "valueQuantity": {"value": value, "unit": unit} if unit else {"value": value},
        **({"bodySite": site} if site else {}),
        **more,
    }


def snomed(code, text=None):
    site = {"coding": [{"system": "http://snomed.info/sct", "code": code}]}
    return site | ({"text": text} if text else {})


def bundle(*resources):
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": item} for item in resources],
    }


def read(tmp_path, *resources, **settings):
    (tmp_path / "dxa.json").write_text(json.dumps(bundle(*resources)))
    return read_dxa(tmp_path, DxaSettings(file="dxa.json", format="fhir", **settings))


def measured(result):
    (patient,) = result.patients
    return [(item.site, item.t_score) for item in patient.measurements]


def test_a_bundle_becomes_one_record_a_patient(tmp_path):
    menopause = {
        "resourceType": "Condition",
        "id": "c1",
        "subject": {"reference": "Patient/P1"},
        "code": {"coding": [{"system": "http://snomed.info/sct", "code": "76498008"}]},
    }
    height = coded("8302-2", 160, unit="cm")
    weight = coded("29463-7", 64000, unit="g")
    result = read(
        tmp_path,
        PATIENT,
        menopause,
        height,
        weight,
        coded(SPINE, -2.5, device={"display": "Prodigy"}),
        coded(SPINE_Z, -1.2, unit="{Z-score}"),
        coded(FEMUR, -1.9, site=snomed("29627003")),
        coded(HIP, -1.25),
    )
    (patient,) = result.patients
    assert (patient.sex, patient.age_years, patient.menopause) == ("female", 67, "postmenopausal")
    assert patient.bmi == pytest.approx(25.0)
    assert (patient.device, patient.scan_date) == ("Prodigy", date(2024, 5, 1))
    assert measured(result) == [
        (SkeletalSite.LUMBAR_SPINE, Decimal("-2.5")),
        (SkeletalSite.FEMORAL_NECK, Decimal("-1.9")),
        (SkeletalSite.TOTAL_HIP, Decimal("-1.25")),
    ]
    assert patient.measurements[0].z_score == Decimal("-1.2")
    assert result.problems == ()


@pytest.mark.parametrize("unit", ["{T-score}", "{T-Score}", "1", None, "T-score", "{SD}"])
def test_the_units_of_a_score_are_accepted(tmp_path, unit):
    assert measured(read(tmp_path, PATIENT, coded(SPINE, -2.5, unit=unit)))[0][1] == Decimal("-2.5")


@pytest.mark.parametrize(
    ("value", "unit", "sentence"),
    [
        (0.889, "g/cm2", "T-score of the lumbar spine is given as 0.889 g/cm2, which is a bone density."),
        (0.889, "g/cm-2", "bone density"),
        (-2.5, "mm", "given in 'mm'"),
        (25, "1", "T-score of the lumbar spine is 25, outside -8 to +6."),
        ("low", "1", "not a number"),
    ],
)
def test_a_density_or_nonsense_under_a_t_score_code_is_refused(tmp_path, value, unit, sentence):
    result = read(tmp_path, PATIENT, coded(SPINE, value, unit=unit), coded(HIP, -1))
    (problem,) = result.problems
    assert problem.where == f"dxa.json Observation/{SPINE}-{value}"
    assert sentence in problem.what
    assert [item.unreadable for item in result.patients[0].measurements] == [True, False]


@pytest.mark.parametrize(
    ("code", "site", "expected"),
    [
        (FEMUR, snomed("29627003"), SkeletalSite.FEMORAL_NECK),
        (HIP, {"text": "Left femoral neck"}, SkeletalSite.FEMORAL_NECK),
        (FEMUR_LEFT, {"text": "Left Femur Total"}, SkeletalSite.TOTAL_HIP),
        (FEMUR_LEFT, snomed("71341001:272741003=7771000", "Left Femur"), SkeletalSite.FEMUR_UNSPECIFIED),
        (FEMUR, snomed("71341001", "Neck of left femur"), SkeletalSite.FEMORAL_NECK),
        (FEMUR, None, SkeletalSite.FEMUR_UNSPECIFIED),
        (HIP, None, SkeletalSite.TOTAL_HIP),
        (HIP, snomed("29836001"), SkeletalSite.TOTAL_HIP),
        (SPINE, snomed("122496007"), SkeletalSite.LUMBAR_SPINE),
        (RADIUS, {"text": "Left 33% radius"}, SkeletalSite.RADIUS_33),
    ],
)
def test_code_and_body_site_together_give_the_region(tmp_path, code, site, expected):
    assert measured(read(tmp_path, PATIENT, coded(code, -1.5, site=site))) == [(expected, Decimal("-1.5"))]


@pytest.mark.parametrize(
    ("code", "site"),
    [
        (FEMUR, {"text": "Ward's triangle"}),
        (FEMUR, {"text": "Trochanter"}),
        (RADIUS, None),
        ("38266-3", None),
    ],
)
def test_regions_that_are_not_diagnostic_are_noted_and_not_used(tmp_path, code, site):
    result = read(tmp_path, PATIENT, coded(code, -3, site=site), coded(HIP, -1))
    assert measured(result) == [(SkeletalSite.TOTAL_HIP, Decimal(-1))]
    assert "is not used" in result.problems[0].what


@pytest.mark.parametrize(
    ("code", "site"), [(SPINE, snomed("29627003")), (SPINE, snomed("29836001")), (HIP, snomed("122496007"))]
)
def test_a_code_that_contradicts_its_body_site_is_refused(tmp_path, code, site):
    result = read(tmp_path, PATIENT, coded(code, -3, site=site), coded(FEMUR, -1, site=snomed("29627003")))
    assert measured(result) == [(SkeletalSite.FEMORAL_NECK, Decimal(-1))]
    assert "The code says" in result.problems[0].what


def test_left_and_right_hip_are_two_measurements(tmp_path):
    result = read(tmp_path, PATIENT, coded("80946-7", -1.0), coded("80945-9", -2.6))
    assert [score for _, score in measured(result)] == [Decimal("-1.0"), Decimal("-2.6")]


def test_components_of_a_panel_are_read(tmp_path):
    panel = coded("83311-1", 0)
    del panel["valueQuantity"]
    panel["component"] = [
        {"code": coded(SPINE, 0)["code"], "valueQuantity": {"value": -2.4, "code": "1"}},
        {"code": coded(HIP, 0)["code"], "dataAbsentReason": {"text": "not done"}},
        {
            "code": {"coding": [{"system": "http://loinc.org", "code": "24966-4"}]},
            "valueQuantity": {"value": 0.9},
        },
    ]
    result = read(tmp_path, PATIENT, panel)
    assert measured(result) == [(SkeletalSite.LUMBAR_SPINE, Decimal("-2.4"))]
    assert result.patients[0].measurements[0].bmd == Decimal("0.9")


def test_ndjson_files_of_a_folder_are_one_export_and_a_broken_line_is_named(tmp_path):
    folder = tmp_path / "bulk"
    folder.mkdir()
    (folder / "Patient.ndjson").write_text(json.dumps(PATIENT) + "\n")
    lines = [json.dumps(coded(SPINE, -2.5)), "{broken", json.dumps(coded(HIP, -1))]
    (folder / "Observation.ndjson").write_text("\n".join(lines))
    (folder / "notes.txt").write_text("not read")
    result = read_dxa(tmp_path, DxaSettings(file="bulk", format="fhir"))
    assert len(measured(result)) == 2
    assert result.problems[0].where == "Observation.ndjson row 2"
    assert "not JSON" in result.problems[0].what


def test_references_by_url_and_version_find_their_patient(tmp_path):
    body = bundle(
        PATIENT,
        coded(SPINE, -2.5, patient="urn:uuid:1"),
        coded(HIP, -1, patient="http://x/fhir/Patient/P1/_history/2"),
    )
    body["entry"][0]["fullUrl"] = "urn:uuid:1"
    (tmp_path / "dxa.json").write_text(json.dumps(body))
    result = read_dxa(tmp_path, DxaSettings(file="dxa.json", format="fhir"))
    assert len(measured(result)) == 2


def test_an_observation_without_its_patient_is_named(tmp_path):
    result = read(tmp_path, PATIENT, coded(SPINE, -2.5), coded(HIP, -1, patient="Patient/other"))
    assert "'Patient/other'" in result.problems[0].what


def test_the_hospital_number_can_be_an_identifier(tmp_path):
    patient = PATIENT | {"identifier": [{"system": "urn:mrn", "value": "77"}]}
    stranger = PATIENT | {"id": "P2"}
    result = read(tmp_path, patient, stranger, coded(SPINE, -2.5), patient_identifier_system="urn:mrn")
    assert result.patients[0].patient_id == "77"
    assert "no identifier of system 'urn:mrn'" in result.problems[0].what


def test_void_observations_and_patients_without_dxa_are_passed_over(tmp_path):
    void = coded(SPINE, -4) | {"status": "entered-in-error"}
    result = read(tmp_path, PATIENT, PATIENT | {"id": "P2"}, void, coded(SPINE, -1))
    assert measured(result) == [(SkeletalSite.LUMBAR_SPINE, Decimal(-1))]


def test_a_malformed_observation_is_named_and_the_rest_goes_on(tmp_path):
    result = read(tmp_path, PATIENT, coded(SPINE, -2.5), coded(HIP, -1) | {"bodySite": ["hip"]})
    assert measured(result) == [(SkeletalSite.LUMBAR_SPINE, Decimal("-2.5"))]
    assert "not formed as FHIR says" in result.problems[0].what


def test_a_malformed_patient_is_named_and_the_rest_goes_on(tmp_path):
    malformed = PATIENT | {"id": "P2", "identifier": [7]}
    patient = PATIENT | {"identifier": [{"system": "urn:mrn", "value": "77"}]}
    result = read(tmp_path, malformed, patient, coded(SPINE, -2.5), patient_identifier_system="urn:mrn")
    assert result.problems[0].where == "dxa.json Patient/P2"
    assert [patient.patient_id for patient in result.patients] == ["77"]


@pytest.mark.parametrize(("birth", "age"), [("1957", 66), ("1957-05", 66), ("1957-05-01", 67)])
def test_a_birth_date_may_be_a_year_or_a_month(tmp_path, birth, age):
    assert read(tmp_path, PATIENT | {"birthDate": birth}, coded(SPINE, -1)).patients[0].age_years == age


def test_menopause_as_text_counts_only_where_the_topic_is_menopause(tmp_path):
    def said(topic):
        return {
            "resourceType": "Observation",
            "id": topic,
            "status": "final",
            "subject": {"reference": "Patient/P1"},
            "code": {"text": topic},
            "valueCodeableConcept": {"text": "pre"},
        }

    assert read(tmp_path, PATIENT, said("Exercise phase"), coded(SPINE, -1)).patients[0].menopause is None
    told = read(tmp_path, PATIENT, said("Menopausal state"), coded(SPINE, -1))
    assert told.patients[0].menopause == "premenopausal"


@pytest.mark.parametrize("text", ["{broken", "[]", '{"resourceType": "Bundle"}'])
def test_an_export_without_results_is_refused(tmp_path, text):
    (tmp_path / "dxa.json").write_text(text)
    with pytest.raises(InputError, match="no usable row"):
        read_dxa(tmp_path, DxaSettings(file="dxa.json", format="fhir"))
