"""Region names as densitometers write them."""

import pytest

from face2bone_model.data.skeletal_site import SkeletalSite, recognise, side_in, vertebrae_in

NOT_DIAGNOSTIC = SkeletalSite.NOT_DIAGNOSTIC


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("AP Spine L1-L4", SkeletalSite.LUMBAR_SPINE),
        ("Lumbar spine", SkeletalSite.LUMBAR_SPINE),
        ("腰椎L1-L4", SkeletalSite.LUMBAR_SPINE),
        ("Left Femur Neck", SkeletalSite.FEMORAL_NECK),
        ("FEMORAL NECK", SkeletalSite.FEMORAL_NECK),
        ("股骨颈", SkeletalSite.FEMORAL_NECK),
        ("Total Hip", SkeletalSite.TOTAL_HIP),
        ("DualFemur Total Left", SkeletalSite.TOTAL_HIP),
        ("全髋", SkeletalSite.TOTAL_HIP),
        ("Radius 33%", SkeletalSite.RADIUS_33),
        ("1/3 radius", SkeletalSite.RADIUS_33),
        ("One-third radius", SkeletalSite.RADIUS_33),
        ("Femur", SkeletalSite.FEMUR_UNSPECIFIED),
        ("Ward's", NOT_DIAGNOSTIC),
        ("Wards triangle", NOT_DIAGNOSTIC),
        ("Trochanter", NOT_DIAGNOSTIC),
        ("Femur Shaft", NOT_DIAGNOSTIC),
        ("Upper Neck", NOT_DIAGNOSTIC),
        ("Femur Neck Mean", NOT_DIAGNOSTIC),
        ("Total Body", NOT_DIAGNOSTIC),
        ("Heel", NOT_DIAGNOSTIC),
        ("Lateral Spine L3", NOT_DIAGNOSTIC),
        ("Radius UD", NOT_DIAGNOSTIC),
    ],
)
def test_usual_names_are_recognised(text, site):
    region = recognise(text)
    assert region is not None
    assert region.site is site


@pytest.mark.parametrize("text", ["Total", "Radius", "", "T-score", "Region 1"])
def test_names_that_say_too_little_are_not_guessed(text):
    assert recognise(text) is None


@pytest.mark.parametrize(
    ("text", "vertebrae"),
    [
        ("L1-L4", (1, 2, 3, 4)),
        ("l1–4", (1, 2, 3, 4)),
        ("Ｌ１－Ｌ４", (1, 2, 3, 4)),
        ("L1_L4", (1, 2, 3, 4)),
        ("L2 to L4", (2, 3, 4)),
        ("L1, L3-L4", (1, 3, 4)),
        ("L1L2L4", (1, 2, 4)),
        ("L3", (3,)),
        ("Total1", ()),
        ("L10", ()),
    ],
)
def test_vertebrae_are_read_from_ranges_and_lists(text, vertebrae):
    assert vertebrae_in(text) == vertebrae


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("Left Femur", "left"),
        ("Neck (R)", "right"),
        ("右股骨颈", "right"),
        ("Left and right", ""),
        ("L1", ""),
    ],
)
def test_the_side_is_read_where_there_is_one(text, side):
    assert side_in(text) == side
