"""Averaging of updates. Pure: no files, no network, no torch."""

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.update import ModelSignature, Update

Vector = NDArray[np.float32]


def federated_average(updates: Mapping[str, Update], received: Vector, signature: ModelSignature) -> Vector:
    """FedAvg (McMahan et al. 2017, arXiv 1602.05629): mean of each tensor weighted by training patients.

    A site that returns a tensor bit for bit as it received it did not train it (differentially private training
    may be limited to the head) and has no say in its mean; a tensor nobody trained stays as it was.
    Summed in float64 in alphabetical order of the sites, so that the order of arrival does not change a bit.

    Args:
        updates: by site.
        received: the vector every site started from, shape (signature.size,).
        signature: where each tensor lies in the vectors.

    Returns:
        Vector of shape (signature.size,), float32.
    """
    mean = received.copy()
    start = 0
    for _, shape in signature.tensors:
        part = slice(start, start + prod(shape))
        trained = [
            update for _, update in sorted(updates.items()) if not _same(update.vector[part], received[part])
        ]
        if total := sum(update.num_patients for update in trained):
            shares = [
                update.vector[part].astype(np.float64) * (update.num_patients / total) for update in trained
            ]
            mean[part] = np.sum(shares, axis=0)
        start = part.stop
    return mean


def _same(one: Vector, other: Vector) -> bool:
    return one.tobytes() == other.tobytes()


def pool(statistics: Mapping[str, SiteStatistics]) -> SiteStatistics:
    """Add up the sites' sums and counts, in alphabetical order of the sites."""
    first, *rest = (statistics[site] for site in sorted(statistics))
    for other in rest:
        first = first + other
    return first
