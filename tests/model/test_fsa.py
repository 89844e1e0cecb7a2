"""Frequency sparse attention against an independent NumPy reference, and its invariants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn

from face2bone_model.models.dct import Dct2d, dct_matrix
from face2bone_model.models.fsa import (
    FrequencyChannelAttention,
    FrequencySparseAttention,
    build_fsa,
    keep_largest,
)

SIDE, CHANNELS, WIDTH, HEADS = 8, 96, 64, 4
TOKENS = SIDE * SIDE


def stable_top(values, count):
    order = np.argsort(-values, axis=-1, kind="stable")[..., :count]
    mask = np.zeros(values.shape, bool)
    np.put_along_axis(mask, order, values=True, axis=-1)
    return mask


def reference(module, maps):
    """The definition in NumPy, float64, on maps (B, H, W, C); SciPy's DCT. Returns the result and its parts."""
    weights = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
    batch = len(maps)
    squeezed = maps @ weights["squeeze.weight"].T
    tokens = dctn(squeezed, axes=(1, 2), norm="ortho").reshape(batch, TOKENS, WIDTH)
    normal = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-5)
    marked = normal + weights["position.table"]
    scores = (np.tanh(marked @ weights["score.0.weight"].T) @ weights["score.2.weight"].T)[..., 0]
    ranked = scores.copy()
    ranked[:, 0] = np.inf
    kept = stable_top(ranked, module.kept_tokens)
    chosen = np.nonzero(kept)[1].reshape(batch, -1)[..., None]
    gated = np.take_along_axis(marked / (1 + np.exp(-scores))[..., None], chosen, axis=1)
    query, key, value = (
        (gated @ part.T).reshape(batch, -1, module.heads, WIDTH // module.heads).transpose(0, 2, 1, 3)
        for part in np.split(weights["query_key_value.weight"], 3)
    )
    logits = query @ key.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // module.heads)
    logits = np.where(stable_top(logits, module.kept_attention), logits, -np.inf)
    attention = np.exp(logits - logits.max(-1, keepdims=True))
    attention /= attention.sum(-1, keepdims=True)
    mixed = (attention @ value).transpose(0, 2, 1, 3).reshape(batch, -1, WIDTH) @ weights["project.weight"].T
    scattered = np.zeros((batch, TOKENS, WIDTH))
    np.put_along_axis(scattered, chosen, mixed, axis=1)
    residual = idctn(scattered.reshape(batch, SIDE, SIDE, WIDTH), axes=(1, 2), norm="ortho")
    return maps + weights["gamma.value"] * (residual @ weights["widen.weight"].T), kept, attention


def make(gamma=1.0, **shares):
    torch.manual_seed(0)
    module = FrequencySparseAttention(CHANNELS, width=WIDTH, heads=HEADS, **shares)
    torch.nn.init.constant_(module.gamma.value, gamma)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return module


def maps_and_tokens(batch=3, seed=1):
    maps = np.random.default_rng(seed).normal(size=(batch, SIDE, SIDE, CHANNELS))
    return maps, torch.from_numpy(maps).float().reshape(batch, TOKENS, CHANNELS)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize(
    "shares", [{}, {"keep_frequencies": 1.0, "keep_attention": 1.0}, {"keep_frequencies": 0.1}]
)
def test_fsa_agrees_with_the_numpy_reference(gamma, shares):
    module = make(gamma, **shares)
    maps, tokens = maps_and_tokens()
    expected, *_ = reference(module, maps)
    np.testing.assert_allclose(module(tokens).detach().numpy().reshape(maps.shape), expected, atol=1e-5)


def test_the_same_frequencies_and_attention_are_kept_as_in_the_reference():
    module = make()
    maps, tokens = maps_and_tokens()
    _, kept, attention = reference(module, maps)
    marked = module.frequency_tokens(tokens)
    chosen, gates = module.select(marked)
    assert np.array_equal(chosen.numpy(), np.nonzero(kept)[1].reshape(3, -1))
    gathered = marked.gather(1, chosen[..., None].expand(-1, -1, WIDTH)) * gates[..., None]
    query, key, _ = module._split(gathered)
    weights = module.attention(query, key)
    np.testing.assert_allclose(weights.detach().numpy(), attention, atol=1e-6)
    assert ((weights > 0).sum(-1) == module.kept_attention).all()


def test_fsa_begins_as_the_identity():
    module = FrequencySparseAttention(CHANNELS, width=WIDTH)
    _, tokens = maps_and_tokens()
    assert torch.equal(module(tokens), tokens)


def test_the_residual_holds_only_kept_frequencies_and_always_the_constant_one():
    module = make()
    _, tokens = maps_and_tokens()
    chosen, _ = module.select(module.frequency_tokens(tokens))
    assert (chosen[:, 0] == 0).all()
    spectrum = module.dct(module.residual(tokens)).abs().amax(-1)
    present = {(row, column) for row, column in torch.nonzero(spectrum > 1e-5).tolist()}
    assert present == {(row, index) for row in range(3) for index in chosen[row].tolist()}


def test_the_constant_frequency_is_kept_even_with_the_lowest_score():
    module = make(keep_frequencies=0.1)
    marked = torch.randn(2, TOKENS, WIDTH)
    direction = module.score[0].weight.detach().T @ module.score[2].weight.detach()[0]
    marked[:, 0] = -50 * direction
    assert module.score(marked)[:, 0, 0].lt(module.score(marked)[:, 1:, 0].amin(1)).all()
    assert (module.select(marked)[0][:, 0] == 0).all()


def test_each_sample_is_computed_alone():
    module = make()
    _, tokens = maps_and_tokens(batch=4)
    together = module(tokens)
    alone = torch.cat([module(tokens[index : index + 1]) for index in range(4)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_the_gate_carries_a_gradient_to_the_scorer():
    module = make()
    _, tokens = maps_and_tokens()
    module(tokens).square().sum().backward()
    assert module.score[0].weight.grad.abs().max() > 0


def test_fsa_changes_its_input_nowhere_in_place():
    module = make()
    _, tokens = maps_and_tokens()
    before = tokens.clone()
    module(tokens)
    assert torch.equal(tokens, before)


def test_the_dct_basis_is_orthonormal_and_is_scipys():
    assert torch.allclose(dct_matrix(8) @ dct_matrix(8).T, torch.eye(8, dtype=torch.float64), atol=1e-14)
    image = torch.randn(2, 6 * 4, 5)
    dct = Dct2d(6, 4)
    expected = dctn(image.reshape(2, 6, 4, 5).numpy(), axes=(1, 2), norm="ortho").reshape(2, 24, 5)
    np.testing.assert_allclose(dct(image).numpy(), expected, atol=1e-6)
    torch.testing.assert_close(dct.inverse(dct(image)), image, atol=1e-6, rtol=0)


def test_constants_are_neither_trained_nor_saved():
    assert not any("basis" in name for name in make().state_dict())
    assert not any("basis" in name for name in FrequencyChannelAttention(32).state_dict())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_largest_values_are_kept_and_ties_go_to_the_lowest_index(data):
    width = data.draw(st.integers(1, 9))
    rows = data.draw(
        st.lists(st.lists(st.integers(-2, 2), min_size=width, max_size=width), min_size=1, max_size=5)
    )
    count = data.draw(st.integers(1, width))
    values = torch.tensor(rows, dtype=torch.float32)
    assert np.array_equal(keep_largest(values, count).numpy(), stable_top(values.numpy(), count))


def test_the_mode_dense_keeps_everything_and_off_does_nothing():
    dense = build_fsa("dense", 32, heads=4, keep_frequencies=0.5, keep_attention=0.5)
    assert (dense.kept_tokens, dense.kept_attention) == (64, 64)
    tokens = torch.randn(2, 64, 32)
    assert torch.equal(
        build_fsa("off", 32, heads=4, keep_frequencies=0.5, keep_attention=0.5)(tokens), tokens
    )


def test_fca_gates_each_channel_by_its_frequency():
    torch.manual_seed(0)
    module = build_fsa("fca", 32, heads=4, keep_frequencies=0.5, keep_attention=0.5)
    tokens = torch.randn(2, 64, 32)
    spectrum = dctn(tokens.reshape(2, 8, 8, 32).numpy(), axes=(1, 2), norm="ortho").reshape(2, 64, 32)
    lowest = [0, 1, 8, 2, 9, 16, 3, 10, 17, 24, 4, 11, 18, 25, 32, 5]  # by u + v, then by u
    summary = np.stack([spectrum[:, lowest[channel // 2], channel] for channel in range(32)], axis=1)
    hidden = np.maximum(summary @ module.gate[0].weight.detach().numpy().T, 0)
    gate = 1 / (1 + np.exp(-hidden @ module.gate[2].weight.detach().numpy().T))
    np.testing.assert_allclose(module(tokens).detach().numpy(), tokens.numpy() * gate[:, None, :], atol=1e-5)
