"""Which photos show the same face, by the cached features of the frozen trunk."""

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.60
"""Distance of features, in units of the median distance from a photo to the nearest one of another patient: that scale
follows the site's light, skin tones and size. Three rendered sites, random trunk weights: copies of a photo (resized,
recompressed, cropped, turned by 4 degrees) lie at 0.2 to 0.8, nine in ten below 0.5 to 0.7; no two of 316 different
patients below 0.68. Copies of another brightness and other photos of the same person it may miss."""

_POOLED = 4
_AT_ONCE = 256
_FEWEST = 8
"""Photos, below which a median distance says little."""


def similar_pairs(
    features: NDArray[np.float16], rows: NDArray[np.int64], owners: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """Photos whose nearest photo of another patient is closer than two patients are.

    Args:
        features: (N, 896, 8, 8), all rows of the cache.
        rows: (M,) which of them to compare.
        owners: (M,) whose photo each is.

    Returns:
        Pairs of places in `rows`, the smaller first, sorted.
    """
    if len(rows) < _FEWEST or len(np.unique(owners)) < _FEWEST:
        return []
    starts = range(0, len(rows), _AT_ONCE)
    pooled = np.concatenate([_pool(features[rows[start : start + _AT_ONCE]]) for start in starts])
    pooled -= pooled.mean(axis=0)  # keeps the squares below small, and so exact
    nearest, distance = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    for start in starts:
        part = slice(start, start + _AT_ONCE)
        between = _distances(pooled[part], pooled)
        between[owners[part, None] == owners] = np.inf
        nearest[part], distance[part] = between.argmin(axis=1), between.min(axis=1)
    close = np.flatnonzero(distance <= ALIKE * np.median(distance))
    return sorted({(min(a, b), max(a, b)) for a, b in ((int(place), int(nearest[place])) for place in close)})


def _pool(features: NDArray[np.float16]) -> NDArray[np.float32]:
    """Features (B, 896, 8, 8) averaged over 2 x 2 places: (B, 14336)."""
    side = features.shape[2] // _POOLED
    shape = (len(features), features.shape[1], _POOLED, side, _POOLED, side)
    means: NDArray[np.float32] = features.astype(np.float32).reshape(shape).mean(axis=(3, 5))
    return means.reshape(len(features), -1)


def _distances(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Euclidean distances (B, M)."""
    squares = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1) - 2 * ours @ theirs.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)), dtype=np.float32)
