"""The trunk: FaceNet's InceptionResnetV1 up to `repeat_2`, 160 x 160 face -> 896 x 8 x 8 features.

Architecture and names are facenet-pytorch's (Szegedy et al. 2016, arXiv 1602.07261; Schroff et al. 2015, 1503.03832).
BatchNorm is folded into the convolutions, exactly: nothing in the trunk depends on the batch or on `train()`, and
Opacus accepts it. Frozen, it is computed once per face and cached, never sent, and costs no privacy.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from facenet_pytorch.models.inception_resnet_v1 import BasicConv2d, Block17, Block35, Mixed_6a
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn
from typing_extensions import override

from face2bone_model.contract.errors import WeightsError

FACE_SIZE = 160
FEATURE_SHAPE = (896, 8, 8)
_FACES_AT_ONCE = 32


class Trunk(nn.Module):
    """InceptionResnetV1 to `repeat_2` with BatchNorm folded; trainable (`trunk = "finetune"`).

    Shapes: standardised faces (B, 3, 160, 160) -> features (B, 896, 8, 8), non-negative.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = _layers()

    @override
    def forward(self, faces: Tensor) -> Tensor:
        features: Tensor = self.layers(faces)
        return features


class FrozenTrunk(Trunk):
    """A trunk that cannot be trained.

    Attributes:
        digest: SHA-256 over names and bytes of the weights, the same on every machine.
        pretrained: False where the weights are seeded random numbers.
    """

    def __init__(self, tensors: Mapping[str, NDArray[np.float32]], *, pretrained: bool) -> None:
        super().__init__()
        load_trunk_tensors(self, tensors)
        self.digest = trunk_digest(tensors)
        self.pretrained = pretrained
        self.requires_grad_(requires_grad=False)
        self.eval()

    @override
    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the model around it does."""
        return super().train(mode=False)

    @torch.no_grad()
    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Features (B, 896, 8, 8) of prepared faces (B, 160, 160, 3), RGB."""
        device = next(self.parameters()).device
        batches = [faces[start : start + _FACES_AT_ONCE] for start in range(0, len(faces), _FACES_AT_ONCE)]
        features = [
            self(standardise(torch.from_numpy(batch).to(device))).half().cpu().numpy() for batch in batches
        ]
        return np.concatenate(features) if features else np.empty((0, *FEATURE_SHAPE), np.float16)


def standardise(faces: Tensor) -> Tensor:
    """FaceNet's input scale: uint8 (B, 160, 160, 3) -> float32 (B, 3, 160, 160) = (x - 127.5) / 128."""
    return ((faces.float() - 127.5) / 128.0).permute(0, 3, 1, 2)


def load_trunk(weights: Path | None, seed: int = 0, *, device: str = "auto") -> FrozenTrunk:
    """The frozen trunk with weights stored by `models.weights`, or a seeded random one.

    Args:
        weights: a safetensors file of folded trunk tensors; None for random weights.
        seed: of the random weights.
        device: a torch device, or "auto" for the GPU when there is one.

    Raises:
        WeightsError: the file is missing, unreadable or has other tensors than the trunk.
    """
    tensors = random_trunk_tensors(seed) if weights is None else read_trunk_tensors(weights)
    trunk = FrozenTrunk(tensors, pretrained=weights is not None)
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return trunk.to(memory_format=torch.channels_last).to(chosen)


def read_trunk_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """The trunk tensors of a safetensors file.

    Raises:
        WeightsError: the file is missing or unreadable.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        mend = "Add it again with `f2b-client weights add`."
        raise WeightsError(f"The trunk weights {path} cannot be read ({error}).", mend) from error


def random_trunk_tensors(seed: int) -> dict[str, NDArray[np.float32]]:
    """He-normal weights and zero biases (He et al. 2015): activations keep their scale from layer to layer."""
    generator = np.random.default_rng(seed)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in _layers().state_dict().items()}
    return {name: _he_normal(shape, generator) for name, shape in sorted(shapes.items())}


def trunk_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, shapes and little-endian bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].shape}".encode())
        digest.update(np.ascontiguousarray(tensors[name], "<f4").tobytes())
    return digest.hexdigest()


def load_trunk_tensors(trunk: Trunk, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Put tensors into a trunk.

    Raises:
        WeightsError: names or shapes differ, or a value is not finite.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in trunk.layers.state_dict().items()}
    odd = [
        name
        for name in sorted(wanted.keys() | tensors.keys())
        if wanted.get(name) != _shape_of(tensors, name)
    ]
    odd += [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if odd:
        raise WeightsError(
            f"These are not weights of the trunk: {len(odd)} tensors differ, the first is '{odd[0]}'.",
            "Use an InceptionResnetV1 state dict added with `f2b-client weights add`.",
        )
    trunk.layers.load_state_dict({name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()})


def _shape_of(tensors: Mapping[str, NDArray[np.float32]], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None


def _he_normal(shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    scale = np.sqrt(2.0 / np.prod(shape[1:]))
    weights: NDArray[np.float32] = (generator.standard_normal(shape) * scale).astype(np.float32)
    return weights


def _layers() -> nn.Sequential:
    """The layers in facenet-pytorch's order and names, each BatchNorm replaced by the convolution's bias."""
    layers = nn.Sequential(
        OrderedDict(
            conv2d_1a=BasicConv2d(3, 32, kernel_size=3, stride=2),
            conv2d_2a=BasicConv2d(32, 32, kernel_size=3, stride=1),
            conv2d_2b=BasicConv2d(32, 64, kernel_size=3, stride=1, padding=1),
            maxpool_3a=nn.MaxPool2d(3, stride=2),
            conv2d_3b=BasicConv2d(64, 80, kernel_size=1, stride=1),
            conv2d_4a=BasicConv2d(80, 192, kernel_size=3, stride=1),
            conv2d_4b=BasicConv2d(192, 256, kernel_size=3, stride=2),
            repeat_1=nn.Sequential(*(Block35(scale=0.17) for _ in range(5))),
            mixed_6a=Mixed_6a(),
            repeat_2=nn.Sequential(*(Block17(scale=0.10) for _ in range(10))),
        )
    )
    for module in layers.modules():
        if isinstance(module, BasicConv2d):
            module.conv.bias = nn.Parameter(torch.zeros(module.conv.out_channels))
            setattr(module, "bn", nn.Identity())  # noqa: B010  # facenet-pytorch declares another type
    return layers
