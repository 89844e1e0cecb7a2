"""Kolmogorov-Arnold layers on a fixed grid, and the heads that end the network.

Each edge of a KAN carries a learned function phi(x) = w SiLU(x) + sum_i c_i B_i(x) of cubic B-splines (Liu et al. 2024,
arXiv 2404.19756). The grid is fixed at [-1, 1] with five cells for every site: were it to follow a site's data,
federated averaging would add up coefficients of different splines. With the grid fixed, the basis has no parameters,
and the layer is two linear maps: one of SiLU(x), one of the basis. Inputs are bounded by tanh, since splines vanish
outside the grid.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

HeadKind = Literal["kan", "pykan", "mlp", "linear"]
CLASSES = 3
_CELLS = 5
_ORDER = 3


class BSplineBasis(nn.Module):
    """Values of the G + k B-splines of order k on a uniform grid over [-1, 1]: (..., I) -> (..., I, G + k).

    Cox-de Boor recursion on knots extended by k cells at both ends, as in pykan. In [-1, 1) the values sum to one.
    """

    knots: Tensor

    def __init__(self, cells: int = _CELLS, order: int = _ORDER) -> None:
        super().__init__()
        self.order = order
        self.cell = 2.0 / cells
        knots = torch.arange(-order, cells + order + 1, dtype=torch.float64) * self.cell - 1.0
        self.register_buffer("knots", knots.float(), persistent=False)

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs[..., None]
        knots = self.knots
        basis = ((x >= knots[:-1]) & (x < knots[1:])).to(inputs.dtype)
        for degree in range(1, self.order + 1):
            rising = (x - knots[: -degree - 1]) * basis[..., :-1]
            falling = (knots[degree + 1 :] - x) * basis[..., 1:]
            basis = (rising + falling) / (degree * self.cell)
        return basis


class KanLayer(nn.Module):
    """(B, inputs) -> (B, outputs): base(SiLU(x)) + spline(B(x)).

    Equal to pykan's `KANLayer` with `base.weight[o, i] = scale_base[i, o]` and
    `spline.weight[o, i (G + k) + j] = scale_sp[i, o] coef[i, o, j]`.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.basis = BSplineBasis()
        self.base = nn.Linear(inputs, outputs, bias=False)
        self.spline = nn.Linear(inputs * (_CELLS + _ORDER), outputs, bias=False)
        nn.init.normal_(self.spline.weight, std=0.1 * inputs**-0.5)  # a gentle start, as pykan's noise_scale

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        summed: Tensor = self.base(functional.silu(inputs)) + self.spline(self.basis(inputs).flatten(-2))
        return summed


def build_head(kind: HeadKind, inputs: int, hidden: int) -> nn.Sequential:
    """The classifier: normalised inputs (B, inputs) -> logits (B, 3).

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "linear":
        return nn.Sequential(nn.Linear(inputs, CLASSES))
    if kind == "mlp":
        return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, CLASSES))
    layer = _layer_type(kind)
    return nn.Sequential(
        nn.Tanh(), layer(inputs, hidden), nn.LayerNorm(hidden), nn.Tanh(), layer(hidden, CLASSES)
    )


def _layer_type(kind: HeadKind) -> type[nn.Module]:
    if kind == "kan":
        return KanLayer
    from face2bone_model.models.pykan_layer import PykanLayer  # imports sympy, pandas and matplotlib

    return PykanLayer
