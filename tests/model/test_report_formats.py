"""Numbers as people read them, and axes with round marks at every range of data."""

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.metrics.estimate import Estimate
from face2bone_model.report.axes import fitted_axis, nice_step, round_axis
from face2bone_model.report.footnotes import Footnotes
from face2bone_model.report.formats import (
    count,
    decimal,
    epsilon,
    estimate_cell,
    moment,
    plain_estimate,
    power_of_ten,
    share,
    size,
)


def an_estimate(value, low=math.nan, high=math.nan, reason="", withheld=0):
    return Estimate(
        value=value,
        low=low,
        high=high,
        n=100,
        definition="d",
        source="s",
        exact="exact",
        reason=reason,
        withheld=withheld,
    )


def test_an_estimate_is_written_with_its_interval():
    assert plain_estimate(an_estimate(0.911, 0.874, 0.9442)) == "0.91 (0.87 to 0.94)"
    assert plain_estimate(an_estimate(0.0344, 0.0211, 0.0479), 3) == "0.034 (0.021 to 0.048)"


def test_an_estimate_without_interval_stands_alone():
    assert plain_estimate(an_estimate(0.5)) == "0.50"
    assert str(estimate_cell(an_estimate(0.5))) == "0.50"


def test_an_estimate_that_is_not_known_says_why():
    unknown = an_estimate(math.nan, reason="No patient of this class.")
    assert plain_estimate(unknown) == "not estimable: No patient of this class."
    assert "No patient of this class." in estimate_cell(unknown)
    assert plain_estimate(an_estimate(math.nan)) == "not estimable"


def test_a_reason_cannot_smuggle_markup():
    assert "<b>" not in estimate_cell(an_estimate(math.nan, reason="<b>"))


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_rounding_never_makes_a_doubtful_figure_certain(value):
    if 1e-5 < value < 1 - 1e-5:
        assert float(decimal(value)) not in (0.0, 1.0)


def test_exact_zero_and_one_keep_two_decimals():
    assert (decimal(0.0), decimal(1.0)) == ("0.00", "1.00")


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (2_180_000, "2.18 MB"), (94_150_000, "94.2 MB")],
)
def test_bytes_are_written_with_three_figures(num_bytes, text):
    assert size(num_bytes).replace("\u00a0", " ") == text


@given(st.integers(1, 10**14))
def test_bytes_are_never_off_by_more_than_rounding(num_bytes):
    number, unit = size(num_bytes).split("\u00a0")
    factor = {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * factor == pytest.approx(num_bytes, rel=0.006)
    assert len(number.replace(".", "")) <= 3


def test_counts_shares_and_small_numbers():
    assert count(12_345) == "12\u202f345"
    assert count(None) == "withheld"
    assert share(71, 100) == "71\u00a0%"
    assert share(1, 1000) == "0.1\u00a0%"
    assert share(999, 1000) == "99.9\u00a0%"
    assert share(0, 0) == "–"
    assert power_of_ten(1e-5) == "10⁻⁵"
    assert power_of_ten(2.5e-6) == "2.5 × 10⁻⁶"
    assert power_of_ten(0.01) == "0.01"
    assert epsilon(math.inf) == "unbounded"
    assert epsilon(5.931) == "5.93"


def test_a_moment_is_told_in_coordinated_universal_time():
    there = datetime(2026, 11, 23, 15, 5, tzinfo=timezone(timedelta(hours=1)))
    assert moment(there) == moment(datetime(2026, 11, 23, 14, 5, tzinfo=UTC)) == "23 November 2026, 14:05 UTC"


def test_a_footnote_tells_each_reason_once():
    notes = Footnotes()
    first = notes.cell(an_estimate(math.nan, reason="Too few.", withheld=2))
    again = notes.cell(an_estimate(math.nan, reason="Too few.", withheld=2))
    other = notes.cell(an_estimate(0.9, 0.8, 0.95, reason="1 of 3 sites withheld."))
    assert first == again == '<span class="absent">withheld</span><sup>a</sup>'
    assert other.endswith("<sup>b</sup>")
    assert list(notes.notes) == [("a", "Too few."), ("b", "1 of 3 sites withheld.")]


@given(st.lists(st.floats(-1e9, 1e9), max_size=8))
def test_an_axis_covers_its_data_with_few_rising_marks(values):
    axis = fitted_axis(values, 0.0, 100.0)
    assert 2 <= len(axis.ticks) <= 9
    assert list(axis.ticks) == sorted(set(axis.ticks))
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= value <= axis.high + slack for value in values)
    assert all(0.0 <= axis(value) <= 100.0 for value in values)
    assert all(len(label) <= 10 for label in axis.labels())
    assert len(set(axis.labels())) == len(axis.ticks)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_an_axis_of_probabilities_stays_between_0_and_1(values):
    axis = fitted_axis(values, 0.0, 100.0, floor=0.0, ceiling=1.0)
    assert axis.low >= 0.0
    assert axis.high <= 1.0


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf], [0.5], [0.0, 0.0], [1e-9, 2e-9], [3e7, 4e7]])
def test_an_axis_is_usable_without_or_with_odd_data(values):
    axis = fitted_axis(values, 0.0, 100.0)
    assert axis.high > axis.low
    assert len(axis.labels()) == len(axis.ticks)


@given(st.integers(0, 5), st.integers(0, 500))
def test_rounds_are_marked_by_whole_numbers(first, more):
    axis = round_axis(first, first + more, 0.0, 100.0)
    assert axis.ticks[0] == first
    assert all(tick == int(tick) and tick <= first + more for tick in axis.ticks)
    assert len(axis.ticks) <= 9
    assert 0.0 <= axis(first) <= axis(first + more) <= 100.0


@given(st.floats(1e-12, 1e12))
def test_a_step_is_the_next_round_number(rough):
    step = nice_step(rough)
    assert rough * (1 - 1e-6) <= step <= rough * 2.5 * (1 + 1e-6)
