"""The losses against their definitions, written out by hand in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.training.loss import WEIGHT_BOUNDS, PatientLoss, class_weights, cross_entropy, ordinal

LOGITS = st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=6)
LABELS = st.lists(st.integers(0, 2), min_size=1, max_size=60)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@given(LOGITS, st.integers(0, 2))
def test_cross_entropy_is_the_negative_log_probability_of_the_true_class(logits, label):
    z = np.array(logits)
    expected = -np.log(softmax(z)[:, label])
    got = cross_entropy(torch.from_numpy(z), torch.full((len(z),), label))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)


@given(LOGITS, st.integers(0, 2))
def test_the_ordinal_loss_is_the_sum_of_two_binary_log_scores(logits, label):
    z = np.array(logits)
    p = softmax(z)
    expected = np.zeros(len(z))
    for k in (1, 2):
        reached = p[:, k:].sum(axis=1)
        expected -= np.log(reached if label >= k else 1 - reached)
    got = ordinal(torch.from_numpy(z), torch.full((len(z),), label))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-7, atol=1e-9)


def test_the_ordinal_loss_punishes_a_miss_by_two_classes_more_than_by_one():
    sure_of_normal = torch.tensor([[6.0, 0.0, 0.0]])
    losses = [float(ordinal(sure_of_normal, torch.tensor([label]))) for label in range(3)]
    assert losses[0] < losses[1] < losses[2]
    plain = [float(cross_entropy(sure_of_normal, torch.tensor([label]))) for label in range(3)]
    assert plain[1] == plain[2]


def test_the_ordinal_loss_is_least_in_expectation_at_the_true_distribution():
    truth = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def expected_loss():
        optimizer.zero_grad()
        loss = sum(truth[k] * ordinal(logits, torch.tensor([k]))[0] for k in range(3))
        loss.backward()
        return loss

    optimizer.step(expected_loss)
    torch.testing.assert_close(torch.softmax(logits.detach(), dim=1)[0], truth, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["cross_entropy", "ordinal"])
def test_extreme_logits_give_finite_losses_and_gradients(kind):
    logits = torch.tensor([[90.0, -90.0, 0.0], [-90.0, 0.0, 90.0]], requires_grad=True)
    loss = PatientLoss(kind)(logits, torch.tensor([2, 0])).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@given(LABELS)
def test_class_weights_have_mean_one_over_patients_and_a_bounded_ratio(labels):
    labels = np.array(labels)
    weights = class_weights(labels)
    assert weights[labels].mean() == pytest.approx(1)
    assert weights.max() / weights.min() <= WEIGHT_BOUNDS[1] / WEIGHT_BOUNDS[0] + 1e-9


def test_class_weights_balance_the_classes_where_no_bound_is_reached():
    labels = np.repeat([0, 1, 2], [40, 40, 20])
    weights = class_weights(labels)
    np.testing.assert_allclose(weights, [5 / 6, 5 / 6, 5 / 3])
    np.testing.assert_allclose(weights * np.bincount(labels), 100 / 3)


def test_a_class_nobody_has_does_not_disturb_the_others():
    assert np.isfinite(class_weights(np.array([0, 0, 1, 1]))).all()
    np.testing.assert_allclose(class_weights(np.array([0, 0, 1, 1]))[:2], 1)


def test_patient_loss_multiplies_each_patient_by_the_weight_of_its_class():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 0])
    weights = np.array([0.5, 1.0, 2.0])
    plain = PatientLoss("cross_entropy")(logits, labels)
    weighted = PatientLoss("cross_entropy", weights)(logits, labels)
    torch.testing.assert_close(weighted, plain * torch.tensor([0.5, 1.0, 2.0, 2.0, 0.5]))
