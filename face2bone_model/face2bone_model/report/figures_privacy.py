"""The privacy account as a figure: epsilon spent in all, charge by charge, below its limit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from face2bone_model.report.axes import Axis, fitted_axis, round_axis
from face2bone_model.report.drawing import Drawing, Point
from face2bone_model.report.figure import Figure
from face2bone_model.report.formats import epsilon, moment
from face2bone_model.report.plot_frame import LEFT, RIGHT, TOP, draw_frame
from face2bone_model.report.tables import Column, Table

BOTTOM = 214.0
HEADROOM = 16.0
"""Room for the words at the limit."""
NAME_WIDTH = 12
"""Letters of a study's name beside its first charge."""


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One charge on the ledger and what was spent in all after it."""

    at: datetime
    study: str
    """Name of the study, or the beginning of its hash."""
    round: int
    epsilon: float


def epsilon_curve(name: str, charges: Sequence[Charge], *, limit: float) -> Figure | None:
    """Epsilon after each charge as a staircase, the limit as a dashed line; None before the first charge.

    Args:
        name: unique on the page.
        charges: oldest first.
        limit: epsilon that all charges together may reach.
    """
    if not charges:
        return None
    drawing = Drawing(name, "Privacy spent", _summary(charges, limit), BOTTOM + 44)
    across = round_axis(0, len(charges), LEFT, RIGHT)
    shown = [charge.epsilon for charge in charges] + ([limit] if math.isfinite(limit) else [])
    up = fitted_axis([0.0, *shown], BOTTOM, TOP + HEADROOM, floor=0.0)
    draw_frame(drawing, across, up, "Releases of trained numbers, in order", "ε spent in all")
    _draw_studies(drawing, across, charges)
    stairs = _stairs(across, up, charges)
    drawing.area(stairs, [(place, BOTTOM) for place, _ in stairs], "band")
    drawing.path(stairs, "curve")
    if math.isfinite(limit):
        drawing.line((LEFT, up(limit)), (RIGHT, up(limit)), "reference")
        drawing.text((LEFT + 4, up(limit) - 5), f"limit {epsilon(limit)}", "strong")
    return Figure(
        title="Privacy spent",
        caption=f"ε in all after each release, from {moment(charges[0].at)} to {moment(charges[-1].at)}.",
        drawing=drawing.markup(),
        numbers=_numbers(charges),
    )


def _stairs(across: Axis, up: Axis, charges: Sequence[Charge]) -> list[Point]:
    """From nothing spent: up at each charge, then level until the next."""
    points = [(across(0), up(0.0))]
    for index, charge in enumerate(charges):
        points += [(across(index), up(charge.epsilon)), (across(index + 1), up(charge.epsilon))]
    return points


def _draw_studies(drawing: Drawing, across: Axis, charges: Sequence[Charge]) -> None:
    """Where another study begins, if more than one was charged."""
    for index in range(1, len(charges)):
        if charges[index].study != charges[index - 1].study:
            place = across(index)
            drawing.line((place, TOP + HEADROOM), (place, BOTTOM), "reference")
            drawing.text((place + 4, BOTTOM - 8), charges[index].study[:NAME_WIDTH], "quiet")


def _summary(charges: Sequence[Charge], limit: float) -> str:
    return f"{len(charges)} releases were charged; ε {epsilon(charges[-1].epsilon)} of {epsilon(limit)} is spent."


def _numbers(charges: Sequence[Charge]) -> Table:
    rows = [
        (moment(charge.at), charge.study[:NAME_WIDTH], str(charge.round), epsilon(charge.epsilon))
        for charge in charges
    ]
    return Table(
        columns=(
            Column("When"),
            Column("Study"),
            Column("Round", "number"),
            Column("ε in all", "number"),
        ),
        rows=rows,
    )
