"""From a site's folder to its cohort: photos joined with results, everyone accounted for."""

import json
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from face2bone_model.contract.errors import InputError, SettingsError
from face2bone_model.contract.keys import CLASSES, Split
from face2bone_model.data.manifest import Manifest, Problem, read_manifest

SITE_TOML = """
[site]
name = "harbour"
[photos]
folder = "photos"
pattern = "^(?P<patient>[A-Za-z0-9]+)"
[dxa]
file = "dxa_export.csv"
format = "csv-long"
delimiter = ","
decimal = "."
encoding = "utf-8"
t_reference_db = "NHANES III"
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
[labels]
normal_includes_minus_one = true
[weights]
folder = "weights"
"""
HEADING = "PatientID,Sex,Age,Menopause,Height_cm,Weight_kg,Region,T_score,Z_score,BMD,Device"


def row(patient, t, *, sex="F", age=67, menopause="post", region="Neck"):
    return f"{patient},{sex},{age},{menopause},160,64,{region},{t},,,Prodigy"


def make_site(folder: Path, rows, photos, toml=SITE_TOML) -> Path:
    """Photos are never decoded by the manifest, so any bytes will do; each name gives bytes of its own."""
    (folder / "photos").mkdir(parents=True)
    (folder / "site.toml").write_text(toml, encoding="utf-8")
    (folder / "dxa_export.csv").write_text("\n".join((HEADING, *rows)), encoding="utf-8")
    for photo in photos:
        name, content = photo if isinstance(photo, tuple) else (photo, photo)
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def told(problems: tuple[Problem, ...]) -> dict[str, str]:
    return {problem.where: f"{problem.what} {problem.mend}" for problem in problems}


@pytest.fixture
def mixed(tmp_path) -> Manifest:
    """One of everything that happens."""
    rows = [
        row("P1", "-1.0"),
        row("P2", "-2.5"),
        row("P3", "-1.7", sex="M", menopause=""),
        row("P4", "-3", menopause="pre"),
        row("P5", "-3", sex="M", age=45, menopause=""),
        row("P6", "25"),
        row("P7", "-1", sex=""),
        row("P8", "-2"),
        row("P8", "-2", sex="M"),
        row("P9", "-2"),
        row("P10", "-2"),
        row("P10", "-2"),
        row("0012", "-2"),
        row("P13", "-2", menopause=""),
    ]
    photos = [
        "P1_front.jpg",
        "P1_2.HEIC",
        "P2.png",
        "P3.tiff",
        "P4.jpg",
        "P10.webp",
        "12.jpg",
        "X1.bmp",
        "__.jpg",
        "notes.txt",
    ]
    photos += [
        ".P2.jpg",
        "below/P2_b.jpeg",
        ("P3_b.jpg", "same"),
        ("P10_b.jpg", "same"),
        ("P1_c.jpg", "P1_front.jpg"),
    ]
    return read_manifest(make_site(tmp_path / "harbour", rows, photos))


def test_the_cohort_holds_patients_with_a_class_and_a_photo(mixed):
    assert [(e.patient_id, CLASSES[e.label], e.sex, e.age_years, e.lowest_t) for e in mixed.entries] == [
        ("P1", "normal", "female", 67, Decimal("-1.0")),
        ("P10", "osteopenia", "female", 67, Decimal(-2)),
        ("P2", "osteoporosis", "female", 67, Decimal("-2.5")),
        ("P3", "osteopenia", "male", 67, Decimal("-1.7")),
    ]
    assert mixed.entries[0].bmi == pytest.approx(25.0)
    photos = {e.patient_id: [path.name for path in e.photos] for e in mixed.entries}
    assert photos == {
        "P1": ["P1_2.HEIC", "P1_c.jpg"],
        "P10": ["P10.webp"],
        "P2": ["P2.png", "P2_b.jpeg"],
        "P3": ["P3.tiff"],
    }


def test_everyone_left_out_has_a_row_a_reason_and_a_mend(mixed):
    excluded = told(mixed.excluded)
    assert excluded["dxa_export.csv row 5"].startswith("Patient P4 is a premenopausal woman")
    assert "Z-score" in excluded["dxa_export.csv row 5"]
    assert excluded["dxa_export.csv row 6"].startswith("Patient P5 is a man of 45, below 50")
    assert "no readable T-score" in excluded["dxa_export.csv row 7"]
    assert "no usable sex" in excluded["dxa_export.csv row 8"]
    assert "sex male contradicts dxa_export.csv row 9" in excluded["dxa_export.csv row 10"]
    assert "Patient P9 has no usable photo" in excluded["dxa_export.csv row 11"]
    assert "menopausal status is not given" in excluded["dxa_export.csv row 15"]
    assert all(problem.what and problem.mend for problem in mixed.excluded)


def test_every_bad_row_and_photo_is_named_with_its_mend(mixed):
    problems = told(mixed.problems)
    assert "T-score of the Neck is 25" in problems["dxa_export.csv row 7"]
    assert "repeats dxa_export.csv row 12" in problems["dxa_export.csv row 13"]
    assert "Patient X1 is not in dxa_export.csv" in problems["photos/X1.bmp"]
    assert "The export has '0012'" in problems["photos/12.jpg"]
    assert "does not fit [photos] pattern" in problems["photos/__.jpg"]
    assert "under patients P10 and P3 (photos/P10_b.jpg, photos/P3_b.jpg)" in problems["photos/P10_b.jpg"]
    assert "stored 2 times (photos/P1_c.jpg, photos/P1_front.jpg)" in problems["photos/P1_c.jpg"]
    assert "1 file(s) ending in '.txt'" in problems["photos"]
    assert len(problems) == len(mixed.problems) == 8


def test_the_flow_accounts_for_every_patient(mixed):
    assert mixed.flow == (
        ("patients in the export", 12),
        ("left out: contradicting rows", 1),
        ("left out: sex missing", 1),
        ("left out: unreadable T-score at a diagnostic site", 1),
        ("left out: premenopausal woman", 1),
        ("left out: menopausal status unknown", 1),
        ("left out: man below the age limit", 1),
        ("eligible for a WHO class", 6),
        ("left out: no usable photo", 2),
        ("in the cohort", 4),
        ("of these normal", 1),
        ("of these osteopenia", 2),
        ("of these osteoporosis", 1),
    )
    assert len(mixed.excluded) + len(mixed.entries) == mixed.flow[0][1]


def test_the_summary_is_json_and_names_no_patient(mixed):
    summary = mixed.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["t_reference_db"], summary["devices"]) == ("NHANES III", {"Prodigy": 4})
    assert summary["lowest_t_score_at"] == {"femoral neck": 4}
    assert summary["photos"] == 6
    by_split = summary["patients_by_split_and_class"]
    assert sum(sum(classes.values()) for classes in by_split.values()) == 4
    assert not any(entry.patient_id in json.dumps(summary) for entry in mixed.entries)


def test_splits_are_stratified_by_class_and_stay_when_patients_are_added(tmp_path):
    rows = [row(f"P{n}", t) for n, t in enumerate(["-0.5"] * 40 + ["-1.5"] * 40 + ["-3"] * 20)]
    photos = [f"P{n}.jpg" for n in range(100)]
    before = read_manifest(make_site(tmp_path / "a", rows, photos))
    tally = Counter((entry.label, entry.split) for entry in before.entries)
    assert [tally[label, Split.TEST] for label in range(3)] == [10, 10, 5]
    assert [tally[label, Split.VALIDATION] for label in range(3)] == [6, 6, 3]
    more = [row(f"Q{n}", "-3") for n in range(7)]
    grown_site = make_site(tmp_path / "b", more + rows, photos + [f"Q{n}.jpg" for n in range(7)])
    grown = read_manifest(grown_site, previous_splits=before.splits)
    assert len(grown.entries) == 107
    assert before.splits.items() <= grown.splits.items()


def test_a_patient_who_is_missing_for_a_while_comes_back_to_her_split(tmp_path):
    rows, photos = [row(f"P{n}", "-1.5") for n in range(20)], [f"P{n}.jpg" for n in range(20)]
    first = read_manifest(make_site(tmp_path / "a", rows, photos))
    second = read_manifest(make_site(tmp_path / "b", rows, photos[5:]), previous_splits=first.splits)
    third = read_manifest(make_site(tmp_path / "c", rows, photos), previous_splits=second.splits)
    assert len(second.entries) == 15
    assert {entry.patient_id: entry.split for entry in third.entries} == first.splits


def test_a_pattern_with_a_slash_reads_the_folder_of_each_patient(tmp_path):
    toml = SITE_TOML.replace('pattern = "^(?P<patient>[A-Za-z0-9]+)"', "pattern = '^(?P<patient>\\w+)/'")
    site = make_site(tmp_path / "s", [row("P1", "-1")], ["P1/front.jpg", "P1/side.jpg"], toml)
    assert [path.name for path in read_manifest(site).entries[0].photos] == ["front.jpg", "side.jpg"]


@pytest.mark.parametrize(
    ("rows", "photos", "message"),
    [
        ([row("P1", "-1")], [], "holds no photo. Put photos there"),
        ([row("P1", "-1")], ["P1.pdf"], "holds no photo"),
        ([], ["P1.jpg"], "dxa_export.csv holds no usable row"),
    ],
)
def test_an_empty_folder_or_export_says_so(tmp_path, rows, photos, message):
    with pytest.raises(InputError, match=message):
        read_manifest(make_site(tmp_path / "s", rows, photos))


def test_a_missing_photo_folder_says_what_to_set(tmp_path):
    site = make_site(tmp_path / "s", [row("P1", "-1")], [], SITE_TOML.replace('"photos"', '"pictures"'))
    with pytest.raises(InputError, match=r"pictures does not exist. Set \[photos\] folder"):
        read_manifest(site)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[labels]", "[labels]\nnormal_from = 1", "'labels': unknown key 'normal_from'"),
        ('patient = "PatientID"', 'patients = "PatientID"', "'columns': unknown key 'patients'"),
        ('"L1-L4"', '"L3"', "single vertebra is not a diagnostic site"),
        ("(?P<patient>[A-Za-z0-9]+)", "([A-Za-z0-9]+)", "no group"),
        ("(?P<patient>[A-Za-z0-9]+)", "(?P<patient>[A-Z", "not a regular expression"),
        ('delimiter = ","', 'delimiter = "tab"', "one character"),
        ('encoding = "utf-8"', 'encoding = "klingon"', "'klingon' is not known"),
        ('format = "csv-long"', 'format = "xlsx"', "is 'xlsx'. Use one of"),
        ('[site]\nname = "harbour"', "", "'site' is missing"),
    ],
)
def test_settings_that_cannot_be_used_name_the_table_and_key(tmp_path, old, new, message):
    site = make_site(tmp_path / "s", [row("P1", "-1")], ["P1.jpg"], SITE_TOML.replace(old, new))
    with pytest.raises(SettingsError, match=r"site.toml") as error:
        read_manifest(site)
    assert message in str(error.value)


def test_the_client_s_own_tables_are_passed_over(tmp_path):
    toml = SITE_TOML + '[network]\nserver = "x"\n'
    assert read_manifest(make_site(tmp_path / "s", [row("P1", "-1")], ["P1.jpg"], toml)).site == "harbour"
