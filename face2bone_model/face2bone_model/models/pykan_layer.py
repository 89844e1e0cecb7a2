"""pykan's own layer as an ordinary module, for symbolic reading and plots (`head = "pykan"`).

`kan.KANLayer` only, never `kan.KAN`: the latter reseeds every random generator to 1, so that two sites draw the same
privacy noise, and writes its last batch of patients to `./model`.
"""

from kan.KANLayer import KANLayer
from torch import Tensor
from typing_extensions import override


class PykanLayer(KANLayer):  # type: ignore[misc]  # pykan has no types
    """(B, inputs) -> (B, outputs): the first of the four outputs of `KANLayer`, on the fixed grid of `kan.KanLayer`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, num=5, k=3, noise_scale=0.3, grid_range=[-1, 1])

    @override
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # pykan gives four
        """Outputs (B, outputs) of x (B, inputs)."""
        outputs: Tensor = super().forward(x)[0]
        return outputs
