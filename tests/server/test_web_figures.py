"""The figure of one line for each hospital: what is joined, what is named, what stands in its table."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.metrics.estimate import Estimate
from face2bone_model.report.figures_sites import BOTTOM, LINE_HEIGHT, MOST_LABELS, _apart, site_curves
from face2bone_model.report.figures_training import RoundPoint
from face2bone_model.report.plot_frame import RIGHT, TOP


def point(number, value, withheld=0):
    estimate = Estimate(
        value=value,
        low=math.nan,
        high=math.nan,
        n=9,
        definition="",
        source="",
        exact="exact",
        withheld=withheld,
    )
    return RoundPoint(number=number, estimate=estimate)


def curve(*values):
    return [point(number, value) for number, value in enumerate(values)]


def paths(figure, style):
    return re.findall(rf'<path class="{style}" d="([^"]+)"|<path d="([^"]+)" class="{style}"', figure.drawing)


def test_each_hospital_has_a_line_a_name_and_a_row():
    figure = site_curves(
        "x", "AUC", {"north": curve(0.5, 0.6), "south": curve(0.7, 0.8)}, pooled=curve(0.6, 0.7)
    )
    assert len(paths(figure, "thread")) == 2
    assert len(paths(figure, "curve")) == 1
    assert ">north<" in figure.drawing
    assert [tuple(row) for row in figure.numbers.rows] == [
        ("north", "0.500", "0.600"),
        ("south", "0.700", "0.800"),
    ]


def test_a_round_without_an_answer_or_an_estimate_parts_the_line():
    missing = [point(0, 0.5), point(1, 0.6), point(3, 0.7)]
    withheld = [point(0, 0.5), point(1, 0.6), point(2, math.nan, withheld=1), point(3, 0.8)]
    for points in (missing, withheld):
        figure = site_curves("x", "AUC", {"north": points, "south": curve(0.1, 0.2, 0.3, 0.4)})
        assert len(paths(figure, "thread")) == 2
        assert "thread-point" in figure.drawing
        assert "Gap" in figure.caption
    assert ("north", "0.500", "0.600", "withheld", "0.800") in [tuple(row) for row in figure.numbers.rows]


def test_a_hospital_that_left_before_the_last_round_has_no_name_at_its_end():
    figure = site_curves("x", "AUC", {"north": curve(0.5), "south": curve(0.1, 0.2)})
    assert ">north</text>" not in figure.drawing
    assert ">south</text>" in figure.drawing


def test_nothing_known_is_no_figure():
    assert site_curves("x", "AUC", {}) is None
    assert site_curves("x", "AUC", {"north": curve(math.nan)}, pooled=curve(0.5)) is None


def test_a_limit_is_drawn_and_the_axis_begins_at_nothing():
    figure = site_curves("x", "ε", {"north": curve(6.0, 7.0)}, limit=("budget", 8.0))
    assert "budget 8.00" in figure.drawing
    assert ">0</text>" in figure.drawing


def test_of_many_hospitals_the_table_has_the_names():
    sites = {f"site-{number}": curve(0.5, 0.6) for number in range(MOST_LABELS + 1)}
    figure = site_curves("x", "AUC", sites)
    assert "site-3</text>" not in figure.drawing
    assert len(figure.numbers.rows) == MOST_LABELS + 1


@given(
    st.dictionaries(
        st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=30),
        st.lists(st.floats(0, 100) | st.just(math.nan), min_size=1, max_size=6),
        max_size=8,
    )
)
def test_whatever_was_measured_stays_in_its_frame(sites):
    figure = site_curves("x", "AUC", {site: curve(*values) for site, values in sites.items()})
    if figure is None:
        assert all(math.isnan(value) for values in sites.values() for value in values)
        return
    for pair in re.findall(r"[ML ](-?[\d.]+),(-?[\d.]+)", figure.drawing):
        x, y = map(float, pair)
        assert 0 <= x <= RIGHT
        assert TOP <= y <= BOTTOM


@given(st.lists(st.floats(TOP, BOTTOM), max_size=MOST_LABELS).map(sorted))
def test_names_never_cover_each_other(heights):
    placed = _apart(heights)
    assert all(low + LINE_HEIGHT <= high + 1e-6 for low, high in pairwise(placed))
    assert not placed or placed[-1] <= BOTTOM


@pytest.mark.parametrize("name", ["<b>", "a & b", 'say "no"'])
def test_a_name_cannot_become_markup(name):
    assert name not in site_curves("x", "AUC", {name: curve(0.5, 0.6)}).drawing or name == 'say "no"'
