"""WHO classes, who may be classed, and which regions a class may stand on."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.contract.keys import CLASSES
from face2bone_model.data.dxa import DxaPatient
from face2bone_model.data.dxa_row import Measurement
from face2bone_model.data.labels import Label, label_patient, who_class
from face2bone_model.data.problem import LeftOut, Reason
from face2bone_model.data.site_settings import LabelSettings
from face2bone_model.data.skeletal_site import L1_TO_L4, SkeletalSite

SPINE, NECK, HIP, RADIUS = (
    SkeletalSite.LUMBAR_SPINE,
    SkeletalSite.FEMORAL_NECK,
    SkeletalSite.TOTAL_HIP,
    SkeletalSite.RADIUS_33,
)


def region(site, t=None, *, vertebrae=None, z=None, unreadable=False):
    return Measurement(
        site=site,
        region=f"{site} {vertebrae}",
        vertebrae=vertebrae or (L1_TO_L4 if site is SPINE else ()),
        t_score=None if t is None else Decimal(t),
        z_score=None if z is None else Decimal(z),
        unreadable=unreadable,
    )


def patient(*measurements, sex="female", age=67, menopause="postmenopausal"):
    return DxaPatient(
        patient_id="P1",
        where="dxa_export.csv row 2",
        sex=sex,
        age_years=age,
        menopause=menopause if sex == "female" else None,
        measurements=measurements,
    )


def outcome(*measurements, settings=None, **who):
    return label_patient(patient(*measurements, **who), settings or LabelSettings())


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        ("1.0", "normal"),
        ("-0.9", "normal"),
        ("-1.0", "normal"),
        ("-1.00", "normal"),
        ("-1.01", "osteopenia"),
        ("-2.4", "osteopenia"),
        ("-2.49", "osteopenia"),
        ("-2.4999999999999999999999", "osteopenia"),
        ("-2.5", "osteoporosis"),
        ("-2.50", "osteoporosis"),
        ("-4", "osteoporosis"),
    ],
)
def test_the_who_classes_and_their_edges(t, expected):
    assert CLASSES[who_class(Decimal(t))] == expected


def test_the_edge_at_minus_one_is_a_setting():
    assert CLASSES[who_class(Decimal("-1.0"), normal_includes_minus_one=False)] == "osteopenia"
    assert CLASSES[who_class(Decimal("-0.99"), normal_includes_minus_one=False)] == "normal"
    settings = LabelSettings(normal_includes_minus_one=False)
    assert outcome(region(NECK, "-1.0"), settings=settings).label == CLASSES.index("osteopenia")


@given(st.integers(-800, 600), st.booleans())
def test_classes_agree_with_whole_hundredths(hundredths, inclusive):
    expected = 2 if hundredths <= -250 else 0 if hundredths > (-101 if inclusive else -100) else 1
    assert who_class(Decimal(hundredths) / 100, normal_includes_minus_one=inclusive) == expected


@given(st.lists(st.decimals(-8, 6, places=1), min_size=2, max_size=2))
def test_a_lower_t_score_never_gives_a_better_class(scores):
    low, high = sorted(scores)
    assert who_class(low) >= who_class(high)


@given(st.permutations([(SPINE, "-1.2"), (NECK, "-2.6"), (HIP, "-0.3")]))
def test_the_lowest_site_decides_in_any_order(pairs):
    label = outcome(*(region(site, t) for site, t in pairs))
    assert label == Label(
        label=CLASSES.index("osteoporosis"), lowest_t=Decimal("-2.6"), site=NECK, sex="female", age_years=67
    )


def test_the_radius_counts_only_if_neither_hip_nor_spine_can_be_used():
    assert outcome(region(RADIUS, "-3"), region(NECK, "-1.5")).site is NECK
    assert outcome(region(RADIUS, "-3")).site is RADIUS
    assert outcome(region(RADIUS, "-3"), region(NECK)).site is RADIUS
    refused = outcome(region(RADIUS, "-3"), settings=LabelSettings(use_radius=False))
    assert refused.reason is Reason.NO_SITE


def test_a_single_vertebra_is_no_diagnosis():
    assert outcome(region(SPINE, "-3", vertebrae=(2,)), region(NECK, "-1")).site is NECK
    assert outcome(region(SPINE, "-3", vertebrae=(2,))).reason is Reason.NO_SITE


def test_two_vertebrae_are_enough_even_apart():
    assert outcome(region(SPINE, "-3", vertebrae=(1, 3))).lowest_t == Decimal(-3)


def test_the_spine_region_with_the_most_vertebrae_is_used():
    assert outcome(region(SPINE, "-3", vertebrae=(2, 3)), region(SPINE, "-1.5")).lowest_t == Decimal("-1.5")


DISCORDANT = [
    region(SPINE, t, vertebrae=(number,)) for number, t in enumerate(("-3", "-2.8", "-2.7", "-0.5"), start=1)
]


def test_the_vertebra_rule_drops_regions_whose_neighbours_differ():
    rule = LabelSettings(max_vertebra_difference=1.0)
    whole, three = region(SPINE, "-2.1"), region(SPINE, "-2.8", vertebrae=(1, 2, 3))
    assert outcome(whole, three, *DISCORDANT).lowest_t == Decimal("-2.1")
    assert outcome(whole, three, *DISCORDANT, settings=rule).lowest_t == Decimal("-2.8")
    assert outcome(whole, region(NECK, "-1"), *DISCORDANT, settings=rule).site is NECK
    assert outcome(whole, region(RADIUS, "-1"), *DISCORDANT, settings=rule).site is RADIUS


def test_a_difference_of_exactly_one_is_within_the_vertebra_rule():
    vertebrae = [region(SPINE, t, vertebrae=(number,)) for number, t in enumerate(("-2.1", "-1.1"), start=1)]
    rule = LabelSettings(max_vertebra_difference=1.0)
    assert outcome(region(SPINE, "-1.6"), *vertebrae, settings=rule).lowest_t == Decimal("-1.6")


def test_a_femur_of_unknown_region_counts_only_if_the_site_says_so():
    femur = region(SkeletalSite.FEMUR_UNSPECIFIED, "-2.6")
    assert outcome(femur).reason is Reason.NO_SITE
    assert outcome(femur, settings=LabelSettings(accept_femur_unspecified=True)).lowest_t == Decimal("-2.6")


def test_an_unreadable_site_leaves_the_class_open_unless_it_is_osteoporosis_already():
    unreadable = region(SPINE, unreadable=True)
    assert outcome(unreadable, region(NECK, "-2.4")).reason is Reason.UNREADABLE_SITE
    assert outcome(unreadable, region(NECK, "-2.5")).label == CLASSES.index("osteoporosis")
    assert outcome(unreadable).reason is Reason.UNREADABLE_SITE


def test_an_unreadable_vertebra_or_radius_beside_the_hip_does_not_matter():
    vertebra, radius = region(SPINE, unreadable=True, vertebrae=(2,)), region(RADIUS, unreadable=True)
    assert outcome(vertebra, radius, region(NECK, "-1.5")).lowest_t == Decimal("-1.5")


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ({"menopause": "premenopausal"}, Reason.PREMENOPAUSAL),
        ({"menopause": "premenopausal", "age": 70}, Reason.PREMENOPAUSAL),
        ({"menopause": None}, Reason.MENOPAUSE_UNKNOWN),
        ({"sex": "male", "age": 49}, Reason.YOUNG_MAN),
        ({"sex": None}, Reason.NO_SEX),
        ({"age": None}, Reason.NO_AGE),
    ],
)
def test_who_may_not_be_classed_and_why(who, reason):
    left_out = outcome(region(NECK, "-3"), **who)
    assert left_out.reason is reason
    assert left_out.problem.where == "dxa_export.csv row 2"
    assert left_out.problem.what.startswith("Patient P1 ")
    assert left_out.problem.mend


@pytest.mark.parametrize(
    "who", [{"sex": "male", "age": 50}, {"age": 40}, {"menopause": "menopausal_transition", "age": 48}]
)
def test_who_may_be_classed(who):
    assert isinstance(outcome(region(NECK, "-3"), **who), Label)


def test_menopause_by_age_is_a_setting_and_a_stated_menopause_goes_before_it():
    settings = LabelSettings(women_postmenopausal_from_age=55)
    assert isinstance(outcome(region(NECK, "-3"), menopause=None, age=55, settings=settings), Label)
    assert (
        outcome(region(NECK, "-3"), menopause=None, age=54, settings=settings).reason
        is Reason.MENOPAUSE_UNKNOWN
    )
    assert (
        outcome(region(NECK, "-3"), menopause="premenopausal", age=60, settings=settings).reason
        is Reason.PREMENOPAUSAL
    )


def test_a_patient_who_withdrew_is_left_out():
    settings = LabelSettings(exclude_patients=("P1",))
    assert outcome(region(NECK, "-3"), settings=settings).reason is Reason.LISTED


@pytest.mark.parametrize(
    ("measurements", "advice"),
    [
        ([region(NECK, "-3", z="-2.0")], "The lowest here is -2.0, below the expected range."),
        (
            [region(NECK, "-3", z="-1.9"), region(SPINE, "-3", z="-1.0")],
            "The lowest here is -1.9, within the expected range.",
        ),
        (
            [region(SPINE, z="-4", vertebrae=(1,))],
            "Use the Z-score: -2.0 or lower is below the expected range for age.",
        ),
    ],
)
def test_those_too_young_are_advised_by_the_z_score(measurements, advice):
    left_out = outcome(*measurements, sex="male", age=45)
    assert isinstance(left_out, LeftOut)
    assert left_out.problem.mend.endswith(advice)
