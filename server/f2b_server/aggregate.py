"""Averaging of updates. Pure: no files, no network, no torch."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.update import Update


def federated_average(updates: Mapping[str, Update]) -> NDArray[np.float32]:
    """FedAvg (McMahan et al. 2017, arXiv 1602.05629): mean of the vectors weighted by training patients.

    Summed in float64 in alphabetical order of the sites, so that the order of arrival does not change a bit.

    Returns:
        Vector of shape (signature.size,), float32.
    """
    total = sum(update.num_patients for update in updates.values())
    if total == 0:
        raise ValueError("updates without patients cannot be averaged")
    mean = np.zeros(next(iter(updates.values())).vector.shape, np.float64)
    for site in sorted(updates):
        mean += updates[site].vector.astype(np.float64) * (updates[site].num_patients / total)
    return mean.astype(np.float32)


def pool(statistics: Mapping[str, SiteStatistics]) -> SiteStatistics:
    """Add up the sites' sums and counts, in alphabetical order of the sites."""
    first, *rest = (statistics[site] for site in sorted(statistics))
    for other in rest:
        first = first + other
    return first
