"""Per-sample gradients of every trainable part under Opacus, against autograd on one sample at a time."""

import pytest
import torch
from opacus import GradSampleModule

from face2bone_model.models.branches import CnnBranch, TransformerBranch
from face2bone_model.models.face2bone import Stem
from face2bone_model.models.fsa import FrequencyChannelAttention, FrequencySparseAttention
from face2bone_model.models.kan import build_head
from face2bone_model.models.layers import Gain, Offset
from face2bone_model.models.trunk import Trunk

PARTS = {
    "stem": (lambda: Stem(20, 16), (20, 4, 4)),
    "fsa": (lambda: FrequencySparseAttention(16, width=16), (64, 16)),
    "fsa dense": (
        lambda: FrequencySparseAttention(16, width=16, keep_frequencies=1.0, keep_attention=1.0),
        (64, 16),
    ),
    "fca": (lambda: FrequencyChannelAttention(16), (64, 16)),
    "transformer": (lambda: TransformerBranch(16, tokens=64, width=16, layers=2, heads=2), (64, 16)),
    "cnn": (lambda: CnnBranch(16, size=(8, 8), width=16), (64, 16)),
    "offset": (lambda: Offset(6, 5), (6, 5)),
    "gain": (Gain, (6, 5)),
    "kan": (lambda: build_head("kan", 12, 6), (12,)),
    "pykan": (lambda: build_head("pykan", 12, 6), (12,)),
    "mlp": (lambda: build_head("mlp", 12, 6), (12,)),
    "linear": (lambda: build_head("linear", 12, 6), (12,)),
}


@pytest.mark.parametrize("name", PARTS)
def test_per_sample_gradients_equal_one_by_one_autograd(name):
    torch.manual_seed(7)
    make, shape = PARTS[name]
    part = make().double()
    for (
        value
    ) in part.parameters():  # away from zero starts, or nothing would reach the layers behind a gain of 0
        if value.requires_grad:
            value.data += 0.1 * torch.randn_like(value)
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    expected = [one_by_one(part, inputs[index : index + 1]) for index in range(4)]
    wrapped = GradSampleModule(part, loss_reduction="sum")
    wrapped(inputs).square().sum().backward()
    for name_, value in part.named_parameters():
        if value.requires_grad:
            alone = torch.stack([gradients[name_] for gradients in expected])
            assert alone.abs().max() > 0
            torch.testing.assert_close(value.grad_sample, alone, atol=1e-6, rtol=1e-6)


def one_by_one(part, sample):
    part.zero_grad()
    part(sample).square().sum().backward()
    return {name: value.grad.clone() for name, value in part.named_parameters() if value.requires_grad}


def test_the_stem_has_right_per_sample_gradients_for_channels_last_features():
    torch.manual_seed(7)
    part = Stem(8, 4).double()
    inputs = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    expected = [one_by_one(part, inputs[index : index + 1])["convolution.weight"] for index in range(3)]
    wrapped = GradSampleModule(part, loss_reduction="sum")
    wrapped(inputs.to(memory_format=torch.channels_last)).square().sum().backward()
    torch.testing.assert_close(
        part.convolution.weight.grad_sample, torch.stack(expected), atol=1e-6, rtol=1e-6
    )


def test_opacus_accepts_the_folded_trunk():
    assert GradSampleModule(Trunk()) is not None
