"""What a strategy adds to a site's own gradients: FedProx's pull and SCAFFOLD's correction.

FedProx (Li et al. 2020, arXiv 1812.06127): a site minimises its loss plus mu/2 |w - w_received|^2, by whatever solver,
so each gradient gains mu (w - w_received).

SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378, algorithm 1): each gradient gains c - c_i, which the centre works
out from earlier updates (option II) and sends along. Its arithmetic holds for a fixed number of plain gradient steps,
so every epoch runs and the last weights count (`contract.local_steps`).

Both act on the tensors that travel; those that stay at a site have nothing to be drawn towards. Neither looks at a
patient: the first follows from weights that carry all noise already, the second is the centre's. So a differentially
private step adds them after clipping and noise, and its cost is the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from face2bone_model.contract.study import Study


def _all_travel(_: str) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Steering:
    """How a strategy changes one round of local training."""

    proximal_mu: float = 0.0
    """FedProx's mu; 0: no pull."""
    correction: Mapping[str, NDArray[np.float32]] | None = None
    """SCAFFOLD's c - c_i of every tensor that travels."""
    every_step_counts: bool = False
    """All epochs run and the last weights are the result: no early stopping, no choice among epochs."""
    is_personal: Callable[[str], bool] = _all_travel
    """Whether the tensor of a name stays at the site."""


PLAIN = Steering()


def steering_of(study: Study, correction: Mapping[str, NDArray[np.float32]] | None = None) -> Steering:
    """What the study's strategy asks of its sites, with the correction of this request, if it has one."""
    strategy = study.strategy
    return Steering(
        proximal_mu=strategy.proximal_mu if strategy.name == "fedprox" else 0.0,
        correction=correction,
        every_step_counts=strategy.name == "scaffold",
        is_personal=study.is_personal,
    )


class Pull:
    """What is added to the gradients of one round, whatever the patients."""

    def __init__(self, steering: Steering, trained: Mapping[str, Tensor]) -> None:
        """Begin a round.

        Args:
            steering: of the study and the request.
            trained: what will move, by name, still as it was received.
        """
        shared = {name: tensor for name, tensor in trained.items() if not steering.is_personal(name)}
        self._mu = steering.proximal_mu
        self._received = {name: tensor.detach().clone() for name, tensor in shared.items() if self._mu}
        correction = steering.correction
        self._correction = {
            name: torch.tensor(correction[name]).to(tensor)
            for name, tensor in shared.items()
            if correction is not None
        }

    def of(self, name: str, value: Tensor) -> Tensor | None:
        """What the gradient of a tensor gains while its weights are `value`; None where nothing is added."""
        received, correction = self._received.get(name), self._correction.get(name)
        if received is None:
            return correction
        pull = (value.detach() - received) * self._mu
        return pull if correction is None else pull + correction

    def add_to(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Add it to the gradients of a backward pass; one that took no part in the pass counts as nought."""
        for name in self._received.keys() | self._correction.keys():
            parameter = parameters[name]
            extra = self.of(name, parameter)
            if extra is not None:
                parameter.grad = extra.clone() if parameter.grad is None else parameter.grad + extra
