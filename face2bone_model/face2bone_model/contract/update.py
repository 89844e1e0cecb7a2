"""The trainable tensors as one vector, and what a site says about how it trained them.

One vector, because Flower's cost follows the number of arrays (one HTTP request each).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import SignatureError
from face2bone_model.contract.statistics import SiteStatistics


@dataclass(frozen=True)
class ModelSignature:
    """Names and shapes of the trainable tensors (float32) and the digest of the frozen trunk beneath them."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    trunk_digest: str

    @property
    def size(self) -> int:
        """Number of scalars in the vector."""
        return sum(prod(shape) for _, shape in self.tensors)

    def digest(self) -> str:
        """SHA-256 over names, shapes, dtype and trunk."""
        text = json.dumps([self.tensors, "float32", self.trunk_digest], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def signature_of(tensors: Mapping[str, NDArray[Any]], trunk_digest: str) -> ModelSignature:
    """The signature of named tensors, in the order of their names."""
    return ModelSignature(tuple((name, tuple(tensors[name].shape)) for name in sorted(tensors)), trunk_digest)


def pack(tensors: Mapping[str, NDArray[Any]], signature: ModelSignature) -> NDArray[np.float32]:
    """Concatenate tensors in the signature's order into a float32 vector of `signature.size`.

    Raises:
        SignatureError: a tensor is missing, extra, or of another shape.
    """
    if signature_of(tensors, signature.trunk_digest) != signature:
        raise SignatureError("The tensors are not those of the study's model.")
    return np.concatenate(
        [np.asarray(tensors[name], np.float32).reshape(-1) for name, _ in signature.tensors]
    )


def unpack(vector: NDArray[np.float32], signature: ModelSignature) -> dict[str, NDArray[np.float32]]:
    """Split a vector of `signature.size` scalars back into named tensors.

    Raises:
        SignatureError: the vector has another length.
    """
    if vector.shape != (signature.size,):
        raise SignatureError(f"The vector has {vector.size} scalars, the study's model {signature.size}.")
    out: dict[str, NDArray[np.float32]] = {}
    start = 0
    for name, shape in signature.tensors:
        out[name] = vector[start : start + prod(shape)].reshape(shape)
        start += prod(shape)
    return out


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one site's training of one round may release."""

    vector: NDArray[np.float32]
    """All trainable tensors after local training, shape (signature.size,)."""
    num_patients: int
    """Training patients: the weight of this update in the average."""
    train_loss: float
    """Mean loss of the last local epoch; 0 where DP forbids releasing it."""
    epsilon: float
    """Spent by this study at this site including this round; 0 without DP."""
    delta: float
    noise_multiplier: float
    validation: SiteStatistics
    """Sums over the validation patients for the global model as received, before local training."""
