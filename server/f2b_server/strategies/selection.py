"""Robust strategies that decide from the distances between updates: Krum and the geometric median."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from f2b_server.strategies.blocks import blocks_of, on_all_cores
from f2b_server.strategies.gram import distances_to_mixture, gram_matrix, squared_distances
from f2b_server.strategies.screened import screened
from f2b_server.strategies.strategy import SiteUpdate, State, Step, Vector
from f2b_server.strategies.survey import Part
from f2b_server.strategies.weights import shares, weighted_sum
from face2bone_model.contract.study import StrategySettings
from face2bone_model.contract.update import ModelSignature

_FEWEST_TO_CHOOSE = 3
_SMOOTHING = 1e-6
_ITERATIONS = 1000
_CONVERGED = 1e-12

Shares = NDArray[np.float64]
"""Each trainer's share in the mixture, shape (trainers,), sum 1."""


class Mixer(Protocol):
    """How much of each update goes into the next model, from the distances between them."""

    def shares(self, gram: NDArray[np.float64], weights: Shares) -> Shares:
        """The mixture, given the inner products of the steps and the weights the study asks for."""
        ...


@dataclass(frozen=True, kw_only=True)
class Krum:
    """The one update closest to its nearest neighbours (Blanchard et al. 2017, arXiv 1703.02757)."""

    byzantine_sites: int

    def shares(self, gram: NDArray[np.float64], weights: Shares) -> Shares:
        """1 for the update with the smallest sum of squared distances to its m - f - 2 nearest, 0 for the others.

        The first in the roster of equals. At least one neighbour is looked at, though the paper's guarantee begins at
        m = 2 f + 3.
        """
        distances = squared_distances(gram)
        np.fill_diagonal(distances, np.inf)
        neighbours = max(1, len(gram) - self.byzantine_sites - 2)
        scores = np.sort(distances, axis=1)[:, :neighbours].sum(axis=1)
        chosen = np.zeros(len(gram))
        chosen[int(scores.argmin())] = 1.0
        return chosen


@dataclass(frozen=True)
class GeometricMedian:
    """The point with the smallest weighted sum of distances to all updates (RFA, Pillutla et al. 2022)."""

    def shares(self, gram: NDArray[np.float64], weights: Shares) -> Shares:
        """Smoothed Weiszfeld (arXiv 1912.13445, algorithm 2): b_i ∝ w_i / max(ν, ‖a_i - z‖), z = Σ b_i a_i, to the end.

        ν is a millionth of the root mean square length of the steps.
        """
        length = float(np.sqrt(np.trace(gram) / len(gram)))
        smallest = max(_SMOOTHING * length, float(np.finfo(np.float64).tiny))
        mixture = weights
        for _ in range(_ITERATIONS):
            pulls = weights / np.maximum(distances_to_mixture(gram, mixture), smallest)
            renewed = pulls / pulls.sum()
            moved = float(np.abs(renewed - mixture).max())
            mixture = renewed
            if moved < _CONVERGED:
                break
        return mixture


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A mixture of the updates whose shares follow from the distances between them."""

    settings: StrategySettings
    signature: ModelSignature
    mixer: Mixer

    def correction(self, site: str, state: State) -> None:
        """Nothing."""

    def step(self, updates: Sequence[SiteUpdate], received: Vector, state: State) -> Step:
        """See `Strategy.step`. Tensors that different sites trained are decided on separately."""
        found = screened(updates, received, self.signature, self.settings)
        vector = np.array(received)
        heard: set[str] = set()
        for part in found.parts:
            mixture = self._mixture(part, received, shares(part, found.weights))
            heard |= {u.site for u, share in zip(part.trainers, mixture, strict=True) if share > 0}
            _mix(part, mixture, vector)
        idle = {update.site for part in found.parts for update in part.trainers} - heard
        left_out = dict(found.left_out) | dict.fromkeys(
            sorted(idle), "The update of another site lies closer to the others and was taken."
        )
        return Step(vector=vector, state={}, left_out=left_out, notes=found.notes)

    def _mixture(self, part: Part, received: Vector, weights: Shares) -> Shares:
        """Of fewer than three updates nobody can say which is wrong: then the weighted mean."""
        if len(part.trainers) < _FEWEST_TO_CHOOSE:
            return weights
        return self.mixer.shares(gram_matrix(part, received), weights)


def _mix(part: Part, mixture: Shares, vector: Vector) -> None:
    """Put the mixture into its place in the vector. A share of 0 is no share, so that it costs no reading."""
    heard = np.flatnonzero(mixture)
    chosen = Part(trainers=tuple(part.trainers[index] for index in heard), spans=part.spans)

    def mix(block: slice) -> None:
        vector[block] = weighted_sum(chosen, mixture[heard], block)

    on_all_cores(mix, blocks_of(part.spans))
