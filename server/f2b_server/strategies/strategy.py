"""What a strategy is given and what it returns. Pure: no network, no torch, no clock."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.study import PrivacySettings

Vector = NDArray[np.float32]
"""All trainable tensors one after another, shape (signature.size,)."""
State = Mapping[str, Vector]
"""What a strategy remembers between rounds, by name; empty before the first round."""


@dataclass(frozen=True, kw_only=True)
class SiteUpdate:
    """One site's update of one round, as a strategy sees it."""

    site: str
    vector: Vector
    """Usually memory-mapped: it is read in blocks, never copied whole."""
    num_patients: int
    loss_variance: float
    """Variance of one validation patient's loss, of the model received (`weights.loss_variance_of`); NaN where
    withheld."""
    noise_multiplier: float = 0.0
    """Of differentially private training; 0 without. SCAFFOLD counts a private site's steps differently."""
    noise_deviation: float = 0.0
    """Standard deviation of that training's noise in each trained coordinate (`noise_deviation`)."""


def noise_deviation(privacy: PrivacySettings, noise_multiplier: float) -> float:
    """Standard deviation of the noise that a round of private training adds to each coordinate it trains.

    Each of the round's steps adds Gaussian noise of `noise_multiplier * max_grad_norm` to the sum of the gradients,
    which is divided by the expected batch and taken at the learning rate (Abadi et al. 2016).
    """
    one = privacy.learning_rate * noise_multiplier * privacy.max_grad_norm / privacy.expected_batch_size
    return one * math.sqrt(privacy.steps_per_round)


@dataclass(frozen=True, kw_only=True)
class Step:
    """The next global model, and what led to it."""

    vector: Vector
    state: State
    """To be checkpointed with the model. May be memory-mapped scratch files: write it, then drop the step."""
    left_out: Mapping[str, str]
    """Sites whose update did not count, each with a sentence why."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Sites whose update counted in another way than the study says, each with a sentence how."""


class Strategy(Protocol):
    """From the updates of a round to the next global model."""

    def correction(self, site: str, state: State) -> Vector | None:
        """What the request to train carries for this site; None for all strategies but SCAFFOLD."""
        ...

    def step(self, updates: Sequence[SiteUpdate], received: Vector, state: State) -> Step:
        """The next global model.

        Args:
            updates: of the round; sums are taken in alphabetical order of the sites, whatever the order here.
            received: the model every site started from.
            state: of the step before; empty in the first round.
        """
        ...
