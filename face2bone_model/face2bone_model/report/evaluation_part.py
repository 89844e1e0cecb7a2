"""The part both pages share: headline figures, the figures of an evaluation, and its tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from face2bone_model.contract.keys import CLASSES
from face2bone_model.metrics.estimate import Estimate
from face2bone_model.metrics.subgroup import ALL
from face2bone_model.metrics.summary import EvaluationSummary, GroupSummary
from face2bone_model.report.evaluation_tables import (
    TARGET,
    TOP_LABEL,
    calibration_table,
    class_table,
    confusion_rows,
    definitions,
    group_name,
    group_table,
    metric_of,
)
from face2bone_model.report.figure import Figure
from face2bone_model.report.figures_calibration import reliability_figure
from face2bone_model.report.figures_discrimination import forest_figure, roc_figure
from face2bone_model.report.formats import count, decimal, estimate_cell, interval

HEADLINES = (
    (f"auc:{TARGET}", "AUC, osteoporosis against the rest", 2),
    ("accuracy", "Accuracy, three classes", 2),
    ("f1:macro", "F1, mean of the three classes", 2),
    (f"ece:{TOP_LABEL}", "Expected calibration error, predicted class", 3),
    ("brier", "Brier score, three classes, 0\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}2", 3),
)


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One of the figures at the head of the page."""

    name: str
    value: str
    """`withheld` or `not estimable` when there is none."""
    known: bool
    limits: str
    remark: str
    """Why there is none, or what to compare it with."""


def evaluation_context(evaluation: EvaluationSummary, *, where: str, min_cell: int) -> dict[str, Any]:
    """Tables and figures of one evaluation, by their name in the templates.

    Args:
        evaluation: pooled, or one hospital's own.
        where: whose patients, such as `all hospitals`.
        min_cell: smallest number of patients in a released cell.
    """
    everyone = evaluation.groups[ALL]
    within = metric_of(everyone, f"auc_within_site:{TARGET}")
    return {
        "where": where,
        "num_patients": f"{count(everyone.n)} held-out patients"
        if everyone.n is not None
        else "Held-out patients",
        "suppression": suppression_note(evaluation, min_cell),
        "headlines": headlines(everyone),
        "class_table": class_table(everyone),
        "within_site": estimate_cell(within) if within.known and evaluation.sites > 1 else "",
        "roc": _roc(everyone),
        "confusion": confusion_rows(everyone),
        "calibration_table": calibration_table(everyone),
        "null_band": null_band(everyone),
        "reliability": reliability_figures(everyone),
        "forests": _forests(evaluation.groups),
        "group_table": group_table(evaluation.groups),
        "definitions": definitions(everyone),
    }


def headlines(everyone: GroupSummary) -> Sequence[Headline]:
    """The five figures a reader looks for first."""
    return [_headline(metric_of(everyone, key), name, digits) for key, name, digits in HEADLINES]


def _headline(estimate: Estimate, name: str, digits: int) -> Headline:
    if not estimate.known:
        word = "withheld" if estimate.withheld else "not estimable"
        return Headline(name=name, value=word, known=False, limits="", remark=estimate.reason)
    limits = interval(estimate, digits)
    value = decimal(estimate.value, digits)
    return Headline(
        name=name, value=value, known=True, limits=f"({limits})" if limits else "", remark=estimate.reason
    )


def suppression_note(evaluation: EvaluationSummary, min_cell: int) -> str:
    """Why figures are withheld; empty where none is."""
    if not any(figure.withheld for group in evaluation.groups.values() for figure in group.metrics.values()):
        return ""
    return (
        f"Withheld: a hospital releases no table with a cell of 1 to {min_cell - 1} patients, for so few might be "
        "recognised. The table stays whole at the hospital, so that no cell follows from the others."
    )


def null_band(everyone: GroupSummary) -> str:
    """What the calibration error of a perfect model would be, and where ours lies; empty where it is not known."""
    ours, null = metric_of(everyone, f"ece:{TOP_LABEL}"), metric_of(everyone, f"ece_null:{TOP_LABEL}")
    if not (ours.known and null.known):
        return ""
    above = ours.value > null.high
    return (
        "With as many patients, a perfectly calibrated model would show a calibration error of about "
        f"{decimal(null.value, 3)}, 95 % of the time {interval(null, 3)}. "
        f"The error found, {decimal(ours.value, 3)}, lies "
        + ("above that band." if above else "within what chance alone produces.")
    )


def _roc(everyone: GroupSummary) -> Figure | None:
    areas = {label: metric_of(everyone, f"auc:{label}") for label in CLASSES}
    return roc_figure("roc", everyone.roc, areas) if any(everyone.roc.values()) else None


def reliability_figures(everyone: GroupSummary) -> Sequence[Figure]:
    """Of osteoporosis and of the predicted class; without those whose bins every hospital withheld."""
    drawn = (
        (
            TARGET,
            "Reliability, osteoporosis",
            "osteoporosis",
            "Each dot: share of patients who had osteoporosis.",
        ),
        (
            TOP_LABEL,
            "Reliability, predicted class",
            "class named",
            "Each dot: share of patients whose named class was right.",
        ),
    )
    return [
        reliability_figure(f"reliability-{key}", title, outcome, everyone.reliability[key], caption)
        for key, title, outcome, caption in drawn
        if everyone.reliability.get(key)
    ]


def _forests(groups: Mapping[str, GroupSummary]) -> Sequence[Figure]:
    drawn = ((f"auc:{TARGET}", "AUC, osteoporosis"), ("accuracy", "Accuracy"))
    figures = []
    for key, title in drawn:
        rows = [(group_name(name), metric_of(group, key)) for name, group in groups.items() if name != ALL]
        if any(estimate.known for _, estimate in rows):
            figures.append(
                forest_figure(f"forest-{key.partition(':')[0]}", title, rows, metric_of(groups[ALL], key))
            )
    return figures
