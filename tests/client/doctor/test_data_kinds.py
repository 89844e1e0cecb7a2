"""Everything the doctor looks for in export and cohort, seeded one at a time in a real hospital's export."""

import json
import os
import shutil
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from f2b_client.doctor.data import DATA_CHECKS, EXPORT_RULES
from f2b_client.doctor.data_facts import read_facts
from f2b_client.doctor.data_problems import check_readable
from f2b_client.doctor.finding import Verdict
from face2bone_model.contract.payload import encode
from face2bone_model.data.synthetic.hospital import write_hospital

DOCS = Path(__file__).parents[3] / "docs"
KINDS = {}


def kind(check, verdict=Verdict.WARN, name=""):
    """Register how to seed one kind, the check that must find it, and the least verdict."""

    def register(seed):
        KINDS[name or seed.__name__] = (seed, check, verdict)
        return seed

    return register


def settings(site, *pairs):
    text = site.settings.read_text()
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    site.settings.write_text(text)


def change(rows, change_line, where=lambda line: True):
    for line in rows.lines:
        if where(line):
            change_line(line)
    rows.write()


# The file as a whole


@kind("site-settings", Verdict.FAIL)
def site_toml_missing(site, rows):
    site.settings.unlink()


@kind("site-settings", Verdict.FAIL)
def site_toml_unknown_key(site, rows):
    settings(site, ("[labels]", "[labels]\nladels = 1"))


@kind("export-missing", Verdict.FAIL)
def export_missing(site, rows):
    rows.path.unlink()


@kind("export-empty", Verdict.FAIL)
def export_empty(site, rows):
    rows.path.write_text("")


@kind("export-empty", Verdict.FAIL)
def export_without_rows(site, rows):
    rows.path.write_text(rows.path.read_text().splitlines()[0] + "\n")


@kind("export-delimiter", Verdict.FAIL)
def wrong_delimiter(site, rows):
    rows.write(delimiter=";")


@kind("export-columns", Verdict.FAIL)
def renamed_column(site, rows):
    rows.path.write_text(rows.path.read_text().replace("T_score", "TScore"))


@kind("export-columns", Verdict.FAIL)
def headings_missing(site, rows):
    rows.path.write_text("\n".join(rows.path.read_text().splitlines()[1:]))


@kind("export-encoding", Verdict.FAIL)
def latin_1_read_as_utf_8(site, rows):
    change(rows, lambda line: line.update(Device="Gerät Süd"))
    rows.write(encoding="latin-1")


@kind("letters")
def utf_8_read_as_latin_1(site, rows):
    change(rows, lambda line: line.update(Device="Gerät Süd"))
    settings(site, ('encoding = "utf-8"', 'encoding = "cp1252"'))


@kind("letters")
def letters_spoilt_before(site, rows):
    change(
        rows, lambda line: line.update(Device="Gerät".encode().decode("latin-1").encode().decode("latin-1"))
    )


@kind("export-decimal-sign", Verdict.FAIL)
def comma_decimals(site, rows):
    change(rows, lambda line: line.update(T_score=line["T_score"].replace(".", ",")))


@kind("mixed-decimal-signs")
def mixed_decimals(site, rows):
    change(rows, lambda line: line.update(T_score=line["T_score"].replace(".", ",")), first(rows, 2))


@kind("export-stale")
def export_older_than_photos(site, rows):
    day = (site.path / "photos").stat().st_mtime - 90 * 86_400
    os.utime(rows.path, (day, day))


# Scores


@kind("bmd-in-t-column", Verdict.FAIL)
def bmd_mapped_as_t(site, rows):
    settings(site, ('t_score = "T_score"', 't_score = "BMD"'), ('\nbmd = "BMD"', ""))


@kind("bmd-in-t-column", Verdict.FAIL)
def bmd_in_one_region(site, rows):
    change(
        rows, lambda line: line.update(T_score=line["BMD"], BMD=""), lambda line: line["Region"] == "Total"
    )


@kind("t-equals-bmd", Verdict.FAIL)
def t_equals_bmd_in_a_third(site, rows):
    change(rows, lambda line: line.update(T_score=line["BMD"]), first(rows, 20))


@kind("t-score-in-g-cm2")
def t_score_with_unit(site, rows):
    change(rows, lambda line: line.update(T_score=line["BMD"] + " g/cm2"), first(rows, 1))


@kind("t-score-range")
def t_score_impossible(site, rows):
    change(rows, lambda line: line.update(T_score="-25"), first(rows, 1))


@kind("t-score-unreadable")
def t_score_is_a_text(site, rows):
    change(rows, lambda line: line.update(T_score="see PDF"), first(rows, 1))


@kind("not-a-number")
def t_score_not_a_number(site, rows):
    change(rows, lambda line: line.update(T_score="see PDF"), first(rows, 1))


@kind("score-unit")
def t_score_in_percent(site, rows):
    change(rows, lambda line: line.update(T_score="87 %"), first(rows, 1))


@kind("z-for-t-heading", Verdict.FAIL)
def z_column_mapped_as_t(site, rows):
    settings(site, ('t_score = "T_score"', 't_score = "Z_score"'), ('z_score = "Z_score"\n', ""))


@kind("z-for-t", Verdict.FAIL)
def z_and_t_exchanged(site, rows):
    change(rows, lambda line: line.update(T_score=line["Z_score"], Z_score=line["T_score"]))


@kind("z-for-t", Verdict.FAIL)
def z_copied_into_t(site, rows):
    change(rows, lambda line: line.update(T_score=line["Z_score"]))


@kind("t-not-from-density")
def z_in_t_column_without_z(site, rows):
    change(rows, lambda line: line.update(T_score=line["Z_score"], Z_score=""))


@kind("t-contradicts-density")
def t_contradicts_density(site, rows):
    change(rows, lambda line: line.update(T_score="3.5"), first(rows, 1))


@kind("diagnosis-contradicts-t")
def diagnosis_contradicts_t(site, rows):
    for line in rows.lines:
        line["Diagnosis"] = "osteopenia"
    rows.write()


@kind("scores-contradict")
def patient_twice_with_other_scores(site, rows):
    name = rows.patients[0]
    rows.lines += [{**line, "T_score": "-4.4"} for line in rows.of(name) if line["Region"] == "L1-L4"]
    rows.write()


@kind("hip-sides", Verdict.FAIL)
def left_and_right_hip_mixed(site, rows):
    for name in rows.patients[:20]:
        neck = next(line for line in rows.of(name) if line["Region"] == "Neck")
        rows.lines.append({**neck, "T_score": f"{float(neck['T_score']) - 0.4:.1f}", "BMD": ""})
    rows.write()


@kind("side-codes", Verdict.FAIL)
def sides_in_unknown_codes(site, rows):
    settings(site, ('device = "Device"', 'device = "Device"\nside = "Side"'))
    for line in rows.lines:
        line["Side"] = "dominant"
    rows.write()


@kind("region-not-diagnostic", Verdict.FAIL)
def wards_counted_as_neck(site, rows):
    settings(site, ('femoral_neck = ["Neck"]', 'femoral_neck = ["Neck", "Wards"]'))


@kind("unknown-regions", Verdict.WARN)
def regions_unknown(site, rows):
    change(rows, lambda line: line.update(Region="Region 7"), lambda line: line["Region"] == "L1-L4")


@kind("no-diagnostic-site")
def only_wards_measured(site, rows):
    keep = rows.patients[:8]
    rows.lines = [one for one in rows.lines if one["PatientID"] not in keep or one["Region"] == "Wards"]
    rows.write()


@kind("same-scan-two-ids", Verdict.FAIL)
def one_scan_two_ids(site, rows):
    one, two = rows.patients[:2]
    rows.lines = [line for line in rows.lines if line["PatientID"] != two]
    rows.lines += [{**line, "PatientID": two} for line in rows.of(one)]
    rows.write()


# Patients


@kind("age-is-a-date")
def birth_date_as_age(site, rows):
    change(rows, lambda line: line.update(Age="1957-03-12"), first(rows, 2))


@kind("age-is-a-date", Verdict.FAIL)
def birth_year_as_age(site, rows):
    change(rows, lambda line: line.update(Age="1957"))


@kind("age-missing")
def age_missing(site, rows):
    change(rows, lambda line: line.update(Age=""), first(rows, 1))


@kind("age-range")
def age_is_none(site, rows):
    change(rows, lambda line: line.update(Age="670"), first(rows, 1))


@kind("sex-codes", Verdict.FAIL)
def sex_coded_in_numbers(site, rows):
    change(rows, lambda line: line.update(Sex={"F": "2", "M": "1"}[line["Sex"]]))


@kind("sex-codes")
def sex_unknown_once(site, rows):
    change(rows, lambda line: line.update(Sex="X"), first(rows, 1))


@kind("sex-missing")
def sex_missing(site, rows):
    change(rows, lambda line: line.update(Sex=""), first(rows, 1))


@kind("menopause-codes", Verdict.FAIL)
def menopause_codes(site, rows):
    change(rows, lambda line: line.update(Menopause="ja"), lambda line: line["Sex"] == "F")


@kind("menopause-unknown")
def menopause_not_recorded(site, rows):
    change(rows, lambda line: line.update(Menopause=""))


@kind("premenopausal")
def premenopausal_women(site, rows):
    women = first(rows, 12)
    change(rows, lambda line: line.update(Menopause="pre", Age="41"), lambda x: women(x) and x["Sex"] == "F")


@kind("men-below-50")
def young_men(site, rows):
    change(rows, lambda line: line.update(Sex="M", Menopause="", Age="44"), first(rows, 6))


@kind("early-menopause")
def menopause_at_30(site, rows):
    change(rows, lambda line: line.update(Sex="F", Menopause="post", Age="30"), first(rows, 1))


@kind("children")
def children(site, rows):
    change(rows, lambda line: line.update(Age="9"), first(rows, 1))


@kind("two-people-one-id")
def same_id_two_people(site, rows):
    name = rows.patients[0]
    other = {"F": "M", "M": "F"}[rows.of(name)[0]["Sex"]]
    rows.lines += [{**line, "Sex": other} for line in rows.of(name)]
    rows.write()


@kind("two-people-one-id")
def same_id_two_ages(site, rows):
    rows.lines += [{**line, "Age": "77"} for line in rows.of(rows.patients[0])[:1]]
    rows.write()


@kind("duplicate-rows")
def duplicate_rows(site, rows):
    rows.lines += rows.of(rows.patients[0])
    rows.write()


@kind("body-size-units", Verdict.FAIL)
def height_in_metres(site, rows):
    change(rows, lambda line: line.update(Height_cm=f"{float(line['Height_cm']) / 100:.2f}"))


@kind("bmi-unit", Verdict.FAIL)
def weight_in_pounds(site, rows):
    change(rows, lambda line: line.update(Weight_kg=f"{float(line['Weight_kg']) * 2.2046:.1f}"))


@kind("body-size-contradicts")
def body_size_contradicts(site, rows):
    rows.of(rows.patients[0])[0]["Weight_kg"] = "140"
    rows.write()


@kind("no-patient-id")
def rows_without_patient(site, rows):
    rows.lines[5]["PatientID"] = ""
    rows.write()


@kind("cut-off-rows")
def cut_off_row(site, rows):
    text = rows.path.read_text().rstrip()
    rows.path.write_text(text[: text.rindex(",")])


@kind("date-format", Verdict.FAIL)
def dates_in_german(site, rows):
    change(rows, lambda line: line.update(ScanDate=".".join(reversed(line["ScanDate"].split("-")))))


@kind("date-order")
def born_after_the_scan(site, rows):
    settings(site, ('device = "Device"', 'device = "Device"\nbirth_date = "Born"'))
    for line in rows.lines:
        line["Born"] = ""
    change(rows, lambda line: line.update(Age="", Born="2025-01-01"), first(rows, 1))


@kind("future-dates")
def scan_in_the_future(site, rows):
    day = (date.today() + timedelta(days=40)).isoformat()
    change(rows, lambda line: line.update(ScanDate=day), first(rows, 1))


@kind("undated-rows")
def undated_rows(site, rows):
    rows.of(rows.patients[0])[0]["ScanDate"] = ""
    rows.write()


@kind("scanner-change")
def scanner_changed(site, rows):
    change(rows, lambda line: line.update(Device="another densitometer"), first(rows, 25))


@kind("ids-are-names")
def names_as_ids(site, rows):
    settings(site, ("(?P<patient>[A-Za-z0-9]+)", "(?P<patient>[A-Za-z0-9 ]+)"))
    names = {
        name: f"{'ABCDEFGHIJ'[n % 10]}nna M{'abcdef'[n // 10]}ller" for n, name in enumerate(rows.patients)
    }
    change(rows, lambda line: line.update(PatientID=names[line["PatientID"]]))
    for photo in (site.path / "photos").iterdir():
        name, _, rest = photo.name.partition("_")
        photo.rename(photo.with_name(f"{names[name]}_{rest}"))


# Patients and photos together


@kind("label-without-photo")
def photos_missing(site, rows):
    for name in rows.patients[:6]:
        for photo in (site.path / "photos").glob(f"{name}_*"):
            photo.unlink()


@kind("photo-not-in-export")
def rows_missing(site, rows):
    gone = rows.patients[:2]
    rows.lines = [line for line in rows.lines if line["PatientID"] not in gone]
    rows.write()


@kind("patient-ids-altered", Verdict.FAIL)
def leading_zeros_lost(site, rows):
    settings(site, ("^(?P<patient>[A-Za-z0-9]+)", "^HA(?P<patient>[0-9]+)"))
    change(rows, lambda line: line.update(PatientID=line["PatientID"].removeprefix("HA").lstrip("0")))


@kind("photo-names")
def photo_without_patient(site, rows):
    photo = next((site.path / "photos").iterdir())
    photo.rename(photo.with_name("_front.jpg"))


@kind("photo-files")
def photos_in_another_format(site, rows):
    (site.path / "photos" / "HA0100003_9.cr3").write_bytes(b"raw")


@kind("photo-of-two-patients", Verdict.FAIL)
def same_file_two_patients(site, rows):
    one, two = (site.path / "photos" / f"{name}_1.jpg" for name in rows.patients[3:5])
    shutil.copy2(one, two)


@kind("photo-folder", Verdict.FAIL)
def photo_folder_missing(site, rows):
    settings(site, ('folder = "photos"', 'folder = "pictures"'))


@kind("photo-folder", Verdict.FAIL)
def photo_folder_empty(site, rows):
    (site.path / "pictures").mkdir()
    settings(site, ('folder = "photos"', 'folder = "pictures"'))


# The cohort


@kind("class-missing", Verdict.FAIL)
def class_missing(site, rows):
    low = {
        line["PatientID"]
        for line in rows.lines
        if line["Region"] != "Wards" and float(line["T_score"]) <= -2.5
    }
    rows.lines = [line for line in rows.lines if line["PatientID"] not in low]
    rows.write()


@kind("split-empty", Verdict.FAIL)
def split_empty(site, rows):
    (site.path / "splits.json").unlink()
    site.settings.write_text(
        site.settings.read_text() + "\n[split]\ntrain = 0.75\nvalidation = 0\ntest = 0.25\n"
    )


@kind("prevalence")
def nearly_everybody_has_osteoporosis(site, rows):
    change(rows, lambda line: line.update(T_score=f"{float(line['T_score']) - 3:.1f}", BMD="", Z_score=""))


@kind("prevalence-since-describe")
def another_cohort_was_described(site, rows):
    tables = {
        "table/all/classes/counts": np.array([[5, 10, 60]]),
        "table/all/classes/released": np.array([1]),
    }
    (site.replies / "abc").mkdir(parents=True)
    reply = encode(tables, {"kind": "statistics", "request": "r"})
    (site.replies / "abc" / "describe-000-r.safetensors").write_bytes(reply)


@kind("prepared")
def not_prepared(site, rows):
    (site.cache / "preparation.json").unlink()


@kind("prepared")
def preparation_damaged(site, rows):
    (site.cache / "preparation.json").write_text('{"unknown": 1}')


@kind("splits", Verdict.FAIL)
def splits_damaged(site, rows):
    (site.path / "splits.json").write_text("{not json")


def first(rows, count):
    """Whether a row is of one of the first patients."""
    names = set(rows.patients[:count])
    return lambda line: line["PatientID"] in names


def export_findings(folder):
    """What `check_data` says before it looks at pictures."""
    facts = read_facts(folder)
    found = list(check_readable(facts))
    if facts.manifest is not None:
        found += [one for rule in EXPORT_RULES for one in rule(facts, facts.manifest)]
    return found


@pytest.fixture(scope="module")
def outcomes(clean, copied, rows_of, tmp_path_factory):
    """What was found in a copy of the clean site for each kind seeded in it."""
    root = tmp_path_factory.mktemp("kinds")
    found = {}
    for name, (seed, check, _) in KINDS.items():
        touches_photos = "photo" in name or "file" in name or name in {"names_as_ids"}
        folder = copied(clean, root / name, linked=() if touches_photos else ("photos",))
        seed(folder, rows_of(folder))
        found[name] = list(DATA_CHECKS[0](folder)) if check == "site-settings" else export_findings(folder)
        shutil.rmtree(folder.path)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_seeded_kind_is_found_with_a_place_and_a_mend(outcomes, name):
    _, check, verdict = KINDS[name]
    found = [one for one in outcomes[name] if one.check == check and one.verdict is not Verdict.PASS]
    assert found, [one.check for one in outcomes[name] if one.verdict is not Verdict.PASS]
    assert verdict is Verdict.WARN or any(one.verdict is Verdict.FAIL for one in found)
    assert all(one.what.endswith(".") and one.where and one.mend.endswith(".") for one in found)


def test_of_all_seeded_kinds_at_least_95_percent_are_found(outcomes):
    found = [
        any(one.check == check and one.verdict is not Verdict.PASS for one in outcomes[name])
        for name, (_, check, _) in KINDS.items()
    ]
    assert len({check for _, check, _ in KINDS.values()}) >= 34
    assert sum(found) >= 0.95 * len(found)


def test_a_clean_site_has_no_finding_above_pass(clean):
    findings = [one for check in DATA_CHECKS for one in check(clean)]
    assert [one for one in findings if one.verdict is not Verdict.PASS] == []
    assert len(findings) >= 40
    assert all(not one.mend for one in findings)


OF_BAD_ITEMS = {
    "label-without-photo",
    "t-score-range",
    "scores-contradict",
    "sex-missing",
    "t-score-unreadable",
}
OF_BAD_ITEMS |= {"t-score-in-g-cm2", "t-equals-bmd", "no-diagnostic-site", "premenopausal", "duplicate-rows"}
OF_FEW = {"prepared", "split-empty", "class-missing"}
"""Six patients, not prepared."""


@pytest.mark.parametrize("name", ["hilltop", "riverside"])
def test_in_other_formats_nothing_is_found_but_what_was_made_bad(name, tmp_path, clean):
    """German columns and decimal commas in one, FHIR in the other; each with a few bad rows and photos."""
    write_hospital(tmp_path / name, site=name, patients=6, seed=1)
    found = export_findings(type(clean)(tmp_path / name))
    assert {one.check for one in found if one.verdict is not Verdict.PASS} <= OF_BAD_ITEMS | OF_FEW


def test_what_no_kind_recognises_is_shown_all_the_same(tmp_path, clean):
    write_hospital(tmp_path / "site", site="riverside", patients=3, seed=1)
    path = tmp_path / "site" / "bundle.json"
    bundle = json.loads(path.read_text())
    person = next(one["resource"] for one in bundle["entry"] if one["resource"]["resourceType"] == "Patient")
    del person["id"]
    path.write_text(json.dumps(bundle))
    (found,) = (one for one in export_findings(type(clean)(tmp_path / "site")) if one.check == "other-rows")
    assert "The patient has no id." in found.what


def test_two_patients_of_equal_scores_are_not_one_scan(site, rows_of):
    rows = rows_of(site)
    one, two = rows.patients[:2]
    for line, other in zip(rows.of(two), rows.of(one), strict=True):
        line.update(
            {name: other[name] for name in ("Sex", "Menopause", "Region", "BMD", "T_score", "Z_score")}
        )
    rows.write()
    (found,) = (one for one in export_findings(site) if one.check == "same-scan-two-ids")
    assert found.verdict is Verdict.PASS


def test_a_row_with_three_bad_values_is_one_row(tmp_path, clean):
    write_hospital(tmp_path / "site", site="hilltop", patients=1, seed=1)
    export = tmp_path / "site" / "densitometrie.csv"
    lines = export.read_text(encoding="cp1252").splitlines()
    cells = lines[1].split(";")
    cells[8] = cells[11] = cells[14] = "-25"
    export.write_text("\n".join([lines[0], ";".join(cells)]), encoding="cp1252")
    (found,) = (
        one for one in export_findings(type(clean)(tmp_path / "site")) if one.check == "t-score-range"
    )
    assert found.what.startswith("1 row ")
    assert found.where == "densitometrie.csv row 2"


def test_findings_name_the_row(outcomes):
    (found,) = (one for one in outcomes["t_score_impossible"] if one.check == "t-score-range")
    assert "dxa_export.csv row " in found.where
    assert "-25" in found.what


def test_a_folder_that_is_no_site_is_one_finding(tmp_path, clean):
    folder = type(clean)(tmp_path / "nothing")
    (found,) = DATA_CHECKS[0](folder)
    assert (found.check, found.verdict) == ("site-settings", Verdict.FAIL)


def test_a_described_cohort_like_todays_is_no_finding(site):
    labels = [entry.label for entry in read_facts(site).manifest.entries]
    counts = np.bincount(labels, minlength=3)[None]
    tables = {"table/all/classes/counts": counts, "table/all/classes/released": np.array([1])}
    (site.replies / "abc").mkdir(parents=True)
    (site.replies / "abc" / "describe-000-b.safetensors").write_bytes(encode(tables, {}))
    (site.replies / "abc" / "describe-000-a.safetensors").write_bytes(b"damaged")
    os.utime(site.replies / "abc" / "describe-000-b.safetensors", (1, 1))
    assert not [one for one in export_findings(site) if one.verdict is not Verdict.PASS]


def test_every_check_is_in_the_table_of_the_documentation(outcomes, clean):
    table = (DOCS / "doctor-data.md").read_text()
    checks = {one.check for found in outcomes.values() for one in found}
    checks |= {one.check for one in DATA_CHECKS[0](clean)} - {"rows", "export"}
    assert not {check for check in checks - {"rows", "export"} if f"`{check}`" not in table}
