"""Trimmed mean: in each coordinate the largest and the smallest values do not count (Yin et al. 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from f2b_server.strategies.blocks import Block, blocks_of, on_all_cores
from f2b_server.strategies.screened import screened
from f2b_server.strategies.strategy import SiteUpdate, State, Step, Vector
from f2b_server.strategies.survey import Part
from face2bone_model.contract.study import StrategySettings
from face2bone_model.contract.update import ModelSignature

_COORDINATES = 1 << 13
"""At a time: fewer than elsewhere, since the values of all sites are held at once."""
_FEWEST_TO_TRIM = 3


@dataclass(frozen=True, kw_only=True)
class TrimmedMean:
    """Coordinate-wise trimmed mean (arXiv 1803.01498, definition 2). All sites count alike."""

    settings: StrategySettings
    signature: ModelSignature

    def correction(self, site: str, state: State) -> None:
        """Nothing."""

    def step(self, updates: Sequence[SiteUpdate], received: Vector, state: State) -> Step:
        """Per coordinate the mean of what is left after `cut_at_each_end` values are cut off at each end."""
        found = screened(updates, received, self.signature, self.settings)
        vector = np.array(received)
        for part in found.parts:
            self._trim(part, vector)
        return Step(vector=vector, state={}, left_out=found.left_out, notes=found.notes)

    def _trim(self, part: Part, vector: Vector) -> None:
        cut = cut_at_each_end(self.settings.trim, len(part.trainers))
        exchanges = sorting_network(len(part.trainers)) if cut else ()

        def trim(block: slice) -> None:
            rows = np.stack([update.vector[block] for update in part.trainers])
            _sort(rows, exchanges)
            vector[block] = _mean(rows[cut : len(rows) - cut])

        on_all_cores(trim, blocks_of(part.spans, _COORDINATES))


def cut_at_each_end(trim: float, sites: int) -> int:
    """⌊trim · sites⌋, but at least one of three or more sites: who trims means to be safe from one."""
    if trim <= 0 or sites < _FEWEST_TO_TRIM:
        return 0
    return min(max(1, int(trim * sites)), (sites - 1) // 2)


def sorting_network(rows: int) -> tuple[tuple[int, int], ...]:
    """Batcher's odd-even merge sort: pairs of rows to be put in order, one after the other (Knuth 5.2.2 M).

    Comparing whole rows is five times as fast as sorting each column by itself.
    """
    found: list[tuple[int, int]] = []
    top = 1 << max(0, (rows - 1).bit_length() - 1)
    p = top
    while p:
        q, r, d = top, 0, p
        while True:
            found += [(i, i + d) for i in range(rows - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return tuple(found)


def _sort(rows: NDArray[np.float32], exchanges: Sequence[tuple[int, int]]) -> None:
    """Sort every column of (sites, coordinates) in place."""
    smaller = np.empty_like(rows[0])
    for low, high in exchanges:
        np.minimum(rows[low], rows[high], out=smaller)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low] = smaller


def _mean(rows: NDArray[np.float32]) -> Block:
    """Mean over rows, added up one after the other, so that the number of columns changes no bit."""
    total: Block = rows[0].astype(np.float64)
    for row in rows[1:]:
        total += row
    return total / len(rows)
