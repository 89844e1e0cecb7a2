"""Rendered faces: the same every time, found by the detector, and labelled where the planted features act."""

import dataclasses

import numpy as np
import pytest
from facenet_pytorch import MTCNN
from scipy.ndimage import binary_dilation, binary_erosion

from face2bone_model.data.synthetic.anatomy import FEATURE_REGIONS, Region, causal_regions
from face2bone_model.data.synthetic.camera import take, take_room
from face2bone_model.data.synthetic.geometry import landmarks
from face2bone_model.data.synthetic.patients import draw_patient, scene_of, stream
from face2bone_model.data.synthetic.renderer import render
from face2bone_model.data.synthetic.scene import Backdrop, FaceShape, Hair, PlantedShape, Pose, Scene, Skin
from face2bone_model.data.synthetic.styles import BUILT_IN, style_of

SIZE = (240, 300)


def _photo(site, number, seed=5):
    style = style_of(site)
    patient = draw_patient(site, style.mix, seed=seed, number=number, mode="causal")
    rng = stream(site, seed, number, "photo 1")
    return take(scene_of(patient, style, rng), style.camera, rng)


def _share_found(num_photos):
    detector = MTCNN(min_face_size=80, device="cpu")
    found = 0
    for number in range(num_photos):
        picture, _ = _photo(list(BUILT_IN)[number % len(BUILT_IN)], number, seed=21)
        boxes, probabilities = detector.detect(picture)
        found += boxes is not None and len(boxes) == 1 and probabilities[0] > 0.9
    return found / num_photos


def test_mtcnn_finds_exactly_one_face_on_each_of_forty_photos():
    assert _share_found(40) == 1.0


@pytest.mark.slow
def test_mtcnn_finds_at_least_99_percent_of_three_hundred_photos():
    assert _share_found(300) >= 0.99


def test_the_same_scene_gives_the_same_bytes():
    first, second = _photo("hilltop", 3), _photo("hilltop", 3)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


def test_photos_have_the_size_of_the_sites_camera():
    for site, style in BUILT_IN.items():
        picture, labels = _photo(site, 0)
        assert picture.size == labels.size == (style.camera.width, style.camera.height)
        assert (picture.mode, labels.mode) == ("RGB", "L")


def test_pictures_stay_in_single_precision():
    rendering = render(Scene(), *SIZE)
    assert rendering.picture.dtype == np.float32
    assert rendering.picture.shape == (SIZE[1], SIZE[0], 3)
    assert np.isfinite(rendering.picture).all()


@pytest.mark.parametrize("style", ["short", "bob", "long", "tied"])
def test_every_face_has_every_region_and_hair(style):
    regions = render(Scene(hair=Hair(style=style)), *SIZE).regions
    assert set(np.unique(regions)) == {region.value for region in Region}


def test_a_room_without_a_patient_differs_from_one_with():
    style = style_of("harbour")
    patient = draw_patient("harbour", style.mix, seed=1, number=0, mode="causal")
    rng = np.random.default_rng(0)
    room = take_room(scene_of(patient, style, rng), style.camera, rng)
    assert room.size == (style.camera.width, style.camera.height)
    assert MTCNN(min_face_size=80, device="cpu").detect(room)[0] is None


def test_each_region_lies_where_anatomy_has_it():
    regions = render(Scene(), *SIZE).regions
    rows = {
        region: np.nonzero(regions == region)[0].mean() for region in Region if region != Region.BACKGROUND
    }
    down = ["FOREHEAD", "ORBITS", "NOSE", "MOUTH", "CHIN", "NECK", "CLOTHES"]
    heights = [rows[Region[name]] for name in down]
    assert heights == sorted(heights)
    eyes = np.nonzero(regions == Region.EYES)[1]
    assert abs(eyes.mean() - (SIZE[0] - 1) / 2) < 1.5


def test_masks_follow_the_pose():
    shifted = render(Scene(pose=Pose(shift_x=0.2)), *SIZE).regions
    straight = render(Scene(), *SIZE).regions
    moved = np.nonzero(shifted == Region.NOSE)[1].mean() - np.nonzero(straight == Region.NOSE)[1].mean()
    assert moved == pytest.approx(0.2 * 0.27 * SIZE[1], abs=2)


@pytest.mark.parametrize("name", list(FEATURE_REGIONS))
def test_a_planted_feature_changes_the_picture_mainly_in_its_own_regions(name):
    """Its regions are taken before and after, with 6 pixels round them: an outline that moves uncovers the neck."""
    before, after = (render(Scene(planted=PlantedShape(**{name: value})), *SIZE) for value in (-1.0, 1.0))
    change = np.abs(before.picture - after.picture).sum(axis=2)
    own = np.isin(before.regions, FEATURE_REGIONS[name]) | np.isin(after.regions, FEATURE_REGIONS[name])
    near = binary_dilation(own, iterations=6)
    assert change.max() > 0.05
    assert change[near].sum() / change.sum() > 0.75
    assert near.mean() < 0.2


@pytest.mark.parametrize("name", list(FEATURE_REGIONS))
def test_a_planted_feature_grows_without_end_and_moves_some_landmark_each_time(name):
    values = np.linspace(-4, 4, 17)
    marks = [
        dataclasses.astuple(landmarks(PlantedShape(**{name: float(value)}), FaceShape())) for value in values
    ]
    steps = np.diff(np.array(marks), axis=0)
    moving = np.abs(steps).max(axis=0) > 0
    assert moving.any()
    assert (np.abs(steps[:, moving]).max(axis=1) > 0).all()
    assert all((column >= 0).all() or (column <= 0).all() for column in steps.T)


def test_age_changes_skin_and_hair_but_not_the_outline():
    young, old = (
        render(Scene(skin=Skin(wrinkles=age, sag=age, spots=age), hair=Hair(grey=age)), *SIZE)
        for age in (0.0, 1.0)
    )
    assert (young.regions == old.regions).all()
    change = np.abs(young.picture - old.picture).sum(axis=2)
    for region in (Region.HAIR, Region.FOREHEAD, Region.CHEEKS):
        assert change[young.regions == region].mean() > 0.003
    away_from_hair = binary_erosion(young.regions == Region.BACKGROUND, iterations=5, border_value=1)
    assert change[away_from_hair].max() < 1e-6


def test_in_shortcut_mode_no_region_is_causal():
    assert causal_regions("shortcut") == frozenset()
    assert Region.MANDIBLE in causal_regions("causal")
    assert Region.HAIR not in causal_regions("causal")


def test_every_backdrop_leaves_the_face_alone():
    scenes = [Scene(backdrop=Backdrop(kind=kind)) for kind in ("wall", "curtain", "tiles", "shelves")]
    pictures = [render(scene, *SIZE) for scene in scenes]
    face = pictures[0].regions >= Region.FOREHEAD
    inside = binary_erosion(face, iterations=3)
    for other in pictures[1:]:
        assert np.allclose(pictures[0].picture[inside], other.picture[inside], atol=1e-5)
        assert not np.allclose(pictures[0].picture, other.picture, atol=1e-2)
