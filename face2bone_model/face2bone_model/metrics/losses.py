"""Proper scores: Brier and log loss, from a sum and a sum of squares."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.keys import OSTEOPOROSIS
from face2bone_model.contract.statistics import TableSpec
from face2bone_model.metrics.classification import NO_PATIENT, K
from face2bone_model.metrics.estimate import Estimate, normal_interval
from face2bone_model.metrics.family import Family, Figure, Predictions, Released

SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are raised to this before the logarithm, as in scikit-learn's `log_loss`."""
BRIER_SOURCE = "Brier GW, Mon Weather Rev 1950;78:1-3"
LOG_LOSS_SOURCE = "Good IJ, J R Stat Soc B 1952;14:107-114"


def _measure(predictions: Predictions) -> Mapping[str, NDArray[Any]]:
    """Terms per patient, summed: each table is [sum, sum of squares]."""
    truth = np.eye(K)[predictions.labels]
    squares = (predictions.probabilities - truth) ** 2
    own = predictions.probabilities[np.arange(len(truth)), predictions.labels]
    return {
        "n": np.array(len(truth)),
        "brier": _sums(squares.sum(axis=1)),
        "brier_osteoporosis": _sums(squares[:, OSTEOPOROSIS]),
        "log_loss": _sums(-np.log(np.maximum(own, SMALLEST))),
    }


def _sums(terms: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([terms.sum(), (terms**2).sum()])


LOSSES = Family(
    name="losses",
    tables=(
        TableSpec(name="n", shape=()),
        TableSpec(name="brier", shape=(2,), dtype="float64"),
        TableSpec(name="brier_osteoporosis", shape=(2,), dtype="float64"),
        TableSpec(name="log_loss", shape=(2,), dtype="float64"),
    ),
    measure=_measure,
)
"""Patients, and of each loss its sum and sum of squares."""


def brier(released: Released) -> Estimate:
    """Multiclass Brier score, (1/n) Σ_i Σ_k (p_ik - y_ik)², between 0 and 2. Normal interval of a mean."""
    return _mean(released, "brier", "mean over patients of Σ_k (p_k - y_k)², 0 to 2", BRIER_SOURCE)


def brier_osteoporosis(released: Released) -> Estimate:
    """Binary Brier score of osteoporosis against the rest, (1/n) Σ_i (p_i - y_i)², between 0 and 1."""
    definition = "mean over patients of (p - y)² for osteoporosis against the rest, 0 to 1"
    return _mean(released, "brier_osteoporosis", definition, BRIER_SOURCE)


def log_loss(released: Released) -> Estimate:
    """Mean of -ln p of the true class, p at least 2⁻⁵². Normal interval of a mean."""
    return _mean(released, "log_loss", "mean over patients of -ln p(true class)", LOG_LOSS_SOURCE)


def _mean(released: Released, table: str, definition: str, source: str) -> Estimate:
    n = int(released["n"])
    figure = Figure(definition=definition, source=source)
    if n == 0:
        return figure.unknown(released, 0, NO_PATIENT)
    total, squares = (float(value) for value in released[table])
    return figure.of(released, total / n, normal_interval(total, squares, n), n)
