"""Quality: each measure against a case whose answer is known."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from face2bone_model.data.alignment import TEMPLATE
from face2bone_model.data.masks import inner_face
from face2bone_model.data.preparation import PreparationSettings
from face2bone_model.data.quality import _HEAD, FaceQuality, laplacian, measure_pixels, pose, verdict
from face2bone_model.data.quarantine import QuarantineReason

GOOD = FaceQuality(
    probability=1.0,
    eye_distance=80.0,
    yaw=0.0,
    pitch=0.0,
    roll=0.0,
    light=200.0,
    clipped=0.0,
    sharpness=500.0,
    asymmetry=0.3,
    outside=0.0,
    chin_outside=0.0,
)


def head_seen(yaw, pitch, roll):
    """The generic head's landmarks after turning right, then up, then clockwise; x right, y down, z away."""
    y, p, r = (math.radians(value) for value in (yaw, pitch, roll))
    turn = np.array([[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]])
    nod = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    lean = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return (_HEAD @ (lean @ turn @ nod).T)[:, :2] * 1.7 + [300, 200]


def test_a_frontal_head_has_no_angles():
    assert all(abs(angle) < 1e-6 for angle in pose(head_seen(0, 0, 0)).values())


@pytest.mark.parametrize("angle", [-35, -10, 5, 30])
def test_each_angle_is_found_alone(angle):
    assert pose(head_seen(angle, 0, 0)) == pytest.approx({"yaw": angle, "pitch": 0, "roll": 0}, abs=1e-6)
    assert pose(head_seen(0, angle, 0)) == pytest.approx({"yaw": 0, "pitch": angle, "roll": 0}, abs=1e-6)
    assert pose(head_seen(0, 0, angle))["roll"] == pytest.approx(angle, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(-40, 40), st.floats(-30, 30), st.floats(0.2, 30), st.floats(-999, 999))
def test_size_and_place_of_the_face_do_not_change_its_pose(yaw, pitch, scale, shift):
    points = head_seen(yaw, pitch, 0)
    assert pose(points * scale + shift) == pytest.approx(pose(points), abs=1e-5)


def test_the_template_is_frontal():
    angles = pose(TEMPLATE)
    assert abs(angles["yaw"]) < 2
    assert abs(angles["roll"]) < 2


def test_the_nose_towards_the_right_edge_is_positive_yaw():
    points = TEMPLATE.copy()
    points[2, 0] += 8
    assert pose(points)["yaw"] > 5


def test_the_laplacian_agrees_with_scipy():
    image = np.random.default_rng(0).normal(size=(30, 40))
    assert np.allclose(laplacian(image), ndimage.laplace(image, mode="nearest"))


def textured(seed=0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(160, 160)), 1.0)
    return np.clip(128 + 250 * noise, 0, 255)[..., None].repeat(3, axis=2)


def test_blur_lowers_sharpness_and_contrast_does_not():
    sharp = textured()
    blurred = ndimage.gaussian_filter(sharp, (2, 2, 0))
    faint = 128 + 0.4 * (sharp - 128)
    of = [measure_pixels(np.round(face).astype(np.uint8))["sharpness"] for face in (sharp, blurred, faint)]
    assert of[1] < of[0] / 10
    assert of[2] == pytest.approx(of[0], rel=0.05)


def test_a_mirrored_face_has_no_asymmetry_and_a_covered_half_has():
    half = textured()
    symmetric = np.concatenate([half[:, :80], half[:, :80][:, ::-1]], axis=1).astype(np.uint8)
    covered = symmetric.copy()
    covered[:, 80:] = 30
    assert measure_pixels(symmetric)["asymmetry"] == 0
    assert measure_pixels(covered)["asymmetry"] > 0.5


def test_light_and_clipping_are_those_of_the_inner_face():
    face = np.full((160, 160, 3), 40, np.uint8)
    face[~inner_face()] = 255
    measures = measure_pixels(face)
    assert measures["light"] == pytest.approx(40)
    assert measures["clipped"] == 0
    assert measure_pixels(np.full((160, 160, 3), 255, np.uint8))["clipped"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"eye_distance": 23}, QuarantineReason.TOO_SMALL),
        ({"outside": 0.11}, QuarantineReason.TOUCHES_EDGE),
        ({"chin_outside": 0.02}, QuarantineReason.TOUCHES_EDGE),
        ({"yaw": -26}, QuarantineReason.TURNED_AWAY),
        ({"pitch": 41}, QuarantineReason.TURNED_AWAY),
        ({"roll": 41}, QuarantineReason.TURNED_AWAY),
        ({"light": 59}, QuarantineReason.TOO_DARK),
        ({"clipped": 0.31}, QuarantineReason.TOO_BRIGHT),
        ({"sharpness": 39}, QuarantineReason.TOO_BLURRED),
    ],
)
def test_each_limit_has_its_reason_and_a_good_face_has_none(change, reason):
    settings_ = PreparationSettings()
    assert verdict(GOOD, settings_) is None
    found = verdict(dataclasses.replace(GOOD, **change), settings_)
    assert found is not None
    assert found[0] is reason
    assert found[1].endswith(".")


def test_asymmetry_never_rules_a_face_out():
    assert verdict(dataclasses.replace(GOOD, asymmetry=9.0), PreparationSettings()) is None


def test_every_reason_has_a_sentence_and_a_mend():
    for reason in QuarantineReason:
        assert reason.sentence.endswith(".")
        assert reason.mend.endswith(".")


def test_the_digest_changes_with_each_setting_and_with_the_background():
    digests = {PreparationSettings().digest(background="ellipse-only")}
    for field in dataclasses.fields(PreparationSettings):
        changed = dataclasses.replace(PreparationSettings(), **{field.name: field.default + 1})
        digests.add(changed.digest(background="ellipse-only"))
    digests.add(PreparationSettings().digest(background="u2netp"))
    assert len(digests) == len(dataclasses.fields(PreparationSettings)) + 2
