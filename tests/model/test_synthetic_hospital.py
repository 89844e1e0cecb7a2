"""A synthetic hospital's folder: the same bytes every time, readable by the real readers, every bad item listed."""

import csv
import hashlib
import io
import json
import tomllib

import numpy as np
import pytest
from PIL import Image

from face2bone_model.contract.errors import UsageError
from face2bone_model.data.face import FacePreparer
from face2bone_model.data.manifest import read_manifest
from face2bone_model.data.photo import read_photo
from face2bone_model.data.quarantine import Quarantined
from face2bone_model.data.site_settings import read_site_data
from face2bone_model.data.synthetic import camera
from face2bone_model.data.synthetic.anatomy import Region
from face2bone_model.data.synthetic.bad_photos import BAD_PHOTOS, Shots
from face2bone_model.data.synthetic.bad_rows import BAD_ROWS
from face2bone_model.data.synthetic.hospital import write_hospital
from face2bone_model.data.synthetic.patients import draw_patient, scene_of, stream
from face2bone_model.data.synthetic.records import record_of
from face2bone_model.data.synthetic.styles import BUILT_IN, style_of

SITES = tuple(BUILT_IN)


@pytest.fixture(scope="module")
def coarse():
    """Renders at a fifth of the usual height: the same code, 25 times faster, where faces need not be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(camera, "WORK_HEIGHT", 80)
        yield


@pytest.fixture(scope="module", params=[*SITES, "lakeside"])
def hospital(request, coarse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital") / request.param
    return write_hospital(folder, site=request.param, patients=24, seed=3)


def _table(folder, name):
    with (folder / "truth" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_good_patient_comes_back_with_its_label_age_and_body_mass(hospital):
    entries = {entry.patient_id: entry for entry in read_manifest(hospital.folder).entries}
    truth = _table(hospital.folder, "truth.csv")
    assert len(truth) == hospital.num_patients == 24
    for row in truth:
        entry = entries[row["patient"]]
        assert entry.label == int(row["label"])
        assert (entry.sex, entry.age_years) == (row["sex"], int(row["age_years"]))
        assert entry.bmi == pytest.approx(float(row["bmi"]), abs=1e-3)
        assert sorted(path.name for path in entry.photos) == row["photos"].split()


def test_patients_with_a_bad_row_are_left_out_and_those_with_a_bad_photo_are_not(hospital):
    manifest = read_manifest(hospital.folder)
    entries = {entry.patient_id for entry in manifest.entries}
    bad = _table(hospital.folder, "bad.csv")
    excluded = {row["patient"] for row in bad if row["expected"] == "excluded"}
    good = {row["patient"] for row in _table(hospital.folder, "truth.csv")}
    assert len(excluded) == hospital.bad_rows
    assert entries == good | {row["patient"] for row in bad} - excluded
    for patient_id in excluded:
        assert any(patient_id in problem.what for problem in manifest.excluded)


def test_nothing_is_wrong_that_is_not_listed(hospital):
    bad = {row["patient"] for row in _table(hospital.folder, "bad.csv")}
    good = {row["patient"] for row in _table(hospital.folder, "truth.csv")}
    assert not bad & good
    manifest = read_manifest(hospital.folder)
    assert not [problem for problem in manifest.excluded if any(patient in problem.what for patient in good)]


def test_site_toml_is_read_and_names_the_files_that_are_there(hospital):
    data = read_site_data(hospital.folder)
    assert data.site.name == hospital.site
    assert (hospital.folder / data.photos.folder).is_dir()
    assert (hospital.folder / data.dxa.file).is_file()
    assert set(tomllib.loads((hospital.folder / "site.toml").read_text())) == {
        "site",
        "photos",
        "dxa",
        "labels",
    }


def test_built_in_sites_export_in_three_formats():
    assert {style.export for style in BUILT_IN.values()} == {"csv-long", "csv-wide", "fhir"}


def test_every_usable_photo_has_a_label_map_of_its_size_and_no_other_photo_has(hospital):
    quarantined = {row["where"].removeprefix("photos/") for row in _table(hospital.folder, "bad.csv")
                   if row["expected"] == "quarantined"}  # fmt: skip
    maps = hospital.folder / "truth" / "regions"
    photos = {path.name for path in (hospital.folder / "photos").iterdir()}
    assert {path.name.removesuffix(".png") for path in maps.iterdir()} == photos - quarantined
    name = min(photos - quarantined)
    regions = np.asarray(Image.open(maps / f"{name}.png"))
    assert regions.shape == read_photo(hospital.folder / "photos" / name).shape[:2]
    assert set(np.unique(regions)) <= {region.value for region in Region}


def test_truth_stays_outside_the_photos(hospital):
    names = [path.name for path in (hospital.folder / "photos").rglob("*")]
    assert not [name for name in names if name.endswith((".csv", ".json", ".part"))]
    assert hospital.num_photos + hospital.bad_photos + hospital.bad_rows == len(names)


def test_the_card_says_what_the_label_maps_mean(hospital):
    card = json.loads((hospital.folder / "truth" / "generator.json").read_text())
    assert card["regions"]["mandible"] == Region.MANDIBLE
    assert set(card["causal_regions"]) == {"mandible", "chin", "orbits", "eyes", "maxilla", "mouth"}
    assert (card["site"], card["seed"], card["mode"]) == (hospital.site, 3, "causal")


def test_equal_arguments_give_equal_bytes_and_another_seed_gives_others(coarse, tmp_path):
    write_hospital(tmp_path / "a", site="riverside", patients=3, seed=1)
    write_hospital(tmp_path / "b", site="riverside", patients=3, seed=1)
    write_hospital(tmp_path / "c", site="riverside", patients=3, seed=2)
    first, again, other = (_digests(tmp_path / name) for name in "abc")
    assert first == again
    assert not set(first.values()) & {value for name, value in other.items() if name.startswith("photos")}


def test_a_larger_cohort_keeps_the_photos_of_the_smaller(coarse, tmp_path):
    write_hospital(tmp_path / "small", site="hilltop", patients=2, seed=1)
    write_hospital(tmp_path / "large", site="hilltop", patients=5, seed=1)
    small, large = _digests(tmp_path / "small"), _digests(tmp_path / "large")
    for row in _table(tmp_path / "small", "truth.csv"):
        for photo in row["photos"].split():
            assert small[f"photos/{photo}"] == large[f"photos/{photo}"]


def test_an_interrupted_run_goes_on_and_ends_the_same(coarse, tmp_path):
    class Interrupted(Exception):  # noqa: N818  # stands for the user's Ctrl-C
        pass

    def stop(done, _total):
        if done == 2:
            raise Interrupted

    whole = write_hospital(tmp_path / "whole", site="harbour", patients=3, seed=9)
    with pytest.raises(Interrupted):
        write_hospital(tmp_path / "part", site="harbour", patients=3, seed=9, on_progress=stop)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "part" / "photos").iterdir()}
    resumed = write_hospital(tmp_path / "part", site="harbour", patients=3, seed=9)
    assert _digests(tmp_path / "part") == _digests(tmp_path / "whole")
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert resumed.class_counts == whole.class_counts


def test_progress_counts_up_to_all_patients(coarse, tmp_path):
    seen = []
    write_hospital(
        tmp_path / "h", site="harbour", patients=2, seed=0, on_progress=lambda *at: seen.append(at)
    )
    assert seen == [(done, 7) for done in range(1, 8)]


def test_a_folder_with_something_else_is_left_alone(coarse, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        write_hospital(tmp_path, site="harbour", patients=2, seed=0)
    write_hospital(tmp_path / "h", site="harbour", patients=1, seed=0)
    with pytest.raises(UsageError, match="another synthetic cohort"):
        write_hospital(tmp_path / "h", site="harbour", patients=1, seed=1)


def test_a_cohort_of_nobody_is_refused(tmp_path):
    with pytest.raises(UsageError, match="0 patients"):
        write_hospital(tmp_path / "h", site="harbour", patients=0, seed=0)


def test_shortcut_mode_changes_the_labels_and_says_so(coarse, tmp_path):
    write_hospital(tmp_path / "h", site="harbour", patients=12, seed=0, mode="shortcut")
    rows = _table(tmp_path / "h", "truth.csv")
    ages = np.array([int(row["age_years"]) for row in rows])
    latent = np.array([float(row["latent_t"]) for row in rows])
    assert np.corrcoef(ages, latent)[0, 1] < -0.75
    assert json.loads((tmp_path / "h" / "truth" / "generator.json").read_text())["causal_regions"] == []


def test_at_the_demos_size_every_kind_of_bad_row_and_photo_occurs():
    for style in BUILT_IN.values():
        assert round(style.bad_rows * 150) >= len(BAD_ROWS)
    photos = {(style.first_bad + place) % len(BAD_PHOTOS)
              for style in BUILT_IN.values() for place in range(round(style.bad_photos * 150))}  # fmt: skip
    assert photos == set(range(len(BAD_PHOTOS)))


@pytest.fixture(scope="module")
def shots():
    style = style_of("harbour")
    pictures = []
    for number in (0, 1):
        patient = draw_patient("harbour", style.mix, seed=4, number=number, mode="causal")
        rng = stream("harbour", 4, number, "photo 1")
        pictures.append(camera.take(scene_of(patient, style, rng), style.camera, rng)[0])
    room = camera.take_room(scene_of(patient, style, rng), style.camera, rng)
    return Shots(patient=pictures[0], other=lambda: pictures[1], room=lambda: room, camera=style.camera)


@pytest.fixture(scope="module")
def preparer():
    return FacePreparer(device="cpu")


@pytest.mark.parametrize("kind", BAD_PHOTOS, ids=lambda kind: kind.kind)
def test_the_real_preparation_treats_each_bad_photo_as_its_kind_expects(kind, shots, preparer, tmp_path):
    path = tmp_path / f"photo{kind.suffix}"
    path.write_bytes(kind.make(shots))
    if kind.expected == "usable":
        assert preparer.prepare_file(path).face.shape == (160, 160, 3)
    else:
        with pytest.raises(Quarantined):
            preparer.prepare_file(path)


def test_a_phone_photo_reads_upright_and_a_16_bit_png_reads_exactly(shots, tmp_path):
    by_kind = {kind.kind: kind for kind in BAD_PHOTOS}
    original = np.asarray(shots.patient).astype(float)
    phone, png = tmp_path / "phone.jpg", tmp_path / "deep.png"
    phone.write_bytes(by_kind["exif_rotated"].make(shots))
    png.write_bytes(by_kind["png_16_bit"].make(shots))
    assert Image.open(phone).size == shots.patient.size[::-1]
    assert np.abs(read_photo(phone) - original).mean() < 6
    assert np.array_equal(read_photo(png), np.asarray(shots.patient))


def test_a_cmyk_photo_is_really_cmyk(shots):
    kind = next(kind for kind in BAD_PHOTOS if kind.kind == "cmyk")
    assert Image.open(io.BytesIO(kind.make(shots))).mode == "CMYK"


def test_a_record_agrees_with_its_patient():
    style = style_of("harbour")
    for number in range(50):
        patient = draw_patient("harbour", style.mix, seed=2, number=number, mode="causal")
        record = record_of(patient, "P1", np.random.default_rng(number))
        had_birthday = (record.scan_date.month, record.scan_date.day) >= (
            record.birth_date.month,
            record.birth_date.day,
        )
        assert record.scan_date.year - record.birth_date.year - (not had_birthday) == patient.age_years
        diagnostic = {reading.region: reading for reading in record.readings if reading.region != "wards"}
        assert {name: round(10 * float(item.t)) for name, item in diagnostic.items()} == patient.t_tenths
        assert "-0.0" not in {item.t for item in record.readings} | {item.z for item in record.readings}


@pytest.mark.parametrize("kind", BAD_ROWS, ids=lambda kind: kind.kind)
def test_each_kind_of_bad_row_keeps_the_patient_and_spoils_the_record(kind):
    patient = draw_patient("harbour", style_of("harbour").mix, seed=2, number=1, mode="causal")
    record = record_of(patient, "P1", np.random.default_rng(0))
    spoiled = kind.spoil(record)
    assert {item.patient_id for item in spoiled} == {"P1"}
    assert spoiled != (record,)
