"""Strategies that follow the weighted mean of the updates: FedAvg, FedProx, FedAvgM, FedAdam, FedYogi."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from f2b_server.strategies.blocks import Block, as_block, blocks_of, on_all_cores
from f2b_server.strategies.scratch import Scratch
from f2b_server.strategies.screened import screened
from f2b_server.strategies.strategy import SiteUpdate, State, Step, Vector
from f2b_server.strategies.survey import Part
from f2b_server.strategies.weights import shares, weighted_sum
from face2bone_model.contract.study import StrategySettings
from face2bone_model.contract.update import ModelSignature

MOMENTUM, VARIANCE = "momentum", "variance"


class ServerOptimizer(Protocol):
    """How the server moves, given where the mean of the updates lies. Coordinate by coordinate."""

    @property
    def slots(self) -> Mapping[str, float]:
        """Arrays it remembers between rounds, with the value each has before the first."""
        ...

    def advance(self, received: Block, mean: Block, slots: Mapping[str, Block]) -> Block:
        """The next global model; changes the slots in place."""
        ...


@dataclass(frozen=True)
class Mean:
    """FedAvg: the mean itself (McMahan et al. 2017, arXiv 1602.05629). FedProx differs at the sites only."""

    @property
    def slots(self) -> Mapping[str, float]:
        """Nothing."""
        return {}

    def advance(self, received: Block, mean: Block, slots: Mapping[str, Block]) -> Block:
        """Returns x' = mean."""
        return mean


@dataclass(frozen=True, kw_only=True)
class Momentum:
    """FedAvgM (Hsu et al. 2019, arXiv 1909.06335)."""

    learning_rate: float
    beta: float

    @property
    def slots(self) -> Mapping[str, float]:
        """The decayed sum of the mean steps."""
        return {MOMENTUM: 0.0}

    def advance(self, received: Block, mean: Block, slots: Mapping[str, Block]) -> Block:
        """With v' = β v + (mean - x): x' = x + η v'."""
        momentum = slots[MOMENTUM]
        momentum *= self.beta
        momentum += mean - received
        return received + self.learning_rate * momentum


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """FedAdam and FedYogi (Reddi et al. 2021, arXiv 2003.00295, algorithm 2)."""

    learning_rate: float
    beta_1: float
    beta_2: float
    tau: float
    yogi: bool

    @property
    def slots(self) -> Mapping[str, float]:
        """The decayed mean of the steps and of their squares; the latter begins at τ², as in the paper."""
        return {MOMENTUM: 0.0, VARIANCE: self.tau**2}

    def advance(self, received: Block, mean: Block, slots: Mapping[str, Block]) -> Block:
        """With Δ = mean - x: m' = β₁ m + (1 - β₁) Δ, x' = x + η m' / (√v' + τ).

        Adam: v' = β₂ v + (1 - β₂) Δ². Yogi: v' = v - (1 - β₂) Δ² sign(v - Δ²). No bias correction, as in the paper.
        """
        momentum, variance = slots[MOMENTUM], slots[VARIANCE]
        step = mean - received
        momentum *= self.beta_1
        momentum += (1 - self.beta_1) * step
        square = step**2
        if self.yogi:
            variance -= (1 - self.beta_2) * square * np.sign(variance - square)
        else:
            variance *= self.beta_2
            variance += (1 - self.beta_2) * square
        return received + self.learning_rate * momentum / (np.sqrt(variance) + self.tau)


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """The weighted mean of the updates, and a server that moves along it."""

    settings: StrategySettings
    signature: ModelSignature
    optimizer: ServerOptimizer
    scratch: Scratch

    def correction(self, site: str, state: State) -> None:
        """Nothing."""

    def step(self, updates: Sequence[SiteUpdate], received: Vector, state: State) -> Step:
        """See `Strategy.step`."""
        found = screened(updates, received, self.signature, self.settings)
        vector = np.array(received)
        slots = {
            name: self.scratch.copy_of(state, name, before) for name, before in self.optimizer.slots.items()
        }
        for part in found.parts:
            self._advance(part, found.weights, vector, slots)
        return Step(vector=vector, state=slots, left_out=found.left_out, notes=found.notes)

    def _advance(
        self, part: Part, weights: dict[str, float], vector: Vector, slots: Mapping[str, Vector]
    ) -> None:
        """Move a part of the vector, and of the slots, in place."""
        factors = shares(part, weights)

        def advance(block: slice) -> None:
            known = {name: as_block(slot, block) for name, slot in slots.items()}
            mean = weighted_sum(part, factors, block)
            vector[block] = self.optimizer.advance(as_block(vector, block), mean, known)
            for name, slot in slots.items():
                slot[block] = known[name]

        on_all_cores(advance, blocks_of(part.spans))
