"""The cohort: photos joined to patients, selected by split, read from memory maps."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from face2bone_model.contract.errors import CohortError
from face2bone_model.contract.keys import Split
from face2bone_model.data.cohort import load_cohort, photo_name, standardise
from face2bone_model.data.features import FEATURE_SHAPE, CachedFace, FeatureCache, PhotoFile
from face2bone_model.data.manifest import Manifest, ManifestEntry
from face2bone_model.data.preparation import Preparation
from face2bone_model.data.quality import FaceQuality

QUALITY = FaceQuality(
    probability=1, eye_distance=80, yaw=1, pitch=2, roll=3, light=200, clipped=0, sharpness=500, asymmetry=0.3,
    outside=0, chin_outside=0,
)  # fmt: skip
SPLITS = (Split.TRAIN, Split.TEST, Split.TRAIN, Split.VALIDATION)


def patient(site, number, *photos):
    return ManifestEntry(
        patient_id=f"p{number}",
        photos=tuple(site / "photos" / photo for photo in photos),
        label=number % 3,
        sex="female" if number % 2 else "male",
        age_years=60 + number,
        bmi=None if number == 2 else 25.0 + number,
        split=SPLITS[number],
        lowest_t=Decimal("-1.0"),
    )


def cached(site, photos, *, published=None):
    """A cache whose row n holds the number n."""
    entries = [
        CachedFace(
            file=PhotoFile(photo=f"photos/{photo}", patient_id="?", size=1, mtime_ns=n, sha256=str(n)),
            landmarks=((0.0, 0.0),) * 5,
            photo_size=(9, 9),
            quality=QUALITY,
        )
        for n, photo in enumerate(photos)
    ]
    numbers = np.arange(len(photos))
    faces = np.broadcast_to(numbers[:, None, None, None], (len(photos), 160, 160, 3)).astype(np.uint8)
    features = np.broadcast_to(numbers[:, None, None, None], (len(photos), *FEATURE_SHAPE)).astype(np.float16)
    with FeatureCache(site / "cache", settings_digest="s", trunk_digest="t") as cache:
        placed = cache.add_faces(entries, faces, features)
        preparation = Preparation(settings_digest="s", trunk_digest="t", background="u2netp")
        cache.publish(preparation, placed if published is None else [placed[n] for n in published])
    return site / "cache"


@pytest.fixture
def cohort(tmp_path):
    """Patients 0, 1 and 3 with 2, 1 and 1 usable photos; patient 2 with none."""
    cache = cached(tmp_path, ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "stale.jpg"], published=[0, 1, 2, 3])
    entries = (
        patient(tmp_path, 0, "a.jpg", "d.jpg"),
        patient(tmp_path, 1, "b.jpg", "bad.jpg"),
        patient(tmp_path, 2, "stale.jpg"),
        patient(tmp_path, 3, "c.jpg"),
    )
    return load_cohort(cache, Manifest(site="here", entries=entries))


def test_each_patient_has_the_rows_of_its_own_photos(cohort):
    assert cohort.patient_ids == ("p0", "p1", "p3")
    assert [rows.tolist() for rows in cohort.photo_rows] == [[0, 3], [1], [2]]
    assert (cohort.num_patients, cohort.num_photos) == (3, 4)


def test_a_patient_without_a_usable_photo_is_left_out_with_the_reason(cohort):
    (left_out,) = cohort.left_out
    assert left_out.patient_id == "p2"
    assert left_out.reason == "no usable photo"
    assert "contact-sheet" in left_out.problem.mend


def test_a_batch_holds_the_chosen_photo_of_each_patient(cohort):
    features, clinical, labels = cohort.batch(np.array([2, 0, 0]), np.array([0, 0, 1]))
    assert features.dtype == np.float16
    assert features.shape == (3, *FEATURE_SHAPE)
    assert features[:, 5, 4, 3].tolist() == [2.0, 0.0, 3.0]
    assert labels.tolist() == [0, 0, 0]
    assert np.allclose(clinical[1], [-0.5, -0.5, 0.0])
    faces, _, _ = cohort.batch_faces(np.array([2, 0, 0]), np.array([0, 0, 1]))
    assert faces[:, 0, 0, 0].tolist() == [2, 0, 3]


def test_a_batch_may_be_empty(cohort):
    nobody = np.array([], dtype=np.int64)
    features, clinical, labels = cohort.batch(nobody, nobody)
    assert features.shape == (0, *FEATURE_SHAPE)
    assert (clinical.shape, labels.shape) == ((0, 3), (0,))


def test_splits_share_no_patient_and_lose_none(cohort):
    parts = [cohort.select(split) for split in Split]
    assert [part.patient_ids for part in parts] == [("p0",), ("p3",), ("p1",)]
    assert parts[2].photo_rows[0].tolist() == [1]
    assert parts[2].ages.tolist() == [61]
    assert parts[2].female.tolist() == [True]
    assert parts[2].batch(np.array([0]), np.array([0]))[0][0, 0, 0, 0] == 1.0


def test_selecting_copies_no_photo(cohort):
    assert isinstance(cohort.features, np.memmap)
    assert cohort.select(Split.TRAIN).features is cohort.features


def test_a_photo_filed_for_two_patients_is_used_for_neither(tmp_path):
    cache = cached(tmp_path, ["a.jpg", "b.jpg"])
    entries = (patient(tmp_path, 0, "a.jpg", "b.jpg"), patient(tmp_path, 1, "a.jpg"))
    cohort = load_cohort(cache, Manifest(site="here", entries=entries))
    assert cohort.patient_ids == ("p0",)
    assert cohort.photo_rows[0].tolist() == [1]
    assert cohort.problems[0].where == "photos/a.jpg"


def test_the_same_photo_twice_for_one_patient_counts_once(tmp_path):
    cache = cached(tmp_path, ["a.jpg"])
    entry = patient(tmp_path, 0, "a.jpg", "a.jpg")
    assert load_cohort(cache, Manifest(site="here", entries=(entry,))).photo_rows[0].tolist() == [0]


def test_a_site_without_any_patient_has_an_empty_cohort(tmp_path):
    cohort = load_cohort(cached(tmp_path, ["a.jpg"]), Manifest(site="here", entries=()))
    assert cohort.num_patients == 0
    assert cohort.clinical.shape == (0, 3)
    assert cohort.select(Split.TEST).num_patients == 0


def test_an_unprepared_site_and_a_short_cache_are_told(tmp_path):
    with pytest.raises(CohortError, match="not prepared"):
        load_cohort(tmp_path / "cache", Manifest(site="here", entries=()))
    cache = cached(tmp_path, ["a.jpg", "b.jpg"])
    with (cache / "faces.u8").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(CohortError, match="fewer rows"):
        load_cohort(cache, Manifest(site="here", entries=()))


@pytest.mark.parametrize(
    ("age", "sex", "bmi", "expected"),
    [
        (65, "female", 25.0, (0, 0.5, 0)),
        (75, "male", 33.0, (1, -0.5, 2)),
        (50, "female", None, (-1.5, 0.5, 0)),
    ],
)
def test_clinical_values_are_standardised_with_public_constants(age, sex, bmi, expected):
    assert standardise(age, sex, bmi) == pytest.approx(expected)


def test_a_photo_is_named_by_its_path_below_the_site():
    for site in (Path("/data/site"), Path("site")):
        assert photo_name(site / "photos" / "x.jpg", site) == "photos/x.jpg"
        assert photo_name(site.absolute() / "photos" / "x.jpg", site) == "photos/x.jpg"
    assert photo_name(Path("/elsewhere/x.jpg"), Path("/data/site")) == "/elsewhere/x.jpg"
