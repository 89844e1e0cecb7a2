"""How often the most probable class is right: accuracy, precision, recall, F1, confusion matrix.

Intervals of single proportions are Wilson's. Those of F1 and of averages over classes are the 2.5 % and 97.5 %
quantiles of the figure over draws of cell probabilities from their posterior, Dirichlet(counts + 1/K) for K cells
(Perks' prior), with a fixed seed: F-scores as distributions of a confusion matrix are Goutte and Gaussier's idea
(ECIR 2005, LNCS 3408:345-359). Unlike a bootstrap, it gives a width where no error was seen.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.keys import CLASSES, OSTEOPOROSIS
from face2bone_model.contract.statistics import TableSpec
from face2bone_model.metrics.estimate import WILSON, Estimate, Interval, wilson_interval
from face2bone_model.metrics.family import Family, Figure, Predictions, Released

K = len(CLASSES)
DRAWS = 4000
SEED = 20_250_101
POSTERIOR = "Sokolova and Lapalme, Inf Process Manag 2009;45:427; interval: Goutte and Gaussier, ECIR 2005"
ByClass = Callable[[NDArray[Any]], NDArray[np.float64]]
"""A figure of each class from confusion matrices: shape (…, K, K) -> (…, K)."""
NO_PATIENT = "No patient in this group."


def no_patient_of(name: str) -> str:
    """The reason a figure about a class has no value."""
    return f"No patient with class '{name}' in this group."


def _measure_counts(predictions: Predictions) -> Mapping[str, NDArray[np.int64]]:
    return {"by_class": np.bincount(predictions.labels, minlength=K)}


def _measure_accuracy(predictions: Predictions) -> Mapping[str, NDArray[np.int64]]:
    right = predictions.predicted == predictions.labels
    return {"outcomes": np.bincount(right, minlength=2)}


def _measure_recall(predictions: Predictions) -> Mapping[str, NDArray[np.int64]]:
    right = predictions.predicted == predictions.labels
    return {"outcomes": np.bincount(predictions.labels * 2 + right, minlength=2 * K).reshape(K, 2)}


def _measure_confusion(predictions: Predictions) -> Mapping[str, NDArray[np.int64]]:
    cells = predictions.labels * K + predictions.predicted
    return {"counts": np.bincount(cells, minlength=K * K).reshape(K, K)}


def _measure_screen(predictions: Predictions) -> Mapping[str, NDArray[np.int64]]:
    truth, called = predictions.labels == OSTEOPOROSIS, predictions.predicted == OSTEOPOROSIS
    return {"counts": np.bincount(truth * 2 + called, minlength=4).reshape(2, 2)}


COUNTS = Family(name="counts", tables=(TableSpec(name="by_class", shape=(K,)),), measure=_measure_counts)
"""Patients by true class."""
ACCURACY = Family(
    name="accuracy", tables=(TableSpec(name="outcomes", shape=(2,)),), measure=_measure_accuracy
)
"""Patients the model had wrong, and right."""
RECALL = Family(name="recall", tables=(TableSpec(name="outcomes", shape=(K, 2)),), measure=_measure_recall)
"""The same by true class."""
CONFUSION = Family(
    name="confusion", tables=(TableSpec(name="counts", shape=(K, K)),), measure=_measure_confusion
)
"""Patients by true (rows) and predicted class (columns)."""
SCREEN = Family(name="screen", tables=(TableSpec(name="counts", shape=(2, 2)),), measure=_measure_screen)
"""Osteoporosis against the rest: rows truly so (no, yes), columns called so (no, yes)."""


def accuracy(released: Released) -> Estimate:
    """Share of patients whose most probable class is the true one, from `ACCURACY`; Wilson interval."""
    wrong, right = (int(count) for count in released["outcomes"])
    figure = Figure(definition="patients classed rightly / patients", source=WILSON)
    if wrong + right == 0:
        return figure.unknown(released, 0, NO_PATIENT)
    n = wrong + right
    return figure.of(released, right / n, wilson_interval(right, n), n)


def recalls(released: Released) -> dict[str, Estimate]:
    """Recall (sensitivity) TP / (TP + FN) by class, macro (balanced accuracy) and weighted, from `RECALL`.

    Macro is the plain mean over the three classes and needs patients of each; weighted is the mean weighted by
    patients of the class, which equals the accuracy.
    """
    outcomes = released["outcomes"].astype(np.int64)
    estimates = {
        f"recall:{name}": _proportion(
            released, outcomes[k, 1], outcomes[k].sum(), _RECALL, no_patient_of(name)
        )
        for k, name in enumerate(CLASSES)
    }
    estimates["recall:macro"] = _macro_recall(released, outcomes)
    weighted = Figure(definition="recall weighted by patients of the class (equals accuracy)", source=WILSON)
    total = outcomes.sum()
    estimates["recall:weighted"] = _proportion(released, outcomes[:, 1].sum(), total, weighted, NO_PATIENT)
    return estimates


def precisions(released: Released) -> dict[str, Estimate]:
    """Precision TP / (TP + FP) by class, macro and weighted by patients of the class, from `CONFUSION`.

    In averages a class that is never predicted counts as 0, scikit-learn's `zero_division=0`.
    """
    confusion = released["counts"].astype(np.int64)
    called = confusion.sum(axis=0)
    estimates = {}
    for k, name in enumerate(CLASSES):
        reason = f"The model called no patient of this group '{name}'."
        estimates[f"precision:{name}"] = _proportion(released, confusion[k, k], called[k], _PRECISION, reason)
    averages = _averages(released, confusion, "precision", precision_by_class)
    return estimates | averages


def f1_scores(released: Released) -> dict[str, Estimate]:
    """F1 = 2 TP / (2 TP + FP + FN) by class, macro (mean of the three) and weighted, from `CONFUSION`."""
    confusion = released["counts"].astype(np.int64)
    draws = f1_by_class(draw_cells(confusion.reshape(-1)).reshape(-1, K, K))
    values = f1_by_class(confusion)
    n = int(confusion.sum())
    figure = Figure(definition="2 TP / (2 TP + FP + FN)", source=POSTERIOR)
    estimates = {}
    for k, name in enumerate(CLASSES):
        present = confusion[k].sum() > 0
        estimates[f"f1:{name}"] = (
            figure.of(released, values[k], interval_of(draws[:, k], values[k]), n)
            if present
            else figure.unknown(released, n, no_patient_of(name))
        )
    return estimates | _averages(released, confusion, "f1", f1_by_class)


def screening(released: Released) -> dict[str, Estimate]:
    """Precision, recall, specificity and F1 of osteoporosis against the rest, from `SCREEN`.

    The same figures as from the confusion matrix, from larger cells: more sites can release them.
    """
    name = CLASSES[OSTEOPOROSIS]
    (rest, false_alarms), (missed, found) = released["counts"].astype(np.int64).tolist()
    n = rest + false_alarms + missed + found
    specific = Figure(definition="TN / (TN + FP)", source=WILSON)
    f1 = Figure(definition="2 TP / (2 TP + FP + FN)", source=POSTERIOR)
    reason = f"The model called no patient of this group '{name}'."
    estimates = {
        f"precision:{name}": _proportion(released, found, found + false_alarms, _PRECISION, reason),
        f"recall:{name}": _proportion(released, found, found + missed, _RECALL, no_patient_of(name)),
        f"specificity:{name}": _proportion(
            released, rest, rest + false_alarms, specific, f"No patient without class '{name}' in this group."
        ),
        f"f1:{name}": f1.unknown(released, n, no_patient_of(name)),
    }
    if missed + found:
        value = 2 * found / (2 * found + false_alarms + missed)
        draws = draw_cells(np.array([rest, false_alarms, missed, found]))
        drawn = 2 * draws[:, 3] / (2 * draws[:, 3] + draws[:, 1] + draws[:, 2])
        estimates[f"f1:{name}"] = f1.of(released, value, interval_of(drawn, value), n)
    return estimates


def precision_by_class(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """TP / (TP + FP), shape (…, K, K) -> (…, K); 0 where nothing was called."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-2))


def f1_by_class(confusion: NDArray[Any]) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN), shape (…, K, K) -> (…, K); 0 where the class neither is nor is called."""
    return _ratio(2 * _diagonal(confusion), confusion.sum(axis=-2) + confusion.sum(axis=-1))


def draw_cells(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cell probabilities from Dirichlet(counts + 1/K), shape (cells,) -> (DRAWS, cells). The seed is fixed."""
    return np.random.default_rng(SEED).dirichlet(counts + 1 / len(counts), size=DRAWS)


def interval_of(draws: NDArray[np.float64], value: float) -> Interval:
    """2.5 % and 97.5 % quantiles, widened if need be to hold the value itself."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return min(float(low), float(value)), max(float(high), float(value))


_RECALL = Figure(definition="TP / (TP + FN)", source=WILSON)
_PRECISION = Figure(definition="TP / (TP + FP)", source=WILSON)


def _proportion(released: Released, successes: int, trials: int, figure: Figure, reason: str) -> Estimate:
    if trials == 0:
        return figure.unknown(released, 0, reason)
    return figure.of(released, successes / trials, wilson_interval(int(successes), int(trials)), int(trials))


def _macro_recall(released: Released, outcomes: NDArray[np.int64]) -> Estimate:
    figure = Figure(definition="mean of the three recalls (balanced accuracy)", source=POSTERIOR)
    n, by_class = int(outcomes.sum()), outcomes.sum(axis=1)
    if (by_class == 0).any():
        return figure.unknown(released, n, _absent(by_class))
    value = float((outcomes[:, 1] / by_class).mean())
    draws = np.mean([_draw_share(row, seed=SEED + k) for k, row in enumerate(outcomes)], axis=0)
    return figure.of(released, value, interval_of(draws, value), n)


def _draw_share(outcomes: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    wrong, right = outcomes
    return np.random.default_rng(seed).beta(right + 0.5, wrong + 0.5, size=DRAWS)


def _averages(
    released: Released, confusion: NDArray[np.int64], name: str, by_class: ByClass
) -> dict[str, Estimate]:
    n, support = int(confusion.sum()), confusion.sum(axis=1)
    macro = Figure(
        definition=f"mean of the three {name} values; 0 for a class never called", source=POSTERIOR
    )
    weighted = Figure(
        definition=f"{name} weighted by patients of the class; 0 if never called", source=POSTERIOR
    )
    if n == 0:
        return {
            f"{name}:macro": macro.unknown(released, 0, NO_PATIENT),
            f"{name}:weighted": weighted.unknown(released, 0, NO_PATIENT),
        }
    draws = draw_cells(confusion.reshape(-1)).reshape(-1, K, K)
    values, drawn = by_class(confusion), by_class(draws)
    mean, weight = float(values.mean()), float(values @ support / n)
    drawn_weight = (drawn * draws.sum(axis=-1)).sum(axis=-1)
    return {
        f"{name}:macro": macro.of(released, mean, interval_of(drawn.mean(axis=-1), mean), n)
        if (support > 0).all()
        else macro.unknown(released, n, _absent(support)),
        f"{name}:weighted": weighted.of(released, weight, interval_of(drawn_weight, weight), n),
    }


def _absent(by_class: NDArray[np.int64]) -> str:
    if by_class.sum() == 0:
        return NO_PATIENT
    return " ".join(no_patient_of(name) for name, count in zip(CLASSES, by_class, strict=True) if count == 0)


def _diagonal(confusion: NDArray[Any]) -> NDArray[np.float64]:
    return np.diagonal(confusion, axis1=-2, axis2=-1).astype(np.float64)


def _ratio(over: NDArray[np.float64], under: NDArray[Any]) -> NDArray[np.float64]:
    below = under.astype(np.float64)
    return np.divide(over, below, out=np.zeros_like(over), where=below > 0)
