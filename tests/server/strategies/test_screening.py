"""Screening by length, and the weights."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_rounds import a_round, an_update, step_of

from f2b_server.strategies.strategy import noise_deviation
from f2b_server.strategies.weights import LEAST_VARIANCE, loss_variance_of, weights_of
from face2bone_model.contract.study import EvaluationSettings, PrivacySettings
from face2bone_model.metrics.evaluation import validation_update
from face2bone_model.metrics.suppression import suppress


def steps_of_length(*lengths, size=16):
    """Vectors in different directions at these distances from zero."""
    rng = np.random.default_rng(3)
    directions = rng.normal(size=(len(lengths), size))
    return [length * one / np.linalg.norm(one) for length, one in zip(lengths, directions, strict=True)]


@given(lengths=st.lists(st.floats(0.01, 100), min_size=3, max_size=9), ratio=st.floats(1.5, 20))
def test_who_goes_farther_than_so_many_times_the_median_is_left_out(lengths, ratio):
    done = step_of(a_round(steps_of_length(*lengths)), longest_norm_ratio=ratio)
    for index, length in enumerate(lengths):
        if not math.isclose(length, ratio * np.median(lengths), rel_tol=1e-5):
            assert (f"s{index:02d}" in done.left_out) == (length > ratio * np.median(lengths))


def test_the_sentence_names_the_length_the_median_and_what_is_permitted():
    done = step_of(a_round(steps_of_length(1.0, 2.0, 1.5, 60.0)))
    assert done.left_out == {
        "s03": "The update is a step of length 60, 34.3 times the round's median of 1.75; the study permits 5 times."
    }


def test_two_lengths_are_not_compared():
    assert step_of(a_round(steps_of_length(1.0, 100.0))).left_out == {}


def test_a_ratio_of_nought_leaves_no_finite_update_out():
    done = step_of(a_round([*steps_of_length(1.0, 1.0, 1e6), [np.nan] * 16]), longest_norm_ratio=0.0)
    assert done.left_out == {"s03": "The update holds values that are not finite."}


def test_a_site_that_trains_all_tensors_is_no_outlier_among_sites_that_train_the_head():
    body, head = [30.0] * 8, [0.5, -0.5]
    one = a_round(
        [[0.0] * 8 + head, [0.0] * 8 + head[::-1], [0.0] * 8 + [0.4, 0.4], body + head], sizes=[8, 2]
    )
    assert step_of(one).left_out == {}
    far = a_round([*(u.vector for u in one.updates[:3]), [*body, 50.0, 50.0]], sizes=[8, 2])
    assert set(step_of(far).left_out) == {"s03"}


def test_a_private_site_may_go_farther_by_the_noise_it_had_to_add_and_no_farther():
    privacy = PrivacySettings(steps_per_round=4, expected_batch_size=24, learning_rate=0.3, max_grad_norm=1.0)
    rng, size = np.random.default_rng(0), 5000
    deviation = noise_deviation(privacy, 5.0)
    noise = sum(
        0.3 / 24 * rng.normal(0.0, 5.0, size) for _ in range(4)
    )  # what dp_sgd adds, step by step, without a gradient
    assert deviation * math.sqrt(size) == pytest.approx(np.linalg.norm(noise), rel=0.05)
    one = a_round([*steps_of_length(0.2, 0.25, size=size), noise])
    assert set(step_of(one).left_out) == {"s02"}
    private = dataclasses.replace(one.updates[2], noise_multiplier=5.0, noise_deviation=deviation)
    allowed = dataclasses.replace(one, updates=(*one.updates[:2], private))
    assert step_of(allowed).left_out == {}
    far = dataclasses.replace(private, vector=private.vector * np.float32(2))
    assert set(step_of(dataclasses.replace(one, updates=(*one.updates[:2], far))).left_out) == {"s02"}


def test_idle_sites_do_not_shorten_the_median():
    one = a_round([*steps_of_length(1.0, 1.2, 0.8), *[np.zeros(16)] * 5])
    done = step_of(one)
    assert done.left_out == {}
    assert set(done.notes) == {f"s{i:02d}" for i in range(3, 8)}


def some_validation(n=60, seed=0, min_cell=1):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet((1, 1, 1), n)
    labels = rng.integers(0, 3, n)
    update = validation_update(EvaluationSettings(score_bins=50), probabilities, labels)
    return suppress(update, min_cell=min_cell), -np.log(probabilities[np.arange(n), labels])


@pytest.mark.parametrize("n", [2, 3, 60])
def test_the_loss_variance_is_that_of_the_patients_losses(n):
    statistics, losses = some_validation(n)
    assert loss_variance_of(statistics) == pytest.approx(np.var(losses, ddof=1), rel=1e-9)


def test_a_withheld_or_single_loss_has_no_variance():
    assert math.isnan(loss_variance_of(some_validation(10, min_cell=11)[0]))
    assert math.isnan(loss_variance_of(some_validation(1)[0]))


NAN = math.nan


def weighted(*cases):
    return weights_of("inverse_variance", [an_update(f"s{i}", [0.0], n, v) for i, (n, v) in enumerate(cases)])


def test_inverse_variance_weights_are_patients_over_variance():
    weights, notes = weighted((100, 0.5), (50, 1.0), (30, 2.0))
    assert weights == {"s0": 200.0, "s1": 50.0, "s2": 15.0}
    assert notes == {}


def test_a_withheld_variance_counts_as_the_median_and_says_so():
    weights, notes = weighted((100, 0.5), (50, NAN), (30, 2.0), (10, 1.0))
    assert weights["s1"] == 50 / 1.0
    assert set(notes) == {"s1"}
    assert "not known" in notes["s1"]


def test_without_any_variance_the_weights_are_the_patients():
    weights, notes = weighted((100, NAN), (50, NAN))
    assert weights == {"s0": 100.0, "s1": 50.0}
    assert set(notes) == {"s0", "s1"}


def test_a_tiny_variance_does_not_take_over():
    weights, _ = weighted((10, 1e-9), (10, 1.0), (10, 1.0))
    assert weights["s0"] == 10 / LEAST_VARIANCE


def test_equal_weights_are_equal_and_the_step_follows_them():
    one = a_round([[1.0], [4.0]], patients=[1, 999])
    np.testing.assert_allclose(step_of(one, weights="equal").vector, [2.5])
    np.testing.assert_allclose(step_of(one, weights="patients").vector, [(1 + 999 * 4) / 1000])


def test_a_note_about_the_weights_leaves_with_the_step():
    done = step_of(a_round([[1.0], [4.0]]), weights="inverse_variance")
    assert set(done.notes) == {"s00", "s01"}
