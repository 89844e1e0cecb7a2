"""Alignment: an exact similarity, no aliasing, and room for the chin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.data import astronaut
from skimage.transform import SimilarityTransform

from face2bone_model.data.alignment import (
    NEUTRAL,
    TEMPLATE,
    TEMPLATE_EYE_DISTANCE,
    Similarity,
    fit_similarity,
    inside_photo,
    warp,
)
from face2bone_model.data.masks import face_ellipse, inner_face, lower_face

POINTS = np.array([[205.0, 102.0], [247.0, 104.0], [225.0, 129.0], [202.0, 139.5], [245.0, 142.0]])


def test_the_fit_agrees_with_scikit_image():
    ours = fit_similarity(POINTS)
    theirs = SimilarityTransform.from_estimate(POINTS, TEMPLATE)
    probe = np.array([[0.0, 0.0], [160.0, 40.0], [80.0, 150.0]])
    assert np.allclose(ours.inverse(probe), theirs.inverse(probe), atol=1e-8)
    assert ours.scale == pytest.approx(theirs.scale)


@settings(max_examples=60, deadline=None)
@given(st.floats(-1.5, 1.5), st.floats(0.05, 20.0), st.floats(-500, 500), st.floats(-500, 500))
def test_a_moved_template_is_found_again(angle, scale, x, y):
    turn = scale * np.exp(1j * angle)
    z = (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) * turn + complex(x, y)
    moved = np.stack([z.real, z.imag], axis=1)
    similarity = fit_similarity(moved)
    assert np.allclose(similarity.inverse(TEMPLATE), moved, atol=1e-6 * scale * 160)
    assert similarity.scale == pytest.approx(1 / scale)


def test_a_mirrored_face_is_not_unmirrored():
    mirrored = TEMPLATE * [-1.0, 1.0]
    assert not np.allclose(fit_similarity(mirrored).inverse(TEMPLATE), mirrored, atol=5)


def test_the_chin_of_a_long_face_is_inside_the_crop_and_the_ellipse():
    eyes = TEMPLATE[:2, 1].mean()
    average_chin, long_chin = eyes + 1.88 * TEMPLATE_EYE_DISTANCE, eyes + 2.17 * TEMPLATE_EYE_DISTANCE
    assert long_chin < 160
    assert face_ellipse()[int(average_chin), 80] == 1.0
    assert face_ellipse()[int(long_chin) - 1, 80] > 0.5


def test_the_jaw_is_inside_the_ellipse():
    half_jaw = 0.5 * 105 / 63 * TEMPLATE_EYE_DISTANCE  # 105 mm between the gonia, 63 mm between the pupils
    mouth = int(TEMPLATE[3:, 1].mean())
    assert face_ellipse()[mouth, int(80 - 1.2 * half_jaw)] == 1.0
    assert face_ellipse()[mouth, int(80 + 1.2 * half_jaw)] == 1.0


def test_the_regions_nest():
    assert (face_ellipse()[inner_face()] == 1.0).all()
    assert (face_ellipse()[lower_face()] > 0.5).all()


def test_warp_without_turning_is_a_crop():
    photo = Image.fromarray(astronaut())
    similarity = Similarity(turn=1.0 + 0j, shift=complex(-180, -40))
    assert np.abs(warp(photo, similarity).astype(int) - astronaut()[40:200, 180:340]).max() <= 1


def test_warp_agrees_with_scikit_image_on_a_smooth_picture():
    from skimage.transform import warp as reference_warp

    ys, xs = np.mgrid[0:300, 0:300]
    smooth = np.stack(
        [127 + 100 * np.sin(xs / 40), 127 + 100 * np.cos(ys / 50), (xs + ys) / 3], axis=-1
    ).astype(np.uint8)
    similarity = Similarity(turn=1.2 * np.exp(0.3j), shift=complex(-30, -120))
    matrix = np.array(
        [
            [similarity.turn.real, -similarity.turn.imag, similarity.shift.real],
            [similarity.turn.imag, similarity.turn.real, similarity.shift.imag],
            [0, 0, 1],
        ]
    )
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # scikit-image counts from pixel centres
    expected = reference_warp(
        smooth,
        np.linalg.inv(half) @ np.linalg.inv(matrix) @ half,
        output_shape=(160, 160),
        order=3,
        preserve_range=True,
    )
    inside = inside_photo(similarity, (300, 300))
    inside[:2] = inside[-2:] = False
    assert np.abs(warp(Image.fromarray(smooth), similarity)[inside] - expected[inside]).mean() < 1.0


def test_a_fourfold_larger_photo_gives_the_same_face():
    small, big = (
        Image.fromarray(astronaut()),
        Image.fromarray(astronaut()).resize((2048, 2048), Image.Resampling.BICUBIC),
    )
    a, b = warp(small, fit_similarity(POINTS)), warp(big, fit_similarity(4 * POINTS))
    assert np.abs(a.astype(int) - b).mean() < 2.0


def test_fine_stripes_do_not_alias():
    stripes = np.zeros((1600, 1600, 3), np.uint8)
    stripes[:, ::2] = 255
    face = warp(Image.fromarray(stripes), Similarity(turn=0.093 + 0j, shift=0j))
    assert face[5:140, 5:140].std() < 3


def test_what_lies_outside_the_photo_is_neutral_and_counted():
    photo = Image.new("RGB", (100, 100), "red")
    similarity = Similarity(turn=1.0 + 0j, shift=complex(60, 0))
    face = warp(photo, similarity)
    assert (face[:90, :55] == NEUTRAL).all()
    assert (face[:90, 65:150] == [255, 0, 0]).all()
    assert inside_photo(similarity, photo.size).sum() == 100 * 100
    nowhere = warp(photo, Similarity(turn=1.0 + 0j, shift=complex(5000, 5000)))
    assert (nowhere == NEUTRAL).all()


def test_a_window_around_the_face_contains_the_face():
    photo, similarity = Image.fromarray(astronaut()), fit_similarity(POINTS)
    window = warp(photo, similarity, size=320, origin=(-80, -64))
    assert np.abs(window[64:224, 80:240].astype(int) - warp(photo, similarity)).mean() < 1.0
