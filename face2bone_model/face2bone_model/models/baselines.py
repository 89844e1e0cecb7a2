"""Baselines through the same door as Face2Bone: whole timm networks on the prepared face.

The paper compares with VGG, ViT and ResNet; `vgg16_bn`, `resnet50` and `vit_small_patch16_224` stand for them, the
small ones suit a CPU. They read faces, not trunk features, and are trained from end to end. Nothing is downloaded:
pretrained weights come from a local safetensors file of timm's state dict.
"""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from face2bone_model.contract.errors import SettingsError, WeightsError
from face2bone_model.contract.keys import CLASSES
from face2bone_model.contract.study import ModelSettings

BASELINES = ("vgg16_bn", "resnet50", "vit_small_patch16_224", "resnet18", "vit_tiny_patch16_224")


class Baseline(nn.Module):
    """A timm network on prepared faces.

    Attributes:
        input_kind: "faces", (B, 160, 160, 3) uint8.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, dropout: float) -> None:
        super().__init__()
        self.input_kind = "faces"
        self.network = timm.create_model(name, pretrained=False, num_classes=len(CLASSES), drop_rate=dropout)
        expected = _configuration(self.network)
        self.size = expected["input_size"][-1]
        self.register_buffer("mean", _per_channel(expected["mean"]), persistent=False)
        self.register_buffer("deviation", _per_channel(expected["std"]), persistent=False)

    @override
    def forward(self, inputs: Tensor, clinical: Tensor) -> Tensor:
        """Logits (B, 3) of faces (B, 160, 160, 3) uint8; `clinical` is not read."""
        image = inputs.permute(0, 3, 1, 2).float() / 255.0
        image = functional.interpolate(image, size=(self.size, self.size), mode="bilinear", antialias=True)
        logits: Tensor = self.network((image - self.mean) / self.deviation)
        return logits


def build_baseline(settings: ModelSettings, weights: Path | None) -> Baseline:
    """The baseline named by `settings.backbone`.

    Raises:
        SettingsError: no such baseline, or settings only Face2Bone has.
        WeightsError: `weights` cannot be read or belongs to another network.
    """
    if settings.backbone not in BASELINES:
        known = ", ".join(("facenet", *BASELINES))
        raise SettingsError(f"[model] backbone is '{settings.backbone}'.", f"Use one of {known}.")
    if settings.inputs != "face":
        raise SettingsError(
            f"[model] inputs is '{settings.inputs}', but a baseline sees the face only.", 'Use "face".'
        )
    model = Baseline(settings.backbone, settings.dropout)
    if weights is not None:
        _load_pretrained(model, weights)
    return model


def _load_pretrained(model: Baseline, weights: Path) -> None:
    """Take every tensor but the classifier's, whose classes are others."""
    own: dict[str, Tensor] = model.network.state_dict()
    classifier = tuple(f"{name}." for name in _classifier_names(model.network))
    try:
        given = {
            name: tensor for name, tensor in load_file(weights).items() if not name.startswith(classifier)
        }
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{weights} cannot be read ({error}).", "Give a safetensors file.") from error
    wanted = {name: tensor.shape for name, tensor in own.items() if not name.startswith(classifier)}
    if {name: tensor.shape for name, tensor in given.items()} != wanted:
        raise WeightsError(
            f"{weights.name} belongs to another network.", "Give timm's state dict of the backbone named."
        )
    model.network.load_state_dict({**own, **given})


def _classifier_names(network: nn.Module) -> tuple[str, ...]:
    names = _configuration(network)["classifier"]
    return (names,) if isinstance(names, str) else tuple(names)


def _configuration(network: nn.Module) -> dict[str, Any]:
    """Timm's record of the input a network expects and of its classifier's name."""
    configuration: dict[str, Any] = network.default_cfg  # type: ignore[assignment]  # timm sets it beside the modules
    return configuration


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None]
