"""Reliability diagrams: whether patients given a probability have the outcome that often."""

import math
from collections.abc import Sequence

from face2bone_model.metrics.calibration import ReliabilityPoint
from face2bone_model.report.axes import Axis, fitted_axis, fixed_axis
from face2bone_model.report.drawing import Drawing
from face2bone_model.report.figure import Figure
from face2bone_model.report.formats import count, decimal
from face2bone_model.report.plot_frame import LEFT, RIGHT, TOP, draw_across, draw_up
from face2bone_model.report.tables import Column, Table

BOTTOM = TOP + 250.0
STRIP_TOP, STRIP_BOTTOM = BOTTOM + 22.0, BOTTOM + 62.0
"""The counts below the diagram."""
LARGEST_DOT, SMALLEST_DOT = 7.0, 2.5


def reliability_figure(
    name: str, title: str, outcome: str, points: Sequence[ReliabilityPoint], caption: str
) -> Figure:
    """Observed share against predicted probability, with intervals and the number of patients behind each dot.

    Args:
        name: unique on the page.
        title: of the figure.
        outcome: whose probability is predicted, such as `osteoporosis`.
        points: non-empty bins in rising order.
        caption: what the reader must know.
    """
    drawing = Drawing(name, title, _summary(points), STRIP_BOTTOM + 44)
    across = fixed_axis(0.0, 1.0, LEFT, RIGHT, step=0.2)
    up = fixed_axis(0.0, 1.0, BOTTOM, TOP, step=0.2)
    draw_up(drawing, across, up, "Observed share")
    drawing.line((across(0), up(0)), (across(1), up(1)), "reference")
    most = max((point.n for point in points), default=1)
    for point in points:
        _draw_point(drawing, across, up, point, most)
    _draw_counts(drawing, across, points)
    draw_across(drawing, across, STRIP_BOTTOM, f"Predicted probability, {outcome}")
    return Figure(title=title, caption=caption, drawing=drawing.markup(), numbers=_numbers(points))


def _draw_point(drawing: Drawing, across: Axis, up: Axis, point: ReliabilityPoint, most: int) -> None:
    place = across(point.predicted)
    if math.isfinite(point.low) and math.isfinite(point.high):
        drawing.line((place, up(point.low)), (place, up(point.high)), "whisker")
    radius = max(SMALLEST_DOT, LARGEST_DOT * math.sqrt(point.n / most))
    drawing.dot((place, up(point.observed)), radius, "point")


def _draw_counts(drawing: Drawing, across: Axis, points: Sequence[ReliabilityPoint]) -> None:
    most = max((point.n for point in points), default=0)
    height = fitted_axis([0.0, float(max(most, 1))], STRIP_BOTTOM, STRIP_TOP, floor=0.0)
    for point in points:
        top = height(point.n)
        drawing.rect((across(point.predicted) - 5, top), (10, STRIP_BOTTOM - top), "bar")
    drawing.text((LEFT - 7, STRIP_TOP + 4), count(most), "quiet", anchor="end")
    drawing.vertical_text((11, (STRIP_TOP + STRIP_BOTTOM) / 2), "Patients")


def _summary(points: Sequence[ReliabilityPoint]) -> str:
    if not points:
        return "No bin could be shown."
    gap = max(points, key=lambda point: abs(point.observed - point.predicted))
    return (
        f"{count(sum(point.n for point in points))} patients in {len(points)} bins. Largest gap: predicted "
        f"{decimal(gap.predicted)}, observed {decimal(gap.observed)} in {count(gap.n)} patients."
    )


def _numbers(points: Sequence[ReliabilityPoint]) -> Table:
    rows = [
        (decimal(p.predicted), f"{decimal(p.observed)} ({p.low:.2f} to {p.high:.2f})", count(p.n))
        for p in points
    ]
    return Table(
        columns=(Column("Predicted"), Column("Observed", "number"), Column("Patients", "number")), rows=rows
    )
