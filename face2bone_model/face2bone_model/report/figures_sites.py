"""One line for each hospital over the rounds, beside the line of all together or below a limit."""

import math
from collections.abc import Iterable, Mapping, Sequence

from face2bone_model.metrics.estimate import Estimate
from face2bone_model.report.axes import Axis, fitted_axis, round_axis
from face2bone_model.report.drawing import Drawing
from face2bone_model.report.figure import Figure
from face2bone_model.report.figures_training import RoundPoint, unbroken
from face2bone_model.report.formats import decimal
from face2bone_model.report.plot_frame import LEFT, RIGHT, TOP, draw_frame
from face2bone_model.report.tables import Column, Table

BOTTOM = 214.0
HEADROOM = 16.0
"""Room for the words at the limit."""
LABEL_WIDTH = 76.0
"""Room for names right of the last round."""
LETTERS = 12
"""Of a name beside its line; the table has it whole."""
LINE_HEIGHT = 13.0
MOST_LABELS = 12
"""Above so many hospitals names would not fit beside their lines; the table names them."""

Curves = Mapping[str, Sequence[RoundPoint]]


def site_curves(
    name: str,
    quantity: str,
    curves: Curves,
    *,
    pooled: Sequence[RoundPoint] = (),
    limit: tuple[str, float] | None = None,
    ceiling: float = math.inf,
) -> Figure | None:
    """A quantity by round, a thin line for each hospital; None where no hospital has a value.

    Args:
        name: unique on the page.
        quantity: what the vertical axis shows.
        curves: of each hospital, in the order of rounds; a round without an estimate leaves a gap.
        pooled: the line of all hospitals together, drawn strong.
        limit: a word and a value, drawn as a dashed line; the vertical axis then begins at 0.
        ceiling: the largest possible value, such as 1 for an area under the curve.
    """
    known = {site: [p for p in points if p.estimate.known] for site, points in curves.items()}
    every = [point for points in (*known.values(), pooled) for point in points if point.estimate.known]
    if not any(known.values()):
        return None
    drawing = Drawing(name, f"{quantity} by hospital", _summary(quantity, known), BOTTOM + 44)
    rounds = sorted({point.number for points in (*curves.values(), pooled) for point in points})
    named = len(known) <= MOST_LABELS
    across = round_axis(rounds[0], rounds[-1], LEFT, RIGHT - (LABEL_WIDTH if named else 0))
    values = [point.estimate.value for point in every] + ([0.0, limit[1]] if limit else [])
    up = fitted_axis(values, BOTTOM, TOP + HEADROOM, floor=0.0, ceiling=ceiling)
    draw_frame(drawing, across, up, "Round", quantity)
    if limit:
        _draw_limit(drawing, across, up(limit[1]), f"{limit[0]} {decimal(limit[1])}")
    for points in curves.values():
        _draw_line(drawing, across, up, _runs(points, rounds), "thread")
    _draw_line(drawing, across, up, _runs(pooled, rounds), "curve")
    if named:
        last = [(site, points[-1]) for site, points in known.items() if points]
        ends = [(up(p.estimate.value), site) for site, p in last if p.number == rounds[-1]]
        _draw_names(drawing, across.stop + 5, sorted(ends))
    return Figure(
        title=f"{quantity} by hospital",
        caption=_caption(curves, strong=bool(pooled)),
        drawing=drawing.markup(),
        numbers=_numbers(curves),
    )


def _caption(curves: Curves, *, strong: bool) -> str:
    longest = max(len(points) for points in curves.values())
    whole = all(
        len(points) == longest and all(point.estimate.known for point in points) for points in curves.values()
    )
    return (
        ("Strong line: all hospitals together. " if strong else "")
        + "Thin lines: each hospital."
        + ("" if whole else " Gap: withheld, not estimable, or no answer.")
    )


def _draw_limit(drawing: Drawing, across: Axis, height: float, words: str) -> None:
    drawing.line((across.start, height), (across.stop, height), "reference")
    drawing.text((across.start + 4, height - 5), words, "strong")


def _draw_line(
    drawing: Drawing, across: Axis, up: Axis, runs: Iterable[Sequence[RoundPoint]], style: str
) -> None:
    for run in runs:
        places = [(across(point.number), up(point.estimate.value)) for point in run]
        drawing.path(places, style)
        if len(places) == 1:
            drawing.dot(places[0], 2.0, f"{style}-point")


def _runs(points: Sequence[RoundPoint], rounds: Sequence[int]) -> list[list[RoundPoint]]:
    """The points in runs: a round that is missing or has no estimate parts two."""
    runs: list[list[RoundPoint]] = []
    for run in unbroken(points):
        for index, point in enumerate(run):
            follows = index > 0 and rounds.index(point.number) == rounds.index(run[index - 1].number) + 1
            if follows:
                runs[-1].append(point)
            else:
                runs.append([point])
    return runs


def _draw_names(drawing: Drawing, place: float, ends: Sequence[tuple[float, str]]) -> None:
    """Each name beside the end of its line, moved apart where lines end close together."""
    for height, (_, site) in zip(_apart([height for height, _ in ends]), ends, strict=True):
        text = site if len(site) <= LETTERS else f"{site[: LETTERS - 1]}…"
        drawing.text((place, height + 4), text, "quiet")


def _apart(heights: Sequence[float]) -> list[float]:
    """Rising heights with at least a line between two, none below the axis."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + LINE_HEIGHT) if placed else height)
    below = BOTTOM
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = min(placed[index], below)
        below = placed[index] - LINE_HEIGHT
    return placed


def _summary(quantity: str, known: Mapping[str, Sequence[RoundPoint]]) -> str:
    last = [f"{site} {decimal(points[-1].estimate.value, 3)}" for site, points in known.items() if points]
    return f"{quantity} at the last round known: {', '.join(last)}."


def _numbers(curves: Curves) -> Table:
    rounds = sorted({point.number for points in curves.values() for point in points})
    by_round = {site: {p.number: p.estimate for p in points} for site, points in curves.items()}
    rows = [
        (site, *(_cell(by_round[site][n]) if n in by_round[site] else "" for n in rounds)) for site in curves
    ]
    return Table(columns=(Column("Hospital"), *(Column(f"Round {n}", "number") for n in rounds)), rows=rows)


def _cell(estimate: Estimate) -> str:
    if estimate.known:
        return decimal(estimate.value, 3)
    return "withheld" if estimate.withheld else "not estimable"
