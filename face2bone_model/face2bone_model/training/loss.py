"""The two training losses, both on three logits whose softmax is the predicted distribution."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from face2bone_model.contract.keys import CLASSES

WEIGHT_BOUNDS = (1 / 3, 3.0)
"""A class is never weighted more than nine times another, however rare it is at a site."""


def class_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights inversely proportional to the class counts, bounded, with mean 1 over the given patients.

    Args:
        labels: class of each training patient, shape (P,), 0 to 2.

    Returns:
        One weight a class, shape (3,). An absent class weighs what a class with one patient would.
    """
    counts = np.bincount(labels, minlength=len(CLASSES))
    balanced = len(labels) / (len(CLASSES) * np.maximum(counts, 1))
    bounded: NDArray[np.float64] = np.clip(balanced, *WEIGHT_BOUNDS)
    return bounded * len(labels) / float(counts @ bounded)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-probability of the true class: logits (B, 3), labels (B,) to losses (B,)."""
    return functional.cross_entropy(logits, labels, reduction="none")


def ordinal(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the binary log scores of "class k or worse", k = 1, 2: a miss by two classes costs twice.

    With p = softmax(logits) and P_k = p_k + ... + p_2,

        loss = - sum over k of [y >= k] log P_k + [y < k] log(1 - P_k).

    The two binary tasks are Frank and Hall's (2001, "A simple approach to ordinal classification"); the score is the
    ranked ignorance of Tödter and Ahrens (2012, Monthly Weather Review 140:2005), strictly proper. P_1 >= P_2 holds
    by construction, which CORAL (Cao et al. 2020, arXiv 1901.07884) obtains by sharing weights. Because the class
    probabilities stay the softmax of the logits, prediction and explanation need not know which loss was used.

    Args:
        logits: shape (B, 3).
        labels: shape (B,), 0 to 2.

    Returns:
        One loss a patient, shape (B,).
    """
    log_p = functional.log_softmax(logits, dim=1)
    losses = torch.zeros_like(log_p[:, 0])
    for k in range(1, len(CLASSES)):
        reached = torch.logsumexp(log_p[:, k:], dim=1)
        short = torch.logsumexp(log_p[:, :k], dim=1)
        losses = losses - torch.where(labels >= k, reached, short)
    return losses


class PatientLoss(nn.Module):
    """Loss of each patient, (B, 3) and (B,) to (B,), times the weight of the patient's class."""

    weights: Tensor

    def __init__(
        self, kind: Literal["cross_entropy", "ordinal"], weights: NDArray[np.float64] | None = None
    ) -> None:
        super().__init__()
        self.loss = {"cross_entropy": cross_entropy, "ordinal": ordinal}[kind]
        values = np.ones(len(CLASSES)) if weights is None else weights
        self.register_buffer("weights", torch.as_tensor(values, dtype=torch.float32))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted loss of each patient, in float32 whatever the precision of the logits."""
        return self.weights[labels] * self.loss(logits.float(), labels)
