"""Tables of an evaluation: by class, calibration, confusion, groups of patients, and what each figure means."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from face2bone_model.contract.keys import CLASSES
from face2bone_model.metrics.estimate import Estimate
from face2bone_model.metrics.subgroup import ALL
from face2bone_model.metrics.summary import GroupSummary
from face2bone_model.report.footnotes import Footnotes
from face2bone_model.report.formats import count, decimal, share
from face2bone_model.report.tables import Cell, Column, Table

TARGET = CLASSES[-1]
"""The class the study's question is about."""
TOP_LABEL = "top_label"
WITHHELD = "Every hospital withheld this count because of small cells."
BOUND_DIGITS = 4
KINDS: Mapping[str, tuple[str, str]] = {
    "auc": (
        "AUC, area under the ROC curve",
        "How often a patient of the class has a higher score than one of another class; 0.5 is chance, 1 perfect.",
    ),
    "auc_within_site": (
        "AUC within hospitals",
        "The same, comparing only patients of one hospital with each other.",
    ),
    "accuracy": ("Accuracy", "Share of patients whose class is named rightly."),
    "recall": ("Sensitivity (recall)", "Of the patients of a class, the share that the model names so."),
    "precision": (
        "Precision (positive predictive value)",
        "Of the patients named so, the share who are of that class.",
    ),
    "f1": ("F1", "Sensitivity and precision in one figure: their harmonic mean."),
    "ece": (
        "Expected calibration error (ECE)",
        "How far predicted probabilities lie from what came true, on average over patients; 0 is perfect.",
    ),
    "ece_null": (
        "ECE of a perfectly calibrated model",
        "What chance alone makes of the ECE when probabilities are right.",
    ),
    "oe": (
        "Observed to expected",
        "Patients of the class for each one that the model expected; 1 is perfect, above 1 it expected too few.",
    ),
    "brier": ("Brier score", "Squared distance between probabilities and truth; 0 is perfect."),
    "log_loss": (
        "Log loss",
        "The loss of the learning curve: how little the model believed in the truth; 0 is perfect.",
    ),
}
"""Every kind of figure on a page: its name and what it says in plain words, in the order of the definitions."""


def metric_of(group: GroupSummary, key: str) -> Estimate:
    """A figure by name; one that was not computed is not estimable, with that reason."""
    if key in group.metrics:
        return group.metrics[key]
    return Estimate(
        value=math.nan,
        low=math.nan,
        high=math.nan,
        n=0,
        definition="",
        source="",
        exact="exact",
        reason="Not computed.",
    )


def group_name(group: str) -> str:
    """A group as people say it.

    >>> group_name("age:50-59"), group_name("sex:female"), group_name("all")
    ('Age 50–59', 'Female', 'All')
    """
    family, _, value = group.partition(":")
    if family == "age":
        return "Age " + value.replace("-", "\N{EN DASH}").replace("<", "under ")
    return (value or family).capitalize()


def class_table(everyone: GroupSummary) -> Table:
    """Sensitivity, precision, F1 and AUC of each class and on average."""
    notes = Footnotes()
    numbers = everyone.n_by_class
    rows: list[Sequence[Cell]] = []
    for index, label in enumerate(CLASSES):
        patients = count(numbers[index]) if numbers else notes.withheld(WITHHELD)
        rows.append((label.capitalize(), patients, *_class_cells(everyone, notes, label)))
    everyone_counted = notes.withheld(WITHHELD) if everyone.n is None else count(everyone.n)
    rows.append(("Mean of the classes", everyone_counted, *_class_cells(everyone, notes, "macro")))
    return Table(
        title="By class",
        caption="Value (95 % interval); the last row weighs the classes alike.",
        columns=(
            Column("Class"),
            Column("Patients", "number"),
            Column("Sensitivity", "number"),
            Column("Precision", "number"),
            Column("F1", "number"),
            Column("AUC against the rest", "number"),
        ),
        rows=rows,
        totals=1,
        notes=notes.notes,
        wide=True,
    )


def _class_cells(everyone: GroupSummary, notes: Footnotes, label: str) -> Sequence[Cell]:
    return [
        notes.cell(metric_of(everyone, f"{kind}:{label}")) for kind in ("recall", "precision", "f1", "auc")
    ]


def calibration_table(everyone: GroupSummary) -> Table:
    """ECE beside what a perfect model would show, and observed to expected."""
    notes = Footnotes()
    names = {TOP_LABEL: "Predicted class"} | {label: label.capitalize() for label in CLASSES}
    rows = [
        (
            name,
            notes.cell(metric_of(everyone, f"ece:{key}"), 3),
            notes.cell(metric_of(everyone, f"ece_null:{key}"), 3),
            notes.cell(metric_of(everyone, f"oe:{key}")) if key != TOP_LABEL else "",
        )
        for key, name in names.items()
    ]
    return Table(
        title="Calibration",
        caption="A calibration error inside the perfect model’s band is what chance alone produces.",
        columns=(
            Column("Probability of"),
            Column("ECE", "number"),
            Column("ECE of a perfectly calibrated model (95 % band)", "number"),
            Column("Observed to expected", "number"),
        ),
        rows=rows,
        notes=notes.notes,
        wide=True,
    )


@dataclass(frozen=True, kw_only=True)
class ConfusionCell:
    """Patients of one true class who were given one class."""

    patients: str
    share: str
    """Of the row."""
    tint: float
    """0 to 1."""
    agree: bool


@dataclass(frozen=True, kw_only=True)
class ConfusionRow:
    """Patients of one true class."""

    name: str
    cells: Sequence[ConfusionCell]
    total: str


def confusion_rows(everyone: GroupSummary) -> Sequence[ConfusionRow]:
    """True class by row, predicted class by column; empty where every hospital withheld it."""
    if everyone.confusion is None:
        return ()
    rows = []
    for index, numbers in enumerate(everyone.confusion):
        total = sum(numbers)
        cells = [
            ConfusionCell(
                patients=count(number),
                share=share(number, total),
                tint=round(number / total, 3) if total else 0.0,
                agree=index == column,
            )
            for column, number in enumerate(numbers)
        ]
        rows.append(ConfusionRow(name=CLASSES[index].capitalize(), cells=cells, total=count(total)))
    return rows


def group_table(groups: Mapping[str, GroupSummary]) -> Table:
    """Every group of patients, all patients last."""
    notes = Footnotes()
    order = [name for name in groups if name != ALL] + [ALL]
    return Table(
        title="By sex and age band",
        caption="Value (95 % interval). Small groups show a larger ECE even when calibrated; read it beside n.",
        columns=(
            Column("Group"),
            Column("Patients", "number"),
            Column("Accuracy", "number"),
            Column("AUC, osteoporosis", "number"),
            Column("ECE", "number"),
            Column("Brier score", "number"),
        ),
        rows=[_group_row(name, groups[name], notes) for name in order],
        totals=1,
        notes=notes.notes,
        wide=True,
    )


def _group_row(name: str, group: GroupSummary, notes: Footnotes) -> Sequence[Cell]:
    return (
        group_name(name),
        notes.withheld(WITHHELD) if group.n is None else count(group.n),
        notes.cell(metric_of(group, "accuracy")),
        notes.cell(metric_of(group, f"auc:{TARGET}")),
        notes.cell(metric_of(group, f"ece:{TOP_LABEL}"), 3),
        notes.cell(metric_of(group, "brier"), 3),
    )


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a figure is, where it comes from, and how close it is to the pooled computation."""

    name: str
    meaning: str
    formula: Markup
    source: str
    badge: str


def definitions(everyone: GroupSummary) -> Sequence[Definition]:
    """One entry for each kind of figure on the page; of figures by class, osteoporosis is the example."""
    entries = []
    for kind, (name, meaning) in KINDS.items():
        estimate = everyone.metrics.get(kind, everyone.metrics.get(f"{kind}:{TARGET}"))
        if estimate is not None:
            entry = Definition(
                name=name,
                meaning=meaning,
                formula=formula(estimate.definition),
                source=estimate.source,
                badge=_badge(estimate),
            )
            entries.append(entry)
    return entries


def formula(text: str) -> Markup:
    """A definition as a sentence, its one-letter subscripts set as such."""
    sentence = (text[:1].upper() + text[1:]).replace(" -", " \N{MINUS SIGN}").rstrip(".") + "."
    return Markup(re.sub(r"_(\w)\b", r"<sub>\1</sub>", str(escape(sentence))))  # noqa: S704  # escaped just before


def _badge(estimate: Estimate) -> str:
    if not estimate.known:
        return f"Not given here: {estimate.reason}" if estimate.reason else "Not given here."
    if estimate.exact == "exact":
        return "Exact: equal to the figure computed from all patients in one place."
    if estimate.exact == "bound" and estimate.bound is not None:
        low, high = estimate.bound
        if math.isfinite(low) and math.isfinite(high):
            return (
                f"Bounded: computed in one place it would lie from {decimal(low, BOUND_DIGITS)} "
                f"to {decimal(high, BOUND_DIGITS)}."
            )
    return "Approximate: computed in one place it may differ a little."
