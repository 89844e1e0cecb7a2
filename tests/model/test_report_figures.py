"""The figures: well-formed, inside their frame, told in words too, and readable by colour-blind eyes."""

import math
import re
from itertools import combinations
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from face2bone_model.contract.keys import CLASSES
from face2bone_model.metrics.calibration import ReliabilityPoint
from face2bone_model.metrics.discrimination import RocPoint
from face2bone_model.metrics.estimate import Estimate
from face2bone_model.report.figures_calibration import reliability_figure
from face2bone_model.report.figures_discrimination import forest_figure, roc_figure
from face2bone_model.report.figures_training import RoundPoint, learning_curve
from face2bone_model.report.render import TEMPLATES

CHARACTER = 6.6
"""Width of an average character of 12-unit sans text, generously."""
NORMAL, OSTEOPENIA, OSTEOPOROSIS = CLASSES


def an_estimate(value, low=math.nan, high=math.nan, **more):
    return Estimate(value=value, low=low, high=high, n=60, definition="d", source="s", exact="exact", **more)


def a_curve(*points):
    return tuple(
        RocPoint(false_positive_rate=x, true_positive_rate=y, threshold=1 - i / len(points))
        for i, (x, y) in enumerate(points)
    )


def root_of(figure):
    return ElementTree.fromstring(str(figure.drawing))  # noqa: S314  # our own drawing


def classes_in(figure):
    return [element.get("class", "") for element in root_of(figure).iter()]


def check_inside(figure):
    """Every coordinate and every text lies inside the view box."""
    root = root_of(figure)
    _, _, width, height = map(float, root.get("viewBox").split())
    for element in root.iter():
        for name, limit in (
            ("x", width),
            ("x1", width),
            ("x2", width),
            ("cx", width),
            ("y", height),
            ("cy", height),
        ):
            assert -0.01 <= float(element.get(name, 0)) <= limit + 0.01, (element.tag, name, element.attrib)
        for x, y in re.findall(r"([-\d.]+),([-\d.]+)", element.get("d", "")):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height
        if element.tag == "text" and element.get("x"):
            room = {"start": width - float(element.get("x")), "end": float(element.get("x"))}
            assert len(element.text) * CHARACTER <= room.get(element.get("text-anchor"), width) + 1, (
                element.text
            )


def a_learning_curve(values, chosen=2):
    points = [
        RoundPoint(number=i + 1, estimate=an_estimate(v, v - 0.05, v + 0.04)) for i, v in enumerate(values)
    ]
    return learning_curve("c", "AUC, osteoporosis", points, chosen, ceiling=1.0)


def test_a_figure_is_told_in_words_to_those_who_cannot_see_it():
    figure = a_learning_curve([0.7, 0.8, 0.85])
    root = root_of(figure)
    assert root.get("role") == "img"
    described = root.get("aria-labelledby").split()
    assert [element.get("id") for element in root if element.tag in ("title", "desc")] == described
    assert "0.700 (0.650 to 0.740) in round 1 to 0.850 (0.800 to 0.890) in round 3" in root.find("desc").text


def test_the_numbers_behind_a_figure_are_the_figure():
    figure = a_learning_curve([0.7, 0.8])
    assert [tuple(row) for row in figure.numbers.rows] == [
        ("1", "0.700 (0.650 to 0.740)", "60"),
        ("2", "0.800 (0.750 to 0.840)", "60"),
    ]


def test_the_chosen_round_is_marked_and_an_absent_one_is_not():
    assert "round 2, kept" in str(a_learning_curve([0.7, 0.8]).drawing)
    assert "kept" not in str(a_learning_curve([0.7, 0.8], chosen=None).drawing)


def test_a_round_without_an_estimate_leaves_a_gap():
    figure = a_learning_curve([0.6, 0.7, math.nan, 0.8, 0.82])
    assert classes_in(figure).count("curve") == 2
    assert "Gap:" in figure.caption


def test_a_learning_curve_without_any_estimate_is_still_a_figure():
    figure = a_learning_curve([math.nan, math.nan])
    assert "could not be estimated in any round" in str(figure.drawing)
    check_inside(figure)
    check_inside(learning_curve("c", "Loss", [], None))


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1) | st.just(math.nan), min_size=1, max_size=120))
def test_a_learning_curve_stays_inside_its_frame(values):
    check_inside(a_learning_curve(values))


def test_a_loss_of_any_size_fits_beside_its_axis():
    for scale in (1e-6, 1.0, 400.0, 3e6):
        points = [RoundPoint(number=i, estimate=an_estimate(scale * i)) for i in (1, 2, 3)]
        check_inside(learning_curve("c", "Validation loss", points, 3))


def test_three_roc_curves_are_named_with_their_areas():
    curve = a_curve((0, 0), (0, 0.5), (0.2, 0.9), (1, 1))
    areas = {label: an_estimate(0.9, 0.85, 0.94) for label in CLASSES}
    figure = roc_figure("roc", dict.fromkeys(CLASSES, curve), areas)
    check_inside(figure)
    texts = [element.text for element in root_of(figure).iter("text")]
    assert texts.count("0.90 (0.85 to 0.94)") == 3
    assert all(label in texts for label in CLASSES)


def test_the_binning_bound_is_shaded_only_where_it_can_be_seen():
    coarse = a_curve((0, 0), (0.3, 0.8), (1, 1))
    x = np.linspace(0, 1, 500)
    fine = a_curve(*zip(x, np.sqrt(x), strict=True))
    areas = {label: an_estimate(0.8, 0.7, 0.9) for label in CLASSES}
    assert any("class-band" in style for style in classes_in(roc_figure("r", {NORMAL: coarse}, areas)))
    drawn = roc_figure("r", {OSTEOPOROSIS: fine}, areas)
    assert not any("class-band" in style for style in classes_in(drawn))
    assert "Shaded" not in drawn.caption


def test_the_roc_table_reads_sensitivity_off_the_curve():
    areas = {label: an_estimate(math.nan, reason="Withheld.") for label in CLASSES}
    figure = roc_figure("r", {OSTEOPOROSIS: a_curve((0, 0), (0.1, 0.6), (0.2, 0.8), (1, 1))}, areas)
    rows = {row[0]: row[1:] for row in figure.numbers.rows}
    assert list(rows[OSTEOPOROSIS]) == ["0.30", "0.60", "0.80"]
    assert list(rows[NORMAL]) == ["not estimable"] * 3


def test_a_forest_says_which_groups_are_withheld_and_which_cannot_be_estimated():
    rows = [
        ("Female", an_estimate(0.9, 0.8, 0.95)),
        ("Male", an_estimate(math.nan, withheld=3)),
        ("Age under 50", an_estimate(math.nan, reason="No patient.")),
    ]
    figure = forest_figure("f", "AUC", rows, an_estimate(0.88, 0.85, 0.9))
    texts = [element.text for element in root_of(figure).iter("text")]
    assert "withheld" in texts
    assert "not estimable" in texts
    check_inside(figure)


def test_a_reliability_dot_has_an_interval_and_a_size_that_follows_its_patients():
    points = [
        ReliabilityPoint(predicted=0.1, observed=0.12, low=0.06, high=0.2, n=100),
        ReliabilityPoint(predicted=0.9, observed=0.7, low=0.4, high=0.9, n=25),
    ]
    figure = reliability_figure("rel", "Reliability", "osteoporosis", points, "caption")
    check_inside(figure)
    radii = [float(element.get("r")) for element in root_of(figure).iter("circle")]
    assert radii == [7.0, 3.5]
    assert classes_in(figure).count("whisker") == 2
    assert "predicted 0.90, observed 0.70 in 25 patients" in str(figure.drawing)
    assert figure.numbers.rows[0] == ("0.10", "0.12 (0.06 to 0.20)", "100")


def test_an_empty_reliability_diagram_says_so():
    assert "No bin could be shown" in str(reliability_figure("r", "t", "o", [], "c").drawing)


def test_a_hostile_name_cannot_break_out_of_a_figure():
    name = "</text></svg><script>alert(1)</script>"
    figure = forest_figure("f", "AUC", [(name, an_estimate(0.9, 0.8, 0.95))], an_estimate(0.9))
    assert "<script" not in str(figure.drawing)
    assert name in [element.text for element in root_of(figure).iter("text")]


# Colours, as the style sheet has them.

SHEET = (TEMPLATES / "page.css").read_text(encoding="utf-8")
DEFICIENCIES = {  # Machado, Oliveira and Fernandes, IEEE TVCG 2009;15:1291, severity 1
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
    "none": np.eye(3).tolist(),
}


def palette(mode):
    blocks = re.findall(r":root \{(.*?)\}", SHEET, flags=re.DOTALL)
    block = dict(zip(("light", "dark", "print"), blocks, strict=True))[mode]
    colours = {}
    for name, text in re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", block):
        digits = text[1:] if len(text) == 7 else "".join(2 * digit for digit in text[1:])
        colours[name] = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return colours


def linear(colour):
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """WCAG 2.2 contrast ratio."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    light, dark = sorted((linear(one) @ weights, linear(other) @ weights), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(to_xyz @ rgb / np.array([0.9505, 1.0, 1.089]), 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_three_classes_differ_for_every_kind_of_colour_vision(mode, deficiency):
    colours = palette(mode)
    seen = [
        lab(np.clip(np.array(DEFICIENCIES[deficiency]) @ linear(colours[f"class-{index}"]), 0, 1))
        for index in range(len(CLASSES))
    ]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 25


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_text_and_lines_stand_out_from_the_paper(mode):
    colours = palette(mode)
    for name in ("ink", "soft", "accent", "warn", "class-0", "class-1", "class-2"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    for name in ("soft", "warn", "ink"):
        assert contrast(colours[name], colours["tint"]) >= 4.5, name


def test_text_in_figures_is_at_least_eleven_pixels_on_a_phone():
    units = float(re.search(r"svg\.figure \{[^}]*font: (\d+)px", SHEET).group(1))
    phone, margins, view_box = 390, 2 * 16, 360
    assert units * (phone - margins) / view_box >= 11
