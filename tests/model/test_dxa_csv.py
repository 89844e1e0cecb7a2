"""CSV exports: messy but good rows are read, bad rows become sentences, a wrong setting says what to set."""

from decimal import Decimal
from pathlib import Path

import pytest

from face2bone_model.contract.errors import InputError, SettingsError
from face2bone_model.data.dxa import DxaPatients, read_dxa
from face2bone_model.data.problem import Reason
from face2bone_model.data.site_settings import DxaColumns, DxaSettings, DxaValues
from face2bone_model.data.skeletal_site import SkeletalSite

LONG = DxaColumns(
    patient="PatientID",
    sex="Sex",
    age="Age",
    menopause="Menopause",
    height_cm="Height",
    weight_kg="Weight",
    skeletal_site="Region",
    t_score="T",
    z_score="Z",
    bmd="BMD",
    device="Device",
)
HEADING = "PatientID,Sex,Age,Menopause,Height,Weight,Region,T,Z,BMD,Device"
VALUES = DxaValues(lumbar_spine=("L1-L4",), femoral_neck=("Neck",), total_hip=("Total",))


def read(tmp_path: Path, text: str | bytes, **settings) -> DxaPatients:
    (tmp_path / "dxa_export.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return read_dxa(tmp_path, DxaSettings(**{"columns": LONG, "values": VALUES, **settings}))


def long(tmp_path: Path, *rows: str, **settings) -> DxaPatients:
    return read(tmp_path, "\n".join((HEADING, *rows)), **settings)


def sentences(result: DxaPatients) -> list[str]:
    return [f"{problem.where}: {problem.what} {problem.mend}" for problem in result.problems]


def test_the_rows_of_a_patient_become_one_record(tmp_path):
    result = long(
        tmp_path,
        "P1,F,67,post,160,64,L1-L4,-2.5,-1.1,0.801,Prodigy",
        "P1,F,67,post,160,64,Neck,-1.90,-0.4,0.700,Prodigy",
        "P1,F,67,post,160,64,Total,-1.2,0.3,0.810,Prodigy",
    )
    (patient,) = result.patients
    assert (patient.patient_id, patient.sex, patient.age_years, patient.menopause) == (
        "P1",
        "female",
        67,
        "postmenopausal",
    )
    assert patient.bmi == pytest.approx(25.0)
    assert patient.device == "Prodigy"
    assert [(item.site, item.t_score) for item in patient.measurements] == [
        (SkeletalSite.LUMBAR_SPINE, Decimal("-2.5")),
        (SkeletalSite.FEMORAL_NECK, Decimal("-1.90")),
        (SkeletalSite.TOTAL_HIP, Decimal("-1.2")),
    ]
    assert result.problems == ()
    assert result.left_out == ()


def test_a_t_score_of_25_is_named_with_its_row_and_the_rest_goes_on(tmp_path):
    result = long(
        tmp_path, "P1,F,67,post,,,L1-L4,25,,,", "P1,F,67,post,,,Neck,-1.0,,,", "P2,M,70,,,,Neck,-1,,,"
    )
    assert sentences(result) == [
        "dxa_export.csv row 2: T-score of the L1-L4 is 25, outside -8 to +6. "
        "Look it up in the DXA report and correct the export."
    ]
    assert [patient.patient_id for patient in result.patients] == ["P1", "P2"]
    assert [item.unreadable for item in result.patients[0].measurements] == [True, False]


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("0.889 g/cm2", "which is a bone density"),
        ("0.889 g/cm²", "which is a bone density"),
        ("osteoporosis", "not a number"),
        ("-2.5 mm", "is given in 'mm'"),
        ("-8.1", "outside -8 to +6"),
        ('"-2,5"', "set [dxa] decimal"),
        ("0.812", "equals the density of the same row"),
    ],
)
def test_what_is_no_t_score_is_refused_with_its_row(tmp_path, cell, sentence):
    result = long(
        tmp_path, f"P1,F,67,post,,,L1-L4,{cell},,0.812,", "P2,M,70,,,,Neck,-1,,,", "P3,M,70,,,,Neck,-1,,,"
    )
    (problem,) = sentences(result)
    assert problem.startswith("dxa_export.csv row 2: ")
    assert sentence.casefold() in problem.casefold()
    assert len(result.patients) == 3


@pytest.mark.parametrize("cell", ["-2.5", " -2.5 ", "−2.5", "–2.5", "－２.５", "-2.5 SD", "-2.5 {T-score}"])
def test_the_ways_of_writing_a_t_score_give_the_same_decimal(tmp_path, cell):
    result = long(tmp_path, f"P1,F,67,post,,,L1-L4,{cell},,,")
    assert result.patients[0].measurements[0].t_score == Decimal("-2.5")
    assert result.problems == ()


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "--", "null"])
def test_an_empty_t_score_is_no_problem(tmp_path, cell):
    result = long(tmp_path, f"P1,F,67,post,,,L1-L4,{cell},,,", "P1,F,67,post,,,Neck,-1,,,")
    assert result.problems == ()
    assert [item.t_score for item in result.patients[0].measurements] == [None, Decimal(-1)]


def test_identical_repeated_rows_are_merged_with_a_note(tmp_path):
    result = long(tmp_path, *2 * ["P1,F,67,post,,,L1-L4,-2.5,,,"])
    assert sentences(result) == [
        "dxa_export.csv row 3: Patient P1: the row repeats dxa_export.csv row 2. Merged; nothing to do."
    ]
    assert len(result.patients[0].measurements) == 1


@pytest.mark.parametrize(
    ("second", "what"),
    [
        ("P1,M,67,post,,,L1-L4,-2.5,,,", "sex male"),
        ("P1,F,68,post,,,L1-L4,-2.5,,,", "age 68"),
        ("P1,F,67,pre,,,L1-L4,-2.5,,,", "menopause premenopausal"),
        ("P1,F,67,post,,,L1-L4,-1.5,,,", "T-score -1.5 of the lumbar spine"),
    ],
)
def test_contradicting_rows_leave_the_patient_out_and_name_both_rows(tmp_path, second, what):
    result = long(tmp_path, "P1,F,67,post,,,L1-L4,-2.5,,,", second, "P2,M,70,,,,Neck,-1,,,")
    (left_out,) = result.left_out
    assert left_out.reason is Reason.CONTRADICTING
    assert left_out.problem.where == "dxa_export.csv row 3"
    assert left_out.problem.what == (
        f"Patient P1: {what} contradicts dxa_export.csv row 2; the patient is left out."
    )
    assert [patient.patient_id for patient in result.patients] == ["P2"]


def test_contradicting_weights_cost_the_bmi_but_not_the_patient(tmp_path):
    result = long(tmp_path, "P1,F,67,post,160,64,L1-L4,-2.5,,,", "P1,F,67,post,160,84,Neck,-2.5,,,")
    assert result.patients[0].bmi is None
    assert "BMI is taken as not known" in result.problems[0].what


@pytest.mark.parametrize(("height", "weight"), [("1.60", "64"), ("160", "640")])
def test_a_height_in_metres_or_an_impossible_weight_costs_the_bmi(tmp_path, height, weight):
    result = long(tmp_path, f"P1,F,67,post,{height},{weight},L1-L4,-2.5,,,")
    assert result.patients[0].bmi is None
    assert result.problems[0].where == "dxa_export.csv row 2"


def test_regions_that_are_not_diagnostic_are_noted_once_each(tmp_path):
    rows = [
        f"P{i},F,67,post,,,{region},-3,,," for i in range(3) for region in ("Wards", "Neck", "Nekc", "L2")
    ]
    result = long(tmp_path, *rows)
    assert [problem.what for problem in result.problems] == [
        "Region 'wards' (3 rows of dxa_export.csv) is not a diagnostic site; it is not used.",
        "Region 'nekc' (3 rows of dxa_export.csv) is not known; it is not used.",
    ]
    assert result.problems[1].where == "dxa_export.csv row 4"
    sites = {(item.site, item.vertebrae) for item in result.patients[0].measurements}
    assert sites == {(SkeletalSite.FEMORAL_NECK, ()), (SkeletalSite.LUMBAR_SPINE, (2,))}


def test_two_hips_are_two_measurements_if_the_side_is_mapped(tmp_path):
    text = "PatientID,Sex,Age,Region,Side,T\nP1,M,70,Neck,L,-1.0\nP1,M,70,Neck,R,-2.6\n"
    columns = DxaColumns(
        patient="PatientID", sex="Sex", age="Age", skeletal_site="Region", side="Side", t_score="T"
    )
    assert [item.t_score for item in read(tmp_path, text, columns=columns).patients[0].measurements] == [
        Decimal("-1.0"),
        Decimal("-2.6"),
    ]


def test_a_scan_type_column_tells_the_total_of_the_hip_from_that_of_the_spine(tmp_path):
    text = "PatientID,Sex,Age,Scan,Region,T\nP1,M,70,AP Spine,Total,-1.0\nP1,M,70,Left Hip,Total,-2.6\n"
    columns = DxaColumns(
        patient="PatientID", sex="Sex", age="Age", skeletal_site="Region", scan_type="Scan", t_score="T"
    )
    result = read(tmp_path, text, columns=columns, values=DxaValues())
    assert [(item.site, item.t_score) for item in result.patients[0].measurements] == [
        (SkeletalSite.LUMBAR_SPINE, Decimal("-1.0")),
        (SkeletalSite.TOTAL_HIP, Decimal("-2.6")),
    ]


DATED = DxaColumns(
    patient="id", sex="sex", birth_date="born", scan_date="scan", skeletal_site="region", t_score="t"
)


def test_the_latest_scan_is_used_and_the_age_is_that_on_its_day(tmp_path):
    text = "id,sex,born,scan,region,t\n1,F,1950-06-15,2020-01-01,Neck,-3\n1,F,1950-06-15,2024-06-14,Neck,-2\n"
    result = read(tmp_path, text, columns=DATED)
    (patient,) = result.patients
    assert (patient.age_years, patient.measurements[0].t_score) == (73, Decimal(-2))
    assert result.problems[0].what == "Patient 1 was scanned on 2 days; the latest, 2024-06-14, is used."


def test_an_undated_scan_beside_dated_ones_is_not_used(tmp_path):
    text = "id,sex,born,scan,region,t\n1,F,1950-06-15,2020-01-01,Neck,-3\n1,F,1950-06-15,,Total,-4\n"
    result = read(tmp_path, text, columns=DATED)
    assert [item.site for item in result.patients[0].measurements] == [SkeletalSite.FEMORAL_NECK]
    assert result.problems[0].where == "dxa_export.csv row 3"


def test_dates_follow_the_format_of_the_site(tmp_path):
    text = "id,sex,born,scan,region,t\n1,F,15.06.1950,15.06.2024,Neck,-3\n"
    assert read(tmp_path, text, columns=DATED, date_format="%d.%m.%Y").patients[0].age_years == 74
    result = read(tmp_path, text, columns=DATED)
    assert result.patients[0].age_years is None
    assert "Set [dxa] date_format" in result.problems[0].mend


def test_a_scan_before_birth_is_a_problem(tmp_path):
    text = "id,sex,born,scan,region,t\n1,F,2030-01-01,2024-06-14,Neck,-3\n"
    assert "give an age of -6" in read(tmp_path, text, columns=DATED).problems[0].what


def test_rows_without_patient_or_of_another_length_are_named_and_passed_over(tmp_path):
    result = long(
        tmp_path,
        ",F,67,post,,,Neck,-1,,,",
        "",
        "P1,F,67",
        "P2,F,67,post,,,Neck,-1,,,,surplus",
        "P3,F,67,post,,,Neck,-1,,,,,",
    )
    assert [problem.where for problem in result.problems] == [f"dxa_export.csv row {n}" for n in (2, 4, 5)]
    assert [patient.patient_id for patient in result.patients] == ["P3"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("P1,X,67,post,,,Neck,-1,,,", "Sex is 'X'"),
        ("P1,F,670,post,,,Neck,-1,,,", "Age is '670'"),
        ("P1,F,67,maybe,,,Neck,-1,,,", "Menopause is 'maybe'"),
        ("P1,F,67,post,,,Neck,-1,high,,", "Z-score is 'high'"),
    ],
)
def test_a_bad_cell_costs_the_cell_only(tmp_path, row, what):
    result = long(tmp_path, row)
    (problem,) = result.problems
    assert problem.what.startswith(what)
    assert result.patients[0].measurements[0].t_score == Decimal(-1)


WIDE = DxaColumns(
    patient="id",
    sex="sex",
    age="age",
    t_lumbar_spine="spine",
    t_femoral_neck="neck",
    t_total_hip="hip",
    z_lumbar_spine="zs",
    bmd_lumbar_spine="bs",
)


def test_the_wide_format_gives_the_same_measurements(tmp_path):
    text = "id;sex;age;spine;neck;hip;zs;bs\n1;F;67;-2,5;-1,9;;-1,1;0,801\n"
    result = read(tmp_path, text, format="csv-wide", columns=WIDE, delimiter=";", decimal=",")
    spine, neck = result.patients[0].measurements
    assert (spine.t_score, spine.z_score, spine.bmd) == (Decimal("-2.5"), Decimal("-1.1"), Decimal("0.801"))
    assert (spine.vertebrae, neck.site) == ((1, 2, 3, 4), SkeletalSite.FEMORAL_NECK)
    assert result.problems == ()


def test_a_bad_t_score_of_a_wide_row_names_the_site(tmp_path):
    text = "id,sex,age,spine,neck,hip,zs,bs\n1,F,67,25,-1.9,,,\n"
    result = read(tmp_path, text, format="csv-wide", columns=WIDE)
    assert result.problems[0].what == "T-score of the lumbar spine is 25, outside -8 to +6."
    assert [item.unreadable for item in result.patients[0].measurements] == [True, False]


@pytest.mark.parametrize(
    ("encoding", "sex", "rows"),
    [("utf-8-sig", "F", "é"), ("cp1252", "F", "é"), ("gb18030", "女", "张"), ("utf-16", "F", "é")],
)
def test_encodings_are_read_as_set_and_suggested_if_wrong(tmp_path, encoding, sex, rows):
    raw = f"{HEADING}\nP1,{sex},67,post,,,L1-L4,-2.5,,,{rows}".encode(encoding)
    result = read(tmp_path, raw, encoding=encoding)
    assert (result.patients[0].sex, result.patients[0].device) == ("female", rows)
    if encoding != "utf-8-sig":
        with pytest.raises(InputError) as error:
            read(tmp_path, raw)
        assert f'Set [dxa] encoding = "{encoding}"' in error.value.mend
    else:
        assert read(tmp_path, raw).patients == result.patients


def test_utf8_read_as_another_encoding_is_suggested_too(tmp_path):
    with pytest.raises(InputError, match=r'row 2 is not written in ascii.*encoding = "utf-8"'):
        read(tmp_path, f"{HEADING}\nP1,女,67,post,,,L1-L4,-2.5,,,", encoding="ascii")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADING.replace(",", ";") + "\nP1;F", r"separated by ';'.*Set \[dxa\] delimiter = \";\""),
        (
            HEADING.replace("Region", "Site") + "\nP1,F",
            r"no column 'Region'.*Its columns are: PatientID, Sex",
        ),
        (HEADING + ",T\n", "two columns headed 'T'"),
        ("", "is empty"),
        (HEADING, "no usable row"),
        (HEADING + "\nP1,F\n", "no usable row.*The row has 2 cells"),
        ("PK\x03\x04xl/workbook", "Excel workbook"),
        (
            HEADING + '\nP1,F,67,post,,,Neck,"-2,5",,,\n',
            r"writes numbers with ','.*Set \[dxa\] decimal = \",\"",
        ),
        (
            "\n".join([HEADING, *(f"P{i},F,67,post,,,Neck,0.{60 + i},,," for i in range(25))]),
            "lie between 0.2 and 1.8",
        ),
    ],
)
def test_a_file_that_does_not_fit_its_settings_says_what_to_set(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_missing_export_names_the_files_that_are_there(tmp_path):
    (tmp_path / "results.csv").write_text("x")
    with pytest.raises(InputError, match=r"the folder holds results.csv. Set \[dxa\] file"):
        read_dxa(tmp_path, DxaSettings(columns=LONG))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": DxaColumns(patient="p", sex="s", age="a")}, "skeletal_site"),
        (
            {"columns": DxaColumns(patient="p", sex="s", skeletal_site="r", t_score="t")},
            "birth_date and scan_date",
        ),
        ({"columns": DxaColumns(patient="p", sex="s", age="a"), "format": "csv-wide"}, "t_lumbar_spine"),
        ({"format": "csv-wide"}, "has no meaning in csv-wide"),
        ({"columns": DxaColumns(patient="p", sex="s", t_total_hip="t")}, "has no meaning in csv-long"),
    ],
)
def test_unmapped_or_foreign_columns_are_refused(tmp_path, changes, message):
    with pytest.raises(SettingsError, match=message):
        long(tmp_path, "P1,F,67,post,,,Neck,-1,,,", **changes)


def test_rows_above_the_headings_are_skipped_and_rows_keep_their_number(tmp_path):
    text = f"Export of 2024\n\n{HEADING}\nP1,F,67,post,,,Neck,25,,,"
    assert read(tmp_path, text, skip_rows=2).problems[0].where == "dxa_export.csv row 4"
