"""What of a model travels: its trainable tensors, by name, as float32 arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from face2bone_model.contract.errors import SettingsError, SignatureError


def trainable_tensors(model: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Copies of every tensor training changes, by name.

    These are the trainable parameters and, in baselines that have it, BatchNorm's running mean and variance: a network
    averaged over sites would otherwise be evaluated with the statistics it started from.
    """
    return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in _travelling(model).items()}


def load_trainable(model: nn.Module, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Put tensors into a model, in place.

    Raises:
        SignatureError: names or shapes are not those of `trainable_tensors(model)`.
    """
    own = _travelling(model)
    if {name: tuple(tensor.shape) for name, tensor in own.items()} != {
        n: tuple(t.shape) for n, t in tensors.items()
    }:
        raise SignatureError(
            "The tensors are not those of this model.", "Check that both sides run the same study."
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.array(tensors[name], np.float32)))


def parameter_count(model: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def check_private(model: nn.Module) -> None:
    """Refuse a model whose training cannot be made differentially private.

    Raises:
        SettingsError: it has BatchNorm, which mixes the patients of a batch, or trains the trunk.
    """
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise SettingsError(
            "[model] This backbone has BatchNorm, which mixes the patients of a batch, so no patient can be protected.",
            "Use facenet or a vit backbone, or turn privacy off in the study.",
        )
    if hasattr(model, "trunk"):
        raise SettingsError(
            '[model] trunk = "finetune" trains 9.6 million parameters; the noise privacy needs would drown them.',
            'Use trunk = "frozen", or turn privacy off in the study.',
        )


def _travelling(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {
        name: value for name, value in model.named_parameters() if value.requires_grad
    }
    for name, module in model.named_modules():
        if (
            isinstance(module, _BatchNorm)
            and module.running_mean is not None
            and module.running_var is not None
        ):
            tensors[f"{name}.running_mean"] = module.running_mean
            tensors[f"{name}.running_var"] = module.running_var
    return tensors
