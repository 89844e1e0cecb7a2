"""Fold BatchNorm into the convolution before it, so that a frozen network keeps no running statistics.

In evaluation, BatchNorm computes g (z - m) / sqrt(v + eps) + b of the convolution's output z, which is a convolution
with weights scaled by s = g / sqrt(v + eps) and the bias b - m s. Exact up to the rounding of float32.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import WeightsError

BATCH_NORM_EPS = 1e-3
"""As in facenet-pytorch, from TensorFlow."""
_TRUNK_PARTS = ("conv2d_", "repeat_1.", "mixed_6a.", "repeat_2.")


def fold_batch_norm(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The trunk's tensors of an InceptionResnetV1 state dict, BatchNorm folded; a folded one passes through.

    Computed in float64 and rounded once, so that every machine gets the same bytes and hence the same digest.

    Raises:
        WeightsError: a BatchNorm lacks one of its tensors.
    """
    folded: dict[str, NDArray[np.float32]] = {}
    for name, tensor in state.items():
        if not name.startswith(_TRUNK_PARTS) or ".bn." in name:
            continue
        layer = name.removesuffix(".conv.weight")
        if layer != name and f"{layer}.conv.bias" not in state:
            weight, bias = _fold(state, layer)
            folded[name], folded[f"{layer}.conv.bias"] = weight, bias
        else:
            folded[name] = np.asarray(tensor, np.float32)
    return folded


def _fold(state: Mapping[str, NDArray[Any]], layer: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    try:
        gain, offset, mean, variance = (
            np.asarray(state[f"{layer}.bn.{part}"], np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
    except KeyError as error:
        raise WeightsError(
            f"The state dict has '{layer}.conv.weight' but not {error}.",
            "Give a complete InceptionResnetV1 state dict.",
        ) from error
    scale = gain / np.sqrt(variance + BATCH_NORM_EPS)
    weight = np.asarray(state[f"{layer}.conv.weight"], np.float64) * scale[:, None, None, None]
    return weight.astype(np.float32), (offset - mean * scale).astype(np.float32)
