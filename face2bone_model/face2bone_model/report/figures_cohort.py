"""Who the patients are: bars of the three classes by sex and age band."""

from collections.abc import Mapping

from face2bone_model.contract.keys import CLASSES
from face2bone_model.metrics.subgroup import ALL
from face2bone_model.metrics.summary import DescriptionSummary
from face2bone_model.report.axes import fitted_axis
from face2bone_model.report.drawing import Drawing
from face2bone_model.report.evaluation_tables import group_name
from face2bone_model.report.figure import Figure
from face2bone_model.report.formats import count
from face2bone_model.report.plot_frame import RIGHT, TOP, draw_across
from face2bone_model.report.tables import Column, Table

ROW, LABELS, KEY = 26.0, 88.0, 24.0
"""Height of a bar with its space, width of the names, height of the key."""


def class_bars(name: str, cohort: DescriptionSummary) -> Figure | None:
    """One bar for each group, divided by class; None where no group was counted."""
    counted: Mapping[str, Mapping[str, int]] = {
        group: numbers
        for group, numbers in cohort.patients_by_group_and_class.items()
        if numbers is not None and group != ALL
    }
    if not counted:
        return None
    top = TOP + KEY
    bottom = top + ROW * len(counted)
    title = "Patients by sex, age and class"
    drawing = Drawing(name, title, f"Numbers of patients in {len(counted)} groups.", bottom + 44)
    most = max(sum(numbers.values()) for numbers in counted.values())
    across = fitted_axis([0.0, float(max(most, 1))], LABELS, RIGHT - 10, floor=0.0)
    draw_across(drawing, across, bottom, "Patients", grid_top=top)
    _draw_key(drawing)
    for index, (group, numbers) in enumerate(counted.items()):
        height, before = top + ROW * index + 4.0, 0
        drawing.text((0, height + 13), group_name(group))
        for label, number in ((label, numbers.get(label, 0)) for label in CLASSES):
            width = across(before + number) - across(before)
            drawing.rect(
                (across(before), height), (width, ROW - 8), f"class-{CLASSES.index(label)} class-bar"
            )
            before += number
    return Figure(
        title=title, caption="All splits together.", drawing=drawing.markup(), numbers=_numbers(counted)
    )


def _draw_key(drawing: Drawing) -> None:
    for label, place in zip(CLASSES, (LABELS, LABELS + 70, LABELS + 162), strict=True):
        style = f"class-{CLASSES.index(label)}"
        drawing.rect((place, TOP - 4), (10, 10), f"{style} class-bar")
        drawing.text((place + 15, TOP + 5), label, f"{style} class-name")


def _numbers(counted: Mapping[str, Mapping[str, int]]) -> Table:
    rows = [
        (group_name(group), *(count(numbers.get(k, 0)) for k in CLASSES))
        for group, numbers in counted.items()
    ]
    return Table(
        columns=[Column("Group"), *(Column(label.capitalize(), "number") for label in CLASSES)], rows=rows
    )
