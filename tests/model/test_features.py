"""The cache: resumable, repaired after a crash, and never confused about what a row was made from."""

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face2bone_model.contract.errors import CohortError, UsageError
from face2bone_model.data.features import (
    FEATURE_SHAPE,
    CachedFace,
    FeatureCache,
    PhotoFile,
    QuarantinedPhoto,
    map_faces,
    map_features,
    read_current,
)
from face2bone_model.data.preparation import Preparation
from face2bone_model.data.quality import FaceQuality
from face2bone_model.data.quarantine import QuarantineReason

QUALITY = FaceQuality(
    probability=1, eye_distance=80, yaw=1, pitch=2, roll=3, light=200, clipped=0, sharpness=500, asymmetry=0.3,
    outside=0, chin_outside=0,
)  # fmt: skip
FACE_BYTES, FEATURE_BYTES = 160 * 160 * 3, 896 * 64 * 2


def opened(folder, settings_digest="s", trunk_digest="t"):
    return FeatureCache(folder, settings_digest=settings_digest, trunk_digest=trunk_digest)


def entry(number, content="content"):
    file = PhotoFile(
        photo=f"photos/ä{number}.jpg",
        patient_id=f"p{number}",
        size=10,
        mtime_ns=number,
        sha256=f"{content}{number}",
    )
    return CachedFace(file=file, landmarks=((1.0, 2.0),) * 5, photo_size=(640, 480), quality=QUALITY)


def rows(numbers):
    faces = np.stack([np.full((160, 160, 3), number, np.uint8) for number in numbers])
    features = np.stack([np.full(FEATURE_SHAPE, number, np.float16) for number in numbers])
    return faces, features


def filled(folder, count):
    with opened(folder) as cache:
        for number in range(count):
            cache.add_faces([entry(number)], *rows([number]))
    return folder


def check(folder, count):
    """Every row is whole and belongs to its line."""
    with opened(folder) as cache:
        assert cache.num_rows == count
        assert [cache.find(entry(number).file).row for number in range(count)] == list(range(count))
    faces, features = map_faces(folder), map_features(folder)
    assert faces.shape == (count, 160, 160, 3)
    assert features.shape == (count, *FEATURE_SHAPE)
    assert all(
        (faces[number] == number).all() and (features[number] == number).all() for number in range(count)
    )


def test_what_is_added_is_found_again_after_reopening(tmp_path):
    with opened(tmp_path) as cache:
        placed = cache.add_faces([entry(0), entry(1)], *rows([0, 1]))
        assert [face.row for face in placed] == [0, 1]
        assert cache.find(entry(1).file) == placed[1]
    check(tmp_path, 2)
    with opened(tmp_path) as cache:
        assert cache.find(entry(1).file) == placed[1]


def test_a_photo_is_known_by_path_size_and_time_without_reading_it(tmp_path):
    known = filled(tmp_path, 1)
    file = entry(0).file
    unread = PhotoFile(photo=file.photo, patient_id="p0", size=file.size, mtime_ns=file.mtime_ns)
    touched = PhotoFile(photo=file.photo, patient_id="p0", size=file.size, mtime_ns=file.mtime_ns + 1)
    with opened(known) as cache:
        assert cache.find(unread) is not None
        assert cache.find(touched) is None


def test_a_moved_photo_is_known_by_its_content(tmp_path):
    filled(tmp_path, 1)
    moved = PhotoFile(photo="other.jpg", patient_id="p0", size=1, mtime_ns=1, sha256="content0")
    with opened(tmp_path) as cache:
        assert cache.find(moved).row == 0


@pytest.mark.parametrize("digests", [("other", "t"), ("s", "other")])
def test_other_settings_or_another_trunk_make_a_photo_unknown(tmp_path, digests):
    filled(tmp_path, 1)
    unread = PhotoFile(photo="photos/ä0.jpg", patient_id="p0", size=10, mtime_ns=0)
    with opened(tmp_path, *digests) as cache:
        assert cache.find(entry(0).file) is None
        assert cache.find(unread) is None
        assert cache.add_faces([entry(0)], *rows([7]))[0].row == 1


def test_changed_content_makes_a_photo_unknown(tmp_path):
    filled(tmp_path, 1)
    with opened(tmp_path) as cache:
        assert cache.find(entry(0, content="changed").file) is None


def test_a_quarantined_photo_is_remembered_with_its_reason(tmp_path):
    photo = QuarantinedPhoto(file=entry(0).file, reason=QuarantineReason.NO_FACE, detail="Nothing.")
    with opened(tmp_path) as cache:
        cache.add_quarantined([photo])
    with opened(tmp_path) as cache:
        assert cache.find(photo.file) == photo
        assert cache.num_rows == 0


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_crash_at_any_byte_is_repaired_and_the_rest_kept(tmp_path_factory, data):
    folder = filled(tmp_path_factory.mktemp("cache"), 3)
    name = data.draw(st.sampled_from(["faces.u8", "features.f16", "index.jsonl"]))
    path = folder / name
    size = path.stat().st_size
    cut = data.draw(st.integers(0, size - 1))
    with path.open("r+b") as file:
        file.truncate(cut)
    if name == "index.jsonl":
        whole = path.read_bytes().count(b"\n")
    else:
        whole = cut // (FACE_BYTES if name == "faces.u8" else FEATURE_BYTES)
    check(folder, whole)
    with opened(folder) as cache:
        for number in range(whole, 3):
            cache.add_faces([entry(number)], *rows([number]))
    check(folder, 3)


def test_a_torn_line_of_the_quarantine_is_cut_off(tmp_path):
    with opened(tmp_path) as cache:
        cache.add_quarantined(
            [
                QuarantinedPhoto(file=entry(n).file, reason=QuarantineReason.NO_FACE, detail="")
                for n in range(2)
            ]
        )
    path = tmp_path / "quarantine.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    with opened(tmp_path) as cache:
        assert cache.find(entry(0).file) is not None
        assert cache.find(entry(1).file) is None
    assert path.read_bytes().endswith(b"\n")


def test_rows_written_without_their_line_are_overwritten(tmp_path):
    filled(tmp_path, 1)
    with (tmp_path / "faces.u8").open("ab") as file:
        file.write(b"\x63" * (FACE_BYTES + 17))
    with opened(tmp_path) as cache:
        cache.add_faces([entry(1)], *rows([1]))
    check(tmp_path, 2)


def test_two_processes_cannot_prepare_one_folder(tmp_path):
    with opened(tmp_path), pytest.raises(UsageError, match="Another process"):
        opened(tmp_path)
    with opened(tmp_path):
        pass


def test_arrays_of_another_shape_are_refused(tmp_path):
    with opened(tmp_path) as cache, pytest.raises(ValueError, match="1 entries"):
        cache.add_faces([entry(0)], *rows([0, 1]))


def test_what_is_published_is_read_back(tmp_path):
    preparation = Preparation(settings_digest="s", trunk_digest="t", background="u2netp")
    with pytest.raises(CohortError, match="not prepared"):
        read_current(tmp_path)
    with opened(tmp_path) as cache:
        cache.publish(preparation, cache.add_faces([entry(0), entry(1)], *rows([0, 1])))
    assert read_current(tmp_path) == (preparation, {"photos/ä0.jpg": 0, "photos/ä1.jpg": 1})
    assert (tmp_path / "current.json").stat().st_mode & 0o077 == 0


def test_an_empty_cache_maps_to_no_rows(tmp_path):
    assert map_faces(tmp_path).shape == (0, 160, 160, 3)
    assert map_features(tmp_path).shape == (0, *FEATURE_SHAPE)


@pytest.mark.benchmark
def test_ten_thousand_photos_open_and_are_looked_up_within_two_seconds(tmp_path):
    with opened(tmp_path) as cache:
        key_of = cache.key_of
    lines = []
    for number in range(10_000):
        cached = entry(number)
        record = {"key": key_of(cached.file.sha256), "file": vars(cached.file), "landmarks": cached.landmarks}
        record |= {"photo_size": cached.photo_size, "quality": vars(QUALITY)}
        lines.append(json.dumps(record) + "\n")
    (tmp_path / "index.jsonl").write_text("".join(lines))
    for name, size in (("faces.u8", FACE_BYTES), ("features.f16", FEATURE_BYTES)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(10_000 * size)
    began = time.process_time()
    with opened(tmp_path) as cache:
        assert all(cache.find(entry(number).file).row == number for number in range(10_000))
    assert time.process_time() - began < 2.0
