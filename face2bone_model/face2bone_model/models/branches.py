"""The two branches over the 64 tokens of the feature map: a Transformer encoder and a depthwise separable CNN.

Both take tokens (B, N, C) and give one vector (B, width) by averaging over the map. How they are joined is our choice:
the paper says only that there are both. Layer norm instead of BatchNorm, so that samples stay apart and averages of
models make sense.
"""

from timm.models.vision_transformer import Block
from torch import Tensor, nn
from typing_extensions import override

from face2bone_model.models.layers import Offset


class TransformerBranch(nn.Module):
    """Pre-norm Transformer encoder (Dosovitskiy et al. 2021, arXiv 2010.11929) without class token."""

    def __init__(self, channels: int, *, tokens: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.position = Offset(tokens, width)
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp_ratio=2.0, qkv_bias=True) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width)

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        encoded: Tensor = self.norm(self.blocks(self.position(self.embed(tokens))))
        return encoded.mean(1)


class CnnBranch(nn.Module):
    """Two residual depthwise separable blocks (Chollet 2017, arXiv 1610.02357), ordered as in ConvNeXt (2201.03545)."""

    def __init__(self, channels: int, *, size: tuple[int, int], width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, width)
        self.blocks = nn.Sequential(_SeparableBlock(size, width), _SeparableBlock(size, width))

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        convolved: Tensor = self.blocks(self.embed(tokens))
        return convolved.mean(1)


class _DepthwiseConvolution(nn.Conv2d):
    """A `Conv2d` by another name, so that Opacus takes its per-sample gradients by functorch.

    The rule Opacus 1.6 has for `Conv2d` reads memory as if it were contiguous; of a channels-last image, as here, it
    returns wrong gradients without a word.
    """


class _SeparableBlock(nn.Module):
    """x + GELU(pointwise(norm(depthwise 3 x 3 (x)))), on tokens: of a channels-last image, 1 x 1 is a linear map."""

    def __init__(self, size: tuple[int, int], width: int) -> None:
        super().__init__()
        self.size = size
        self.depthwise = _DepthwiseConvolution(
            width, width, kernel_size=3, padding=1, groups=width, bias=False
        )
        self.norm = nn.LayerNorm(width)
        self.pointwise = nn.Linear(width, width)
        self.activation = nn.GELU()

    @override
    def forward(self, tokens: Tensor) -> Tensor:
        image = tokens.transpose(1, 2).reshape(len(tokens), -1, *self.size)  # (B, width, H, W)
        convolved = self.depthwise(image).flatten(2).transpose(1, 2)
        added: Tensor = self.activation(self.pointwise(self.norm(convolved)))
        return tokens + added
