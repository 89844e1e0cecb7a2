"""The KAN layers against SciPy's B-splines and pykan's own layer, and the heads."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from face2bone_model.models.kan import BSplineBasis, KanLayer, build_head
from face2bone_model.models.pykan_layer import PykanLayer


def twin_of(pykan, inputs, outputs):
    """Our layer with pykan's coefficients."""
    layer = KanLayer(inputs, outputs)
    with torch.no_grad():
        layer.base.weight.copy_(pykan.scale_base.T)
        coefficients = pykan.scale_sp[..., None] * pykan.coef  # inputs x outputs x (G + k)
        layer.spline.weight.copy_(coefficients.permute(1, 0, 2).reshape(outputs, -1))
    return layer


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (7, 5), (96, 32)])
def test_our_layer_equals_pykans_at_equal_coefficients(inputs, outputs):
    torch.manual_seed(3)
    pykan = PykanLayer(inputs, outputs)
    values = torch.rand(50, inputs) * 5 - 2.5  # the grid is [-1, 1], its extension ends at 2.2
    torch.testing.assert_close(twin_of(pykan, inputs, outputs)(values), pykan(values), atol=1e-5, rtol=0)


@settings(max_examples=50, deadline=None)
@given(st.floats(-3, 3, width=32))
def test_the_basis_is_scipys(value):
    knots = (np.arange(-3, 9) * 0.4 - 1.0).astype(np.float32)
    if np.abs(knots - value).min() < 1e-4:
        return  # at a knot the half-open cells differ by rounding
    expected = [
        np.nan_to_num(float(BSpline.basis_element(knots[index : index + 5], extrapolate=False)(value)))
        for index in range(8)
    ]
    np.testing.assert_allclose(BSplineBasis()(torch.tensor([value])).numpy()[0], expected, atol=1e-5)


def test_the_basis_sums_to_one_inside_the_grid_and_vanishes_far_outside():
    basis = BSplineBasis()
    torch.testing.assert_close(basis(torch.linspace(-1, 0.999, 101)).sum(-1), torch.ones(101))
    assert basis(torch.tensor([-2.5, 2.5])).abs().max() == 0


@pytest.mark.parametrize("kind", ["kan", "pykan", "mlp", "linear"])
def test_every_head_gives_three_finite_logits_and_learns(kind):
    torch.manual_seed(0)
    head = build_head(kind, 16, 8)
    inputs = torch.randn(64, 16)
    labels = (inputs[:, 0] > 0).long() * 2
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(head(inputs), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert head(inputs).shape == (64, 3)
    assert losses[-1] < 0.5 * losses[0]


def test_inputs_are_bounded_before_the_splines():
    head = build_head("kan", 4, 8)
    assert torch.isfinite(head(torch.full((1, 4), 1e6))).all()
    torch.testing.assert_close(head(torch.full((1, 4), 1e6)), head(torch.full((1, 4), 1e4)))


def test_the_grid_of_the_pykan_head_is_not_trained():
    trained = {name for name, value in PykanLayer(3, 2).named_parameters() if value.requires_grad}
    assert trained == {"coef", "scale_base", "scale_sp"}


def test_building_a_pykan_layer_reseeds_no_other_generator():
    random.seed(5)
    np.random.seed(5)
    expected = (random.random(), np.random.random())  # noqa: S311
    random.seed(5)
    np.random.seed(5)
    PykanLayer(3, 2)
    assert (random.random(), np.random.random()) == expected  # noqa: S311
