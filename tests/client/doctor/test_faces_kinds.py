"""Everything the doctor looks for in photos and prepared faces, seeded in a real hospital's photos."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from skimage.data import astronaut

from f2b_client.doctor.data_facts import read_facts
from f2b_client.doctor.faces_alike import ALIKE, similar_pairs
from f2b_client.doctor.faces_files import association, check_pictures, read_pictures
from f2b_client.doctor.faces_prepared import (
    check_faces,
    check_quarantine,
    check_same_face,
    check_turned,
    wears_glasses,
    wears_mask,
)
from f2b_client.doctor.finding import Verdict
from face2bone_model.contract.keys import Split
from face2bone_model.data.detection import FaceDetector
from face2bone_model.data.face import FacePreparer
from face2bone_model.data.preparation import PreparationSettings

FILE_KINDS = {}
FACE_KINDS = {
    "bgr-photos": Verdict.WARN,
    "greyscale-photos": Verdict.WARN,
    "face-masks": Verdict.WARN,
    "glasses": Verdict.WARN,
    "soft-photos": Verdict.WARN,
    "same-face-two-ids": Verdict.WARN,
    "same-face-across-splits": Verdict.FAIL,
    "quarantine": Verdict.WARN,
    "rotated-photos": Verdict.WARN,
}


def kind(check, verdict=Verdict.WARN):
    """Register how to seed one kind, the check that must find it, and the least verdict."""

    def register(seed):
        FILE_KINDS[seed.__name__] = (seed, check, verdict)
        return seed

    return register


def photos_of(site):
    """The first photo of each patient, sorted."""
    return sorted((site.path / "photos").glob("*_1.jpg"))


def save(picture, path, **options):
    picture.save(path, **({"quality": 90} | options))


def renew(path, make, **options):
    with Image.open(path) as picture:
        picture.load()
    save(make(picture), path, **options)


# Files


@kind("same-photo-two-ids", Verdict.FAIL)
def same_photo_at_another_size(site):
    one, two = photos_of(site)[:2]
    with Image.open(one) as picture:
        save(picture.resize((300, 375)), two, quality=60)


@kind("same-photo-two-ids", Verdict.FAIL)
def same_photo_without_its_border(site):
    one, two = photos_of(site)[2:4]
    with Image.open(one) as picture:
        save(picture.crop((4, 5, 476, 595)), two)


@kind("mirrored-photos")
def mirrored_copy(site):
    one = photos_of(site)[0]
    with Image.open(one) as picture:
        save(ImageOps.mirror(picture), one.with_name(one.name.replace("_1", "_8")))


@kind("mirrored-photos")
def mirrored_by_exif(site):
    exif = Image.Exif()
    exif[0x0112] = 2
    renew(photos_of(site)[0], lambda picture: picture, exif=exif)


@kind("screenshots")
def photo_in_a_gallery(site):
    def framed(picture):
        screen = Image.new("RGB", (480, 900), (0, 0, 0))
        screen.paste(picture, (0, 150))
        return screen

    renew(photos_of(site)[0], framed)


@kind("screenshots")
def lossless_file_of_a_screens_size(site):
    one = photos_of(site)[0]
    with Image.open(one) as picture:
        picture.resize((1170, 2532)).save(one.with_suffix(".png"))
    one.unlink()


@kind("video-frames")
def frames_of_a_video(site):
    for one in photos_of(site)[:8]:
        renew(one, lambda picture: picture.resize((720, 1280)))


@kind("thumbnails")
def thumbnails(site):
    for one in photos_of(site)[:2]:
        renew(one, lambda picture: picture.resize((128, 160)))


@kind("camera-tells-class")
def osteoporosis_by_another_camera(site):
    exif = Image.Exif()
    exif[0x0110] = "Tablet 7"
    for entry in read_facts(site).manifest.entries:
        if entry.label == 2:
            for photo in entry.photos:
                renew(photo, lambda picture: picture, exif=exif)


@pytest.fixture(scope="module")
def file_outcomes(clean, copied, tmp_path_factory):
    """What was found in a copy of the clean site for each kind seeded in its files."""
    root, found = tmp_path_factory.mktemp("files"), {}
    for name, (seed, _, _) in FILE_KINDS.items():
        folder = copied(clean, root / name, linked=("cache",))
        seed(folder)
        found[name] = list(check_pictures(read_facts(folder)))
        shutil.rmtree(folder.path)
    return found


@pytest.mark.parametrize("name", FILE_KINDS)
def test_a_kind_seeded_in_files_is_found_with_a_place_and_a_mend(file_outcomes, name):
    _, check, verdict = FILE_KINDS[name]
    above = [one for one in file_outcomes[name] if one.verdict is not Verdict.PASS]
    assert [one.check for one in above] == [check]
    assert above[0].verdict is verdict
    assert "photos/" in above[0].where or above[0].where == "photos"
    assert above[0].mend


# Prepared faces


def blue(picture):
    return Image.fromarray(np.asarray(picture)[:, :, ::-1])


def grey(picture):
    return picture.convert("L")


def soft(picture):
    return picture.filter(ImageFilter.GaussianBlur(3.2))


def masked(picture):
    """A surgical mask from the bridge of the nose to below the chin."""
    left, right, nose, mouth, _ = landmarks(picture)
    across = right[0] - left[0]
    drawn = picture.copy()
    top, low = nose[1] - 0.25 * across, mouth[1] + 0.85 * across
    corners = [(nose[0] - 0.9 * across, top), (nose[0] + 0.9 * across, top), (nose[0] + 0.6 * across, low)]
    ImageDraw.Draw(drawn).polygon([*corners, (nose[0] - 0.6 * across, low)], fill=(150, 190, 215))
    return drawn


def with_glasses(picture, fill=None):
    """Round frames with a bridge."""
    left, right = landmarks(picture)[:2]
    across = right[0] - left[0]
    drawn = picture.copy()
    pen, width = ImageDraw.Draw(drawn), max(2, int(0.07 * across))
    for x, y in (left, right):
        box = (x - 0.4 * across, y - 0.32 * across, x + 0.4 * across, y + 0.34 * across)
        pen.ellipse(box, outline=(20, 20, 25), width=width, fill=fill)
    pen.line([(left[0] + 0.38 * across, left[1]), (right[0] - 0.38 * across, right[1])], (20, 20, 25), width)
    return drawn


def landmarks(picture):
    return FaceDetector(PreparationSettings(), device="cpu").find(picture, "photo").landmarks


def out_of_focus(picture):
    return picture.filter(ImageFilter.GaussianBlur(12))


@pytest.fixture(scope="module")
def spoilt(clean, copied, prepare, tmp_path_factory):
    """One site with a share of its photos spoilt in every way, prepared anew."""
    folder = copied(clean, tmp_path_factory.mktemp("spoilt") / "site")
    photos = photos_of(folder)
    ways = [blue] * 3 + [grey] * 3 + [masked] * 5 + [with_glasses] * 5 + [soft] * 9 + [out_of_focus] * 10
    for photo, way in zip(photos, ways, strict=False):
        renew(photo, way)
    renew(photos[-1], lambda picture: picture.transpose(Image.Transpose.ROTATE_90))
    prepare(folder)
    yield folder
    shutil.rmtree(folder.path)


@pytest.fixture(scope="module")
def twins(clean, copied, prepare, tmp_path_factory):
    """A patient filed twice in the training patients, and one in training and test."""
    folder = copied(clean, tmp_path_factory.mktemp("twins") / "site")
    splits = read_facts(folder).manifest.splits
    of = {
        split: [one for one in photos_of(folder) if splits[one.name.split("_")[0]] == split]
        for split in Split
    }
    for source, copy in zip(of[Split.TRAIN][:2], (of[Split.TRAIN][2], of[Split.TEST][0]), strict=True):
        with Image.open(source) as picture:
            save(picture.crop((9, 11, 471, 589)).resize((520, 650)), copy, quality=70)
    prepare(folder)
    yield folder
    shutil.rmtree(folder.path)


def face_findings(folder):
    facts = read_facts(folder)
    rules = (check_faces, check_same_face, check_quarantine, check_turned)
    return {one.check: one for rule in rules for one in rule(facts, facts.prepared)}


@pytest.fixture(scope="module")
def face_outcomes(spoilt, twins):
    same = face_findings(twins)
    return face_findings(spoilt) | {
        check: same[check] for check in FACE_KINDS if check.startswith("same-face")
    }


def test_twins_are_found_and_nothing_else(twins):
    above = {one.check: one.what for one in face_findings(twins).values() if one.verdict is not Verdict.PASS}
    assert above.keys() == {"same-face-two-ids", "same-face-across-splits"}
    assert above["same-face-two-ids"].startswith("2 pairs")
    assert above["same-face-across-splits"].startswith("1 pair")


@pytest.mark.parametrize("check", FACE_KINDS)
def test_a_kind_seeded_in_faces_is_found_with_a_place_and_a_mend(face_outcomes, check):
    found = face_outcomes[check]
    assert found.verdict is FACE_KINDS[check], found.what
    assert "photos/" in found.where
    assert found.mend


def test_of_all_seeded_kinds_at_least_95_percent_are_found(file_outcomes, face_outcomes):
    found = [face_outcomes[check].verdict is not Verdict.PASS for check in FACE_KINDS]
    found += [
        any(one.check == check and one.verdict is not Verdict.PASS for one in file_outcomes[name])
        for name, (_, check, _) in FILE_KINDS.items()
    ]
    assert sum(found) >= 0.95 * len(found)


def test_a_clean_site_has_no_finding_above_pass(clean):
    found = [*check_pictures(read_facts(clean)), *face_findings(clean).values()]
    assert [one for one in found if one.verdict is not Verdict.PASS] == []


# The measures, on a real photograph


@pytest.mark.parametrize(
    ("change", "mask", "glasses"),
    [
        (lambda picture: picture, False, False),
        (masked, True, False),
        (with_glasses, False, True),
        (lambda picture: with_glasses(picture, fill=(25, 25, 30)), False, True),
    ],
)
def test_masks_and_glasses_are_told_on_a_photograph(change, mask, glasses):
    photo = np.asarray(change(Image.fromarray(astronaut())))
    face = FacePreparer(device="cpu").prepare(photo, name="astronaut").face
    assert (wears_mask(face), wears_glasses(face)) == (mask, glasses)


def test_a_dropped_file_that_is_no_picture_is_passed_over(site):
    (site.path / "photos" / "HA0100003_9.jpg").write_bytes(b"no picture")
    before = len(list((site.path / "photos").iterdir()))
    assert len(read_pictures(read_facts(site))) == before - 1


def test_a_photo_too_dark_to_see_is_no_screenshot(site):
    renew(photos_of(site)[0], lambda picture: picture.point(lambda value: value * 0.06))
    (found,) = (one for one in check_pictures(read_facts(site)) if one.check == "screenshots")
    assert found.verdict is Verdict.PASS


def test_orientation_and_camera_are_read_from_exif(site):
    exif = Image.Exif()
    exif[0x0112], exif[0x0110] = 6, "Tablet 7"
    renew(photos_of(site)[0], lambda picture: picture, exif=exif)
    picture = read_pictures(read_facts(site))[0]
    assert (picture.orientation, picture.camera, picture.size) == (6, "Tablet 7", (480, 600))


def test_association_is_one_where_the_name_tells_the_class_and_near_zero_where_it_does_not():
    told = [("a", 0)] * 20 + [("b", 1)] * 20
    assert association(told)[0] == pytest.approx(1.0)
    mixed = [("a", 0), ("a", 1), ("b", 0), ("b", 1)] * 10
    assert association(mixed) == (pytest.approx(0.0), pytest.approx(1.0))
    assert association([("a", 0), ("a", 1)]) == (0.0, 1.0)


def test_association_is_cramers_v_by_its_formula():
    pairs = [("a", 0)] * 30 + [("a", 1)] * 10 + [("b", 0)] * 15 + [("b", 1)] * 45
    # phi of a 2 x 2 table: (ad - bc) / sqrt of the product of its margins
    phi = (30 * 45 - 10 * 15) / np.sqrt(40 * 60 * 45 * 55)
    assert association(pairs)[0] == pytest.approx(phi)


def test_similar_pairs_are_those_of_the_direct_formula():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(12, 896, 8, 8)).astype(np.float16)
    for copy, original in ((9, 2), (3, 0)):
        features[copy] = features[original] + 0.05 * rng.normal(size=(896, 8, 8)).astype(np.float16)
    rows = np.array([11, 2, 5, 9, 0, 1, 3, 4, 6, 7])
    owners = np.array([0, 1, 2, 3, 4, 5, 4, 6, 7, 8])  # rows 0 and 3 are of one patient, 2 and 9 are not
    pooled = features[rows].astype(np.float64).reshape(10, 896, 4, 2, 4, 2).mean(axis=(3, 5)).reshape(10, -1)
    distances = np.linalg.norm(pooled[:, None] - pooled, axis=2)
    distances[owners[:, None] == owners] = np.inf
    limit = ALIKE * np.median(distances.min(axis=1))
    expected = [(int(a), int(b)) for a, b in np.argwhere(distances <= limit) if a < b]
    assert similar_pairs(features, rows, owners) == expected == [(1, 3)]
    assert similar_pairs(features, rows[:7], owners[:7]) == []


def test_jpeg_and_heic_are_both_looked_at(site):
    one = photos_of(site)[0]
    with Image.open(one) as picture:
        buffer = io.BytesIO()
        read_pictures(read_facts(site))  # registers HEIF
        picture.save(buffer, "HEIF")
    one.with_suffix(".heic").write_bytes(buffer.getvalue())
    one.unlink()
    assert read_pictures(read_facts(site))[0].photo.endswith(".heic")
