"""Face2Bone, assembled: stem, frequency sparse attention, two branches, head (design section 4; a reconstruction).

    trunk features (B, 896, 8, 8)
      -> stem: 1 x 1 convolution to `stem_width` channels, each sample scaled, as 64 tokens
      -> FSA -> less the mean of each channel
      -> Transformer branch | CNN branch, each (B, branch_width)
      -> concatenate -> layer norm -> (+ age, sex, BMI) -> head -> logits (B, 3)

The mean of each channel goes because all faces share most of it: averaged over the map, it would drown what tells them
apart. Without the step, three hundred faces on a random trunk taught the model nothing in ten epochs.

Every part draws its starting values from its own name and the seed. So an ablation switch changes the part it names
and nothing else, and building a model leaves the global random state alone.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from face2bone_model.contract.errors import SettingsError
from face2bone_model.contract.study import ModelSettings
from face2bone_model.models.branches import CnnBranch, TransformerBranch
from face2bone_model.models.fsa import build_fsa
from face2bone_model.models.kan import build_head
from face2bone_model.models.parameters import load_trainable, parameter_count, trainable_tensors
from face2bone_model.models.trunk import (
    FEATURE_SHAPE,
    Trunk,
    load_trunk_tensors,
    random_trunk_tensors,
    read_trunk_tensors,
    standardise,
)

__all__ = [
    "Face2Bone",
    "Stem",
    "build_model",
    "load_trainable",
    "parameter_count",
    "seeded",
    "trainable_tensors",
]

CLINICAL_INPUTS = 3
_CHANNELS, *_SIZE = FEATURE_SHAPE
_SMALLEST_VARIANCE = 1e-12


class Stem(nn.Module):
    """Features (B, C, H, W) to tokens (B, H W, width): a 1 x 1 convolution, scaled to unit deviation.

    Trunks differ in scale; dividing each sample by its own deviation removes that. It is done after the convolution,
    where there is less to divide; the convolution has no bias, or that would not be the same.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, kernel_size=1, bias=False)

    @override
    def forward(self, features: Tensor) -> Tensor:
        contiguous = features.contiguous()  # Opacus reads the input's memory as if it were
        tokens: Tensor = self.convolution(contiguous).flatten(2).transpose(1, 2)
        variance = (
            centred(tokens).square().mean((1, 2), keepdim=True)
        )  # (B, 1, 1), over the map, all channels together
        return tokens / (variance + _SMALLEST_VARIANCE).sqrt()


def centred(tokens: Tensor) -> Tensor:
    """Tokens (B, N, C) less their mean over the map, channel by channel."""
    return tokens - tokens.mean(1, keepdim=True)


class Face2Bone(nn.Module):
    """Trunk features and clinical data to three logits.

    Attributes:
        input_kind: "features" (B, 896, 8, 8), or "faces" (B, 160, 160, 3) uint8 when the trunk is trained too.
    """

    def __init__(self, settings: ModelSettings, *, seed: int) -> None:
        super().__init__()
        _check(settings)
        self.settings = settings
        self.input_kind = "faces" if settings.trunk == "finetune" else "features"
        self.branches = nn.ModuleDict()
        if settings.inputs != "clinical":
            self._build_face_part(settings, seed)
        width = settings.branch_width * len(self.branches)
        self.norm: nn.Module = nn.LayerNorm(width) if width else nn.Identity()
        self.drop = nn.Dropout(settings.dropout)
        clinical = 0 if settings.inputs == "face" else CLINICAL_INPUTS
        with seeded(seed, "head"):
            self.head = build_head(settings.head, width + clinical, settings.head_hidden)

    def _build_face_part(self, settings: ModelSettings, seed: int) -> None:
        size = (_SIZE[0], _SIZE[1])
        if settings.trunk == "finetune":
            self.trunk = Trunk()
        with seeded(seed, "stem"):
            self.stem = Stem(_CHANNELS, settings.stem_width)
        with seeded(seed, "fsa"):
            self.fsa = build_fsa(
                settings.fsa,
                settings.stem_width,
                heads=settings.fsa_heads,
                keep_frequencies=settings.keep_frequencies,
                keep_attention=settings.keep_attention,
            )
        if settings.branches != "cnn":
            with seeded(seed, "transformer"):
                self.branches["transformer"] = TransformerBranch(
                    settings.stem_width,
                    tokens=size[0] * size[1],
                    width=settings.branch_width,
                    layers=settings.transformer_layers,
                    heads=settings.transformer_heads,
                )
        if settings.branches != "transformer":
            with seeded(seed, "cnn"):
                self.branches["cnn"] = CnnBranch(settings.stem_width, size=size, width=settings.branch_width)

    @override
    def forward(self, inputs: Tensor, clinical: Tensor) -> Tensor:
        """Logits (B, 3) of features or faces and standardised clinical data (B, 3); `inputs` says which are read."""
        parts = [] if self.settings.inputs == "clinical" else [self.describe(inputs)]
        if self.settings.inputs != "face":
            parts.append(clinical)
        logits: Tensor = self.head(torch.cat(parts, dim=1))
        return logits

    def describe(self, inputs: Tensor) -> Tensor:
        """What the head sees of a face: (B, branch_width x branches), layer-normed."""
        features = self.trunk(standardise(inputs)) if self.input_kind == "faces" else inputs
        tokens = centred(self.fsa(self.stem(features)))
        described: Tensor = self.drop(
            self.norm(torch.cat([branch(tokens) for branch in self.branches.values()], dim=1))
        )
        return described


def build_model(settings: ModelSettings, *, seed: int, weights: Path | None = None) -> nn.Module:
    """The model a study asks for: Face2Bone, or a baseline through the same door.

    Args:
        settings: the study's `[model]` table.
        seed: of the starting values.
        weights: local pretrained weights of a trunk to be fine-tuned, or of a baseline; None for seeded random ones.

    Raises:
        SettingsError: sizes that do not fit together, or an unknown backbone.
        WeightsError: `weights` cannot be read or belongs to another network.
    """
    if settings.backbone != "facenet":
        from face2bone_model.models.baselines import build_baseline  # loads every architecture timm knows

        with seeded(seed, settings.backbone):
            return build_baseline(settings, weights)
    with seeded(seed, "model"):
        model = Face2Bone(settings, seed=seed)
    if settings.trunk == "finetune" and settings.inputs != "clinical":
        tensors = random_trunk_tensors(seed) if weights is None else read_trunk_tensors(weights)
        load_trunk_tensors(model.trunk, tensors)
    return model


@contextlib.contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Draw from a stream that belongs to `seed` and `name`; the global random state is as before afterwards."""
    number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big", signed=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)  # torch.manual_seed would reseed GPUs too
        yield


def _check(settings: ModelSettings) -> None:
    for width, heads in (("stem_width", "fsa_heads"), ("branch_width", "transformer_heads")):
        if getattr(settings, width) % getattr(settings, heads):
            raise SettingsError(f"[model] {width} is not a multiple of {heads}.", "Change one of them.")
    for share in ("keep_frequencies", "keep_attention"):
        if not 0 < getattr(settings, share) <= 1:
            raise SettingsError(
                f"[model] {share} is {getattr(settings, share)}.", "It is a share: above 0, at most 1."
            )
