"""What figures share: grid, axes and tick labels."""

from face2bone_model.report.axes import Axis
from face2bone_model.report.drawing import Drawing

LEFT, RIGHT, TOP = 48.0, 350.0, 12.0
"""Edges of the plotting area; its bottom differs between figures."""


def draw_frame(drawing: Drawing, across: Axis, up: Axis, across_name: str, up_name: str) -> None:
    """Both axes with horizontal grid lines, tick labels and names."""
    draw_up(drawing, across, up, up_name)
    draw_across(drawing, across, up.start, across_name)


def draw_up(drawing: Drawing, across: Axis, up: Axis, name: str) -> None:
    """The vertical axis: grid lines, tick labels and its name, reading upwards."""
    for tick, label in zip(up.ticks, up.labels(), strict=True):
        drawing.line((across.start, up(tick)), (across.stop, up(tick)), "grid")
        drawing.text((across.start - 7, up(tick) + 4), label, "quiet", anchor="end")
    drawing.vertical_text((11, (up.start + up.stop) / 2), name)


def draw_across(
    drawing: Drawing, across: Axis, bottom: float, name: str, *, grid_top: float | None = None
) -> None:
    """The horizontal axis; with `grid_top`, vertical grid lines up to there."""
    if grid_top is not None:
        for tick in across.ticks:
            drawing.line((across(tick), grid_top), (across(tick), bottom), "grid")
    drawing.line((across.start, bottom), (across.stop, bottom), "axis")
    for tick, label in zip(across.ticks, across.labels(), strict=True):
        drawing.line((across(tick), bottom), (across(tick), bottom + 4), "axis")
        anchor = "end" if across(tick) > RIGHT - 6 and len(label) > 2 else "middle"  # noqa: PLR2004  # would be cut off
        drawing.text(
            (across(tick) + (6 if anchor == "end" else 0), bottom + 18), label, "quiet", anchor=anchor
        )
    drawing.text(((across.start + across.stop) / 2, bottom + 36), name, anchor="middle")
