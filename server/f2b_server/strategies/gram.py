"""Inner products of the sites' steps: from them follow all distances between updates and their mixtures.

So Krum and the geometric median read the vectors twice, once for these products and once for the result, however many
iterations they take in between.
"""

import numpy as np
from numpy.typing import NDArray

from f2b_server.strategies.blocks import as_block, blocks_of, on_all_cores
from f2b_server.strategies.strategy import Vector
from f2b_server.strategies.survey import Part

_COORDINATES, _REGION = 1 << 13, 1 << 18
"""At a time, and added up before regions are; both are fixed, since they decide the order of the sum."""


def gram_matrix(part: Part, received: Vector) -> NDArray[np.float64]:
    """Inner products of the trainers' steps from the model received, over the tensors of a part.

    Returns:
        Shape (trainers, trainers), symmetric.
    """
    total = np.zeros((len(part.trainers), len(part.trainers)))
    regions = blocks_of(part.spans, _REGION)
    for products in on_all_cores(lambda region: _gram_of(part, received, region), regions):
        total += products
    return total


def _gram_of(part: Part, received: Vector, region: slice) -> NDArray[np.float64]:
    total = np.zeros((len(part.trainers), len(part.trainers)))
    for block in blocks_of((region,), _COORDINATES):
        start = as_block(received, block)
        steps = np.empty((len(total), len(start)))
        for row, update in zip(steps, part.trainers, strict=True):
            np.subtract(update.vector[block], start, out=row)
        total += steps @ steps.T
    return total


def squared_distances(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """‖a - b‖² of every two steps, shape (trainers, trainers)."""
    lengths = np.diag(gram)
    return np.maximum(lengths[:, None] + lengths[None, :] - 2 * gram, 0.0)


def distances_to_mixture(gram: NDArray[np.float64], mixture: NDArray[np.float64]) -> NDArray[np.float64]:
    """‖a_i - Σ_j b_j a_j‖ for weights b that sum to 1, shape (trainers,)."""
    products = gram @ mixture
    return np.sqrt(np.maximum(np.diag(gram) - 2 * products + mixture @ products, 0.0))
