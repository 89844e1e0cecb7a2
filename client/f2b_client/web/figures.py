"""Figures only the live pages show: this hospital's rounds as curves, and how released numbers are spread."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2b_client.local_results import LocalRound
from face2bone_model.metrics.estimate import Estimate
from face2bone_model.report.axes import fitted_axis
from face2bone_model.report.drawing import Drawing
from face2bone_model.report.figure import Figure
from face2bone_model.report.figures_training import RoundPoint, learning_curve
from face2bone_model.report.formats import count
from face2bone_model.report.plot_frame import LEFT, RIGHT, TOP, draw_frame
from face2bone_model.report.tables import Column, Table

BINS = 48
BOTTOM = 214.0


def loss_curve(rounds: Sequence[LocalRound]) -> Figure | None:
    """Training loss by round; None with fewer than two rounds, or where training was private and none was looked at."""
    points = [
        RoundPoint(number=one.round, estimate=_plain(one.train_loss, one.num_patients))
        for one in rounds
        if one.epochs
    ]
    if len(points) < 2:  # noqa: PLR2004  # a curve takes two
        return None
    figure = learning_curve("loss", "Training loss", points, None)
    return replace(figure, caption="Mean over the last local epoch, on our training patients.")


def auc_curve(points: Sequence[RoundPoint]) -> Figure | None:
    """AUC of the global model on this hospital's validation patients; None with fewer than two rounds."""
    if sum(point.estimate.known for point in points) < 2:  # noqa: PLR2004  # a curve takes two
        return None
    figure = learning_curve("auc", "Validation AUC, osteoporosis", points, None, ceiling=1.0)
    caption = (
        "The global model as it came, on our validation patients, from the sums that left. Band: 95 % interval."
        + ("" if all(point.estimate.known for point in points) else " Gap: withheld because of small cells.")
    )
    return replace(figure, caption=caption)


def _plain(value: float, patients: int) -> Estimate:
    return Estimate(
        value=value, low=math.nan, high=math.nan, n=patients, definition="", source="", exact="exact"
    )


def _span(values: NDArray[Any]) -> tuple[float, float]:
    """From the smallest to the largest, or one around them where they lie too close for `BINS` steps between."""
    low, high = float(values.min()), float(values.max())
    step = (high - low) / BINS
    return (low, high) if low + step > low and high - step < high else (low - 0.5, high + 0.5)


def value_histogram(name: str, values: NDArray[Any]) -> Figure:
    """How many of the released numbers lie in each of `BINS` equal steps from the smallest to the largest.

    Args:
        name: unique on the page.
        values: shape (number of scalars,), finite.
    """
    numbers, edges = np.histogram(values, BINS, range=_span(values))
    drawing = Drawing(name, "Released numbers", f"Histogram of {count(values.size)} numbers.", BOTTOM + 44)
    across = fitted_axis([float(edges[0]), float(edges[-1])], LEFT, RIGHT)
    up = fitted_axis([0.0, float(numbers.max(initial=1))], BOTTOM, TOP, floor=0.0)
    draw_frame(drawing, across, up, "Value", "Numbers")
    for number, low, high in zip(numbers, edges[:-1], edges[1:], strict=True):
        if number:
            top, left = up(float(number)), across(float(low))
            drawing.rect((left, top), (across(float(high)) - left, BOTTOM - top), "bar")
    rows = [
        (f"{low:.4g} to {high:.4g}", count(int(number)))
        for number, low, high in zip(numbers, edges[:-1], edges[1:], strict=True)
        if number
    ]
    return Figure(
        title="How the numbers are spread",
        caption="Each bar counts the trained numbers of that size.",
        drawing=drawing.markup(),
        numbers=Table(columns=(Column("From, to"), Column("Numbers", "number")), rows=rows),
    )
