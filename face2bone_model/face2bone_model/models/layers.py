"""Two leaf layers for learned constants, so that no module has both parameters of its own and children.

Opacus computes per-sample gradients of a leaf it does not know by calling it on one sample at a time; a module with
children would be run whole. The same leaf takes gain and offset out of larger modules that keep constants as buffers,
which Opacus refuses beside parameters.
"""

import torch
from torch import Tensor, nn
from typing_extensions import override


class Offset(nn.Module):
    """Add a learned table (N, D) to tokens (B, N, D): positions, in space or in frequency."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(tokens, width) * 0.02)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.table


class Gain(nn.Module):
    """Multiply by one learned number, 0 at the start: a residual branch that begins as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.value
