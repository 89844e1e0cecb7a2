"""Figures about training: how the validation patients fared from round to round."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from face2bone_model.metrics.estimate import Estimate
from face2bone_model.report.axes import Axis, fitted_axis, round_axis
from face2bone_model.report.drawing import Drawing
from face2bone_model.report.figure import Figure
from face2bone_model.report.formats import count, plain_estimate
from face2bone_model.report.plot_frame import LEFT, RIGHT, TOP, draw_frame
from face2bone_model.report.tables import Column, Table

BOTTOM = 214.0
HEADROOM = 18.0
"""Room above the curve for the words at the chosen round."""


@dataclass(frozen=True, kw_only=True)
class RoundPoint:
    """One point of a learning curve: the round it belongs to and its estimate."""

    number: int
    estimate: Estimate


def learning_curve(
    name: str, quantity: str, points: Sequence[RoundPoint], chosen: int | None, *, ceiling: float = math.inf
) -> Figure:
    """A quantity by round, its interval as a band, the chosen round marked.

    Args:
        name: unique on the page.
        quantity: what the vertical axis shows.
        points: in the order of rounds; a round without an estimate leaves a gap.
        chosen: the round whose model is kept, if one is.
        ceiling: the largest possible value, such as 1 for an area under the curve.
    """
    drawing = Drawing(name, f"{quantity} by round", _summary(quantity, points), BOTTOM + 44)
    numbers = [point.number for point in points] or [1]
    across = round_axis(min(numbers), max(numbers), LEFT, RIGHT)
    spread = [v for p in points for v in (p.estimate.value, p.estimate.low, p.estimate.high)]
    up = fitted_axis(spread, BOTTOM, TOP + HEADROOM, floor=0.0, ceiling=ceiling)
    draw_frame(drawing, across, up, "Round", quantity)
    for run in unbroken(points):
        _draw_run(drawing, across, up, run)
    for point in points:
        if point.estimate.known:
            place = (across(point.number), up(point.estimate.value))
            drawing.dot(place, 5.0 if point.number == chosen else 2.5, "point")
    if chosen is not None and any(point.number == chosen for point in points):
        _mark_chosen(drawing, across, chosen)
    return Figure(
        title=f"{quantity} by round",
        caption="All answering hospitals together. Band: 95 % interval."
        + ("" if all(point.estimate.known for point in points) else " Gap: withheld or not estimable."),
        drawing=drawing.markup(),
        numbers=_numbers(quantity, points),
    )


def _draw_run(drawing: Drawing, across: Axis, up: Axis, run: Sequence[RoundPoint]) -> None:
    banded = [
        point for point in run if math.isfinite(point.estimate.low) and math.isfinite(point.estimate.high)
    ]
    upper = [(across(point.number), up(point.estimate.high)) for point in banded]
    lower = [(across(point.number), up(point.estimate.low)) for point in banded]
    drawing.area(upper, lower, "band")
    drawing.path([(across(point.number), up(point.estimate.value)) for point in run], "curve")


def unbroken(points: Sequence[RoundPoint]) -> list[list[RoundPoint]]:
    """The points in runs without a gap between them."""
    runs: list[list[RoundPoint]] = [[]]
    for point in points:
        if point.estimate.known:
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return runs


def _mark_chosen(drawing: Drawing, across: Axis, chosen: int) -> None:
    place = across(chosen)
    drawing.line((place, TOP + 6), (place, BOTTOM), "reference")
    middle = (across.start + across.stop) / 2
    anchor, shift = ("start", 5.0) if place < middle else ("end", -5.0)
    drawing.text((place + shift, TOP + 8), f"round {chosen}, kept", "strong", anchor=anchor)


def _summary(quantity: str, points: Sequence[RoundPoint]) -> str:
    known = [point for point in points if point.estimate.known]
    if not known:
        return f"{quantity} could not be estimated in any round."
    first, last = known[0], known[-1]
    return (
        f"{quantity} went from {plain_estimate(first.estimate, 3)} in round {first.number} "
        f"to {plain_estimate(last.estimate, 3)} in round {last.number}."
    )


def _numbers(quantity: str, points: Sequence[RoundPoint]) -> Table:
    return Table(
        columns=(Column("Round"), Column(quantity, "number"), Column("Patients", "number")),
        rows=[(str(p.number), plain_estimate(p.estimate, 3), count(p.estimate.n)) for p in points],
    )
