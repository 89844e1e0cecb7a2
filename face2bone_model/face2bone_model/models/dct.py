"""The orthonormal two-dimensional DCT-II of a small map, as one matrix over its tokens."""

import math

import torch
from torch import Tensor, nn
from typing_extensions import override


class Dct2d(nn.Module):
    """Spatial tokens (B, H W, D) to frequency tokens (B, H W, D), token u W + v holding frequency (u, v).

    The matrix is a constant: never trained, saved or sent.
    """

    basis: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.register_buffer(
            "basis", torch.kron(dct_matrix(height), dct_matrix(width)).float(), persistent=False
        )

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        return self.basis @ tokens

    def inverse(self, frequencies: Tensor) -> Tensor:
        """Frequency tokens back to spatial tokens."""
        return self.basis.T @ frequencies


def dct_matrix(size: int) -> Tensor:
    """D[k, i] = a_k cos(pi k (i + 1/2) / n) with a_0 = sqrt(1/n), a_k = sqrt(2/n); float64, D D^T = I."""
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    position = torch.arange(size, dtype=torch.float64)[None, :]
    matrix = math.sqrt(2 / size) * torch.cos(math.pi * frequency * (position + 0.5) / size)
    return torch.cat([matrix[:1] / math.sqrt(2), matrix[1:]])
