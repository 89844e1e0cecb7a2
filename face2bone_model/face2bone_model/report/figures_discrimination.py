"""ROC curves, one against the rest, and forest plots: how well the model tells patients apart."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from face2bone_model.contract.keys import CLASSES
from face2bone_model.metrics.discrimination import RocPoint
from face2bone_model.metrics.estimate import Estimate
from face2bone_model.report.axes import Axis, fitted_axis, fixed_axis
from face2bone_model.report.drawing import Drawing, Point
from face2bone_model.report.figure import Figure
from face2bone_model.report.formats import count, decimal, interval, plain_estimate
from face2bone_model.report.plot_frame import LEFT, RIGHT, TOP, draw_across, draw_frame
from face2bone_model.report.tables import Column, Table

VISIBLE = 0.01
"""Side of the largest step of a curve, in sensitivity, below which its binning bound would not be seen."""
SPECIFICITIES = (0.95, 0.90, 0.80)
ROW = 25.0
"""Height of one group in a forest plot."""
LABELS = 88.0
"""Width of the groups' names."""


def roc_figure(name: str, curves: Mapping[str, Sequence[RocPoint]], areas: Mapping[str, Estimate]) -> Figure:
    """ROC curves named in the empty corner with their areas; the binning bound is shaded where it can be seen.

    Args:
        name: unique on the page.
        curves: by class; a class without points is named but not drawn.
        areas: area under the curve, by class.
    """
    bottom = TOP + RIGHT - LEFT
    across = fixed_axis(0.0, 1.0, LEFT, RIGHT, step=0.2)
    up = fixed_axis(0.0, 1.0, bottom, TOP, step=0.2)
    words = "; ".join(f"{label} {plain_estimate(area)}" for label, area in areas.items())
    drawing = Drawing(
        name, "ROC curves, each class against the rest", f"Area under the curve: {words}.", bottom + 44
    )
    draw_frame(drawing, across, up, "1 \N{MINUS SIGN} specificity", "Sensitivity")
    drawing.line((across(0), up(0)), (across(1), up(1)), "reference")
    shaded = [_draw_curve(drawing, (across, up), label, curves.get(label, ())) for label in areas]
    for index, label in enumerate(reversed(CLASSES)):
        _draw_key(drawing, bottom - 14.0 - 19.0 * (len(CLASSES) - 1 - index), label, areas[label])
    return Figure(
        title="ROC curves, each class against the rest",
        caption="Beside each name: area under the curve with its 95 % interval. Dashed diagonal: chance."
        + (" Shaded: where a curve may run, since scores were counted in bins." if any(shaded) else ""),
        drawing=drawing.markup(),
        numbers=_operating_points(curves),
    )


def _draw_key(drawing: Drawing, height: float, label: str, area: Estimate) -> None:
    style, start = f"class-{CLASSES.index(label)}", 112.0
    drawing.line((start, height - 4), (start + 24, height - 4), f"{style} class-curve")
    drawing.text((start + 30, height), label, f"{style} class-name")
    limits = interval(area)
    text = f"{decimal(area.value)} ({limits})" if limits else decimal(area.value)
    drawing.text((RIGHT - 3, height), text, anchor="end")


def _draw_curve(drawing: Drawing, axes: tuple[Axis, Axis], label: str, curve: Sequence[RocPoint]) -> bool:
    """Draw one class; returns whether its binning bound is wide enough to be shaded."""
    style = f"class-{CLASSES.index(label)}"
    points = [(point.false_positive_rate, point.true_positive_rate) for point in curve]
    steps = [(right[0] - left[0]) * (right[1] - left[1]) for left, right in pairwise(points)]
    visible = max(steps, default=0.0) > VISIBLE**2
    if visible:
        # Patients of one bin are not ordered: between two corners the curve may run up then right, or right then up.
        upper, lower = _staircase(points, up_first=True), _staircase(points, up_first=False)
        drawing.area(_placed(upper, axes), _placed(lower, axes), f"{style} class-band")
    drawing.path(_placed(points, axes), f"{style} class-curve")
    return visible


def _staircase(points: Sequence[Point], *, up_first: bool) -> list[Point]:
    steps = list(points[:1])
    for before, after in pairwise(points):
        steps += [(before[0], after[1]) if up_first else (after[0], before[1]), after]
    return steps


def _placed(points: Sequence[Point], axes: tuple[Axis, Axis]) -> list[Point]:
    """In drawing units, without points that repeat the one before or lie straight between their neighbours."""
    across, up = axes
    kept: list[Point] = []
    for x, y in points:
        point = (across(x), up(y))
        if kept and point == kept[-1]:
            continue
        while len(kept) > 1 and _straight(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    return kept


def _straight(a: Point, b: Point, c: Point) -> bool:
    return abs((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])) < 1e-6  # noqa: PLR2004  # rounding


def _operating_points(curves: Mapping[str, Sequence[RocPoint]]) -> Table:
    rows = []
    for label in CLASSES:
        points = curves.get(label, ())
        rates = [point.false_positive_rate for point in points]
        hits = [point.true_positive_rate for point in points]
        wanted = [1.0 - specificity for specificity in SPECIFICITIES]
        read = np.interp(wanted, rates, hits) if points else np.full(len(wanted), math.nan)
        rows.append([label, *(decimal(float(value)) for value in read)])
    headings = [Column(f"Sensitivity at specificity {value:.2f}", "number") for value in SPECIFICITIES]
    return Table(columns=[Column("Class"), *headings], rows=rows)


def forest_figure(
    name: str, quantity: str, rows: Sequence[tuple[str, Estimate]], overall: Estimate, *, each: str = "group"
) -> Figure:
    """One line for each group, or whatever `each` row is, against the value of all patients (dashed)."""
    bottom = TOP + ROW * len(rows)
    spread = [v for _, estimate in rows for v in (estimate.value, estimate.low, estimate.high)]
    across = fitted_axis([*spread, overall.value], LABELS, RIGHT - 6, floor=0.0, ceiling=1.0)
    known = sum(estimate.known for _, estimate in rows)
    words = (
        f"{quantity} of {known} {each}s with 95 % intervals; all patients together {plain_estimate(overall)}."
    )
    drawing = Drawing(name, f"{quantity} by {each}", words, bottom + 44)
    draw_across(drawing, across, bottom, quantity, grid_top=TOP)
    if overall.known:
        drawing.line((across(overall.value), TOP), (across(overall.value), bottom), "reference")
    for index, (label, estimate) in enumerate(rows):
        _draw_group(drawing, across, TOP + ROW * (index + 0.5), label, estimate)
    table = Table(
        columns=(Column(each.capitalize()), Column(quantity, "number"), Column("Patients", "number")),
        rows=[(label, plain_estimate(estimate), count(estimate.n)) for label, estimate in rows],
    )
    return Figure(
        title=f"{quantity} by {each}",
        caption="Dot: estimate. Bar: 95 % interval. Dashed: all patients together.",
        drawing=drawing.markup(),
        numbers=table,
    )


def _draw_group(drawing: Drawing, across: Axis, height: float, label: str, estimate: Estimate) -> None:
    drawing.text((0, height + 4), label)
    if not estimate.known:
        drawing.text(
            (across.start + 6, height + 4), "withheld" if estimate.withheld else "not estimable", "quiet"
        )
        return
    if math.isfinite(estimate.low) and math.isfinite(estimate.high):
        drawing.line((across(estimate.low), height), (across(estimate.high), height), "whisker")
    drawing.dot((across(estimate.value), height), 4.5, "point")
