"""How much each site counts in a mean."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from f2b_server.strategies.blocks import Block
from f2b_server.strategies.strategy import SiteUpdate
from f2b_server.strategies.survey import Part
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.metrics.family import read_family
from face2bone_model.metrics.losses import LOSSES
from face2bone_model.metrics.subgroup import ALL

Weighting = Literal["patients", "equal", "inverse_variance"]

LEAST_VARIANCE = 0.25
"""No variance counts as less than this share of the round's median: a few sure predictions must not take over."""
_FEWEST_FOR_VARIANCE = 2


def loss_variance_of(validation: SiteStatistics) -> float:
    """Variance between validation patients of the log loss of the model as received.

    s² = (Σ l² - n l̄²) / (n - 1), from the sum and the sum of squares that leave with every update.

    Returns:
        NaN where the site withheld the losses because of small cells, or has fewer than two patients.
    """
    released = read_family(validation, ALL, 0, LOSSES.name)
    n = int(released["n"])
    if not released.sites or n < _FEWEST_FOR_VARIANCE:
        return math.nan
    total, squares = (float(value) for value in released["log_loss"])
    return max(0.0, squares - total**2 / n) / (n - 1)


def weights_of(
    weighting: Weighting, updates: Sequence[SiteUpdate]
) -> tuple[dict[str, float], dict[str, str]]:
    """Each site's weight, not yet normalised, and a sentence for each that is not weighted as the study says.

    `patients`: training patients n (McMahan et al. 2017). `equal`: 1. `inverse_variance`: n / s², the inverse of the
    variance of a mean over n patients (Cochran 1954), with s² the variance of the validation loss.
    """
    match weighting:
        case "equal":
            return {update.site: 1.0 for update in updates}, {}
        case "patients":
            return {update.site: float(update.num_patients) for update in updates}, {}
        case "inverse_variance":
            return _inverse_variance(updates)


def _inverse_variance(updates: Sequence[SiteUpdate]) -> tuple[dict[str, float], dict[str, str]]:
    known = {
        update.site: update.loss_variance
        for update in updates
        if math.isfinite(update.loss_variance) and update.loss_variance >= 0
    }
    median = statistics.median(known.values()) if known else 0.0
    if median == 0:
        median, known = 1.0, {}
    notes = {
        update.site: "Weighted by patients and the median variance: its own loss variance is not known."
        for update in updates
        if update.site not in known
    }
    least = LEAST_VARIANCE * median
    weights = {
        update.site: update.num_patients / max(known.get(update.site, median), least) for update in updates
    }
    return weights, notes


def shares(part: Part, weights: dict[str, float]) -> NDArray[np.float64]:
    """The weights of a part's trainers, made to sum to 1, shape (trainers,)."""
    own = np.array([weights[update.site] for update in part.trainers])
    found: NDArray[np.float64] = own / own.sum()
    return found


def weighted_sum(part: Part, factors: NDArray[np.float64], block: slice) -> Block:
    """Σ factor times update over a part's trainers, in roster order, for the coordinates of one block."""
    total: Block = np.zeros(block.stop - block.start)
    term = np.empty_like(total)
    for update, factor in zip(part.trainers, factors, strict=True):
        np.multiply(update.vector[block], factor, out=term, dtype=np.float64)
        total += term
    return total
