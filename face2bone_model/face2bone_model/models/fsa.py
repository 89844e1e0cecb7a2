"""Frequency sparse attention (FSA): attention among the most telling spatial frequencies of a feature map.

A reconstruction. The Face2Bone paper names FSA and gives no formula; every step is taken from a published relative:

1. squeeze the channels to D and take the orthonormal 2-D DCT-II; each frequency is a token (FcaNet, arXiv 2012.11879)
2. normalise each token and add a learned frequency position
3. score the tokens by a small tanh network, keep the top share rho, the constant term always, and gate each kept token
   by the sigmoid of its score, which carries the gradient to the scorer (SHFIN's K-sparse mask, arXiv 1801.01451)
4. attend among kept tokens; each row keeps its top share r before the softmax
   (Explicit Sparse Transformer, arXiv 1912.11637)
5. put the tokens back in place, zeros elsewhere, invert the DCT, widen, and add to the input times gamma, 0 at first

Notation: B samples, N = H W tokens, C channels, D width, K kept frequencies, R kept entries a row. No BatchNorm and no
in-place operation: each sample is computed alone, as differential privacy and federated averaging need.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from face2bone_model.models.dct import Dct2d
from face2bone_model.models.layers import Gain, Offset

FsaMode = Literal["off", "dense", "fca", "fsa"]
_NEVER = 1e30
"""Taken from a logit, it makes the weight after the softmax exactly 0; adding is ten times faster than masking."""


class FrequencySparseAttention(nn.Module):
    """Tokens (B, N, C) of an H x W map to tokens of the same shape.

    Args:
        channels: C.
        width: D, a multiple of `heads`.
        heads: attention heads.
        size: (H, W).
        keep_frequencies: rho; K = ceil(rho N). 1 keeps all.
        keep_attention: r; R = ceil(r K). 1 is dense attention.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 128,
        heads: int = 4,
        size: tuple[int, int] = (8, 8),
        keep_frequencies: float = 0.5,
        keep_attention: float = 0.5,
    ) -> None:
        super().__init__()
        tokens = size[0] * size[1]
        self.heads = heads
        self.kept_tokens = max(1, math.ceil(keep_frequencies * tokens))
        self.kept_attention = max(1, math.ceil(keep_attention * self.kept_tokens))
        self.squeeze = nn.Linear(channels, width, bias=False)
        self.dct = Dct2d(*size)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.position = Offset(tokens, width)
        self.score = nn.Sequential(
            nn.Linear(width, width // 4, bias=False), nn.Tanh(), nn.Linear(width // 4, 1, bias=False)
        )
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, channels, bias=False)
        self.gamma = Gain()

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        added: Tensor = self.gamma(self.widen(self.residual(tokens)))
        return tokens + added

    def residual(self, tokens: Tensor) -> Tensor:
        """The map (B, N, D) that is widened and added: only kept frequencies are in it."""
        frequencies = self.frequency_tokens(tokens)
        chosen, gates = self.select(frequencies)
        place = chosen[..., None].expand(-1, -1, frequencies.shape[-1])  # (B, K, D)
        attended = self.attend(frequencies.gather(1, place) * gates[..., None])
        return self.dct.inverse(torch.zeros_like(frequencies).scatter(1, place, attended))

    def frequency_tokens(self, tokens: Tensor) -> Tensor:
        """Normalised, position-marked frequency tokens (B, N, D)."""
        marked: Tensor = self.position(self.norm(self.dct(self.squeeze(tokens))))
        return marked

    def select(self, frequencies: Tensor) -> tuple[Tensor, Tensor]:
        """The K kept tokens' indices in ascending order, and their gates in (0, 1); both (B, K)."""
        scores = self.score(frequencies)[..., 0]
        constant = torch.arange(scores.shape[-1], device=scores.device) == 0
        kept = keep_largest(scores.detach().masked_fill(constant, math.inf), self.kept_tokens)
        chosen = _indices(kept, self.kept_tokens)
        return chosen, scores.gather(1, chosen).sigmoid()

    def attend(self, kept: Tensor) -> Tensor:
        """Sparse attention among kept tokens (B, K, D)."""
        queries, keys, values = self._split(kept)
        mixed = self.attention(queries, keys) @ values
        projected: Tensor = self.project(mixed.transpose(1, 2).flatten(2))
        return projected

    def attention(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Weights (B, heads, K, K) of queries and keys (B, heads, K, D / heads); R entries of each row are not zero."""
        logits = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        if self.kept_attention < logits.shape[-1]:
            kept = keep_largest(logits.detach(), self.kept_attention)
            logits = logits + (kept.float() - 1.0) * _NEVER
        return logits.softmax(-1)

    def _split(self, kept: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, heads, K, D / heads)."""
        stacked = self.query_key_value(kept).unflatten(-1, (3, self.heads, -1))
        return tuple(stacked.permute(2, 0, 3, 1, 4).unbind(0))


class FrequencyChannelAttention(nn.Module):
    """FcaNet's channel attention (Qin et al. 2021, arXiv 2012.11879, low-frequency variant): the ablation `fca`.

    Each channel is summarised by one of the 16 lowest DCT frequencies of its map instead of its mean; a two-layer net
    turns the summaries into a gate per channel. Tokens (B, N, C) to tokens of the same shape.
    """

    def __init__(
        self, channels: int, *, size: tuple[int, int] = (8, 8), frequencies: int = 16, reduction: int = 4
    ) -> None:
        super().__init__()
        self.summary = _ChannelFrequencies(channels, size, frequencies)
        self.gate = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        gated: Tensor = tokens * self.gate(self.summary(tokens))[:, None, :]
        return gated


class _ChannelFrequencies(nn.Module):
    """One DCT coefficient per channel, (B, N, C) -> (B, C): channels are shared out among the lowest frequencies."""

    basis: Tensor

    def __init__(self, channels: int, size: tuple[int, int], frequencies: int) -> None:
        super().__init__()
        lowest = sorted(range(size[0] * size[1]), key=lambda token: (sum(divmod(token, size[1])), token))[
            :frequencies
        ]
        shared = torch.tensor([lowest[channel * len(lowest) // channels] for channel in range(channels)])
        self.register_buffer("basis", Dct2d(*size).basis[shared].T.contiguous(), persistent=False)  # (N, C)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        return (tokens * self.basis).sum(1)


def keep_largest(values: Tensor, count: int) -> Tensor:
    """True at the `count` largest of each row; of equal values the lowest index wins, on every machine.

    `topk` may pick any of several equal values, so only the smallest value kept is asked for, not where it is.
    """
    threshold = _nth_largest(values, count)
    kept = values >= threshold
    if int(torch.count_nonzero(kept)) == count * (kept.numel() // kept.shape[-1]):
        return kept
    above, equal = values > threshold, values == threshold
    room = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def _nth_largest(values: Tensor, count: int) -> Tensor:
    """The `count`-th largest value of each row, (..., 1)."""
    if (
        values.device.type == "cpu"
    ):  # NumPy's partition takes a tenth of the time of torch's topk on rows this short
        smallest_kept = np.partition(values.numpy(), -count, axis=-1)[..., -count, None]
        return torch.from_numpy(smallest_kept)
    return values.topk(count, dim=-1).values[..., -1:]


def build_fsa(
    mode: FsaMode, channels: int, *, heads: int, keep_frequencies: float, keep_attention: float
) -> nn.Module:
    """The attention of an ablation: nothing, dense (rho = r = 1), FcaNet's, or FSA."""
    if mode == "off":
        return nn.Identity()
    if mode == "fca":
        return FrequencyChannelAttention(channels)
    dense = mode == "dense"
    return FrequencySparseAttention(
        channels,
        width=channels,
        heads=heads,
        keep_frequencies=1.0 if dense else keep_frequencies,
        keep_attention=1.0 if dense else keep_attention,
    )


def _indices(kept: Tensor, count: int) -> Tensor:
    """Positions of the `count` True entries of each row, ascending."""
    from_the_end = torch.arange(kept.shape[-1], 0, -1, device=kept.device)
    return kept.shape[-1] - (kept * from_the_end).topk(count, dim=-1).values
