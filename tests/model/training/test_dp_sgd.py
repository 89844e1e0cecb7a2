"""The mechanism: who is drawn, what a patient can change, and what noise is added."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from face2bone_model.contract.errors import SettingsError
from face2bone_model.contract.study import ModelSettings, PrivacySettings, TrainingSettings
from face2bone_model.models.face2bone import build_model
from face2bone_model.training import dp_sgd
from face2bone_model.training.dp_sgd import clipped_sum, descend_privately, draw_patients
from face2bone_model.training.loss import PatientLoss, class_weights
from face2bone_model.training.patient_gradients import Outer, Stacked, norms, recorded
from face2bone_model.training.privacy import DpPlan, plan_privacy
from face2bone_model.training.train import train_round

SMALL = ModelSettings(stem_width=16, branch_width=16, head_hidden=8, dropout=0.0)
TRAINING = TrainingSettings(rounds=2)
SILENT = 1e-9
"""Noise multiplier too small to matter: what is left is the clipped mean."""


def plan(**changes):
    terms = {
        "noise_multiplier": SILENT,
        "sample_rate": 1.0,
        "steps_per_round": 1,
        "max_grad_norm": 0.5,
        "expected_batch_size": 4,
        "learning_rate": 1.0,
    }
    return DpPlan(**(terms | changes))


def small_model(seed=0):
    return build_model(SMALL, seed=seed).train()


def vector(model):
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).double()


def movement(cohort, terms, start=None):
    """What one or more private steps added to the weights."""
    model = copy.deepcopy(start) if start is not None else small_model()
    before = vector(model)
    descend_privately(model, cohort, terms, PatientLoss("cross_entropy"), lambda *_: None)
    return vector(model) - before


def test_each_patient_is_drawn_independently_with_the_sample_rate():
    draws = np.zeros((2000, 40), dtype=bool)
    for draw in draws:
        draw[draw_patients(40, 0.3)] = True
    sizes = draws.sum(axis=1)
    assert sizes.mean() == pytest.approx(12, abs=5 * np.sqrt(8.4 / 2000))
    assert sizes.var() == pytest.approx(40 * 0.3 * 0.7, rel=0.2)
    assert stats.binomtest(int(draws.sum()), draws.size, 0.3).pvalue > 1e-6
    pairs = np.corrcoef(draws.T)[np.triu_indices(40, 1)]
    assert np.abs(pairs).max() < 6 / np.sqrt(2000)


def test_everyone_is_drawn_at_rate_one():
    np.testing.assert_array_equal(draw_patients(9, 1.0), np.arange(9))


def test_a_step_is_the_mean_of_clipped_gradients_over_the_public_batch_size(make_cohort):
    cohort = make_cohort([0, 1, 2])
    model = small_model()
    expected = torch.zeros(len(vector(model)), dtype=torch.float64)
    for patient in range(3):
        features, clinical, labels = (torch.from_numpy(a) for a in cohort.batch([patient], [0]))
        features = features.float()
        loss = PatientLoss("cross_entropy")(model(features, clinical), labels).sum()
        gradient = torch.cat(
            [g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]
        ).double()
        expected -= gradient * min(1.0, 0.5 / float(gradient.norm())) / 4
    torch.testing.assert_close(movement(cohort, plan(), model), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("photos", [1, 2, 3])
def test_a_patient_changes_the_clipped_sum_by_at_most_the_norm_however_many_photos(make_cohort, photos):
    """With the others' photos fixed, the sums with and without the patient differ by at most max_grad_norm."""
    cohort = make_cohort([0, 1, 2, 2], photos=[1, 1, 1, photos], signal=50.0)
    start = small_model()
    with_patient = movement(cohort, plan(), start) * 4
    without = movement(cohort.take(np.arange(3)), plan(), start) * 4
    assert 0 < float((with_patient - without).norm()) <= 0.5 * (1 + 1e-4)


def test_portions_that_fit_into_memory_give_the_same_step(make_cohort):
    cohort = make_cohort([0, 1, 2, 0, 1])
    whole, portions = (movement(cohort, plan(physical_batch_size=size)) for size in (16, 2))
    torch.testing.assert_close(whole, portions, rtol=1e-4, atol=1e-7)


def test_the_noise_has_the_planned_deviation_and_an_empty_draw_is_noise_alone(make_cohort):
    nobody = plan(noise_multiplier=3.0, sample_rate=0.0, learning_rate=0.1)
    noise = movement(make_cohort([0, 1]), nobody) / (0.1 * 3.0 * 0.5 / 4)
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-6


def test_the_same_seed_does_not_repeat_the_noise_nor_do_two_sites_share_it(make_cohort):
    cohort = make_cohort([0, 1, 2, 0])
    privacy = plan_privacy(PrivacySettings(expected_batch_size=4, steps_per_round=1), 4, TRAINING)
    moved = []
    for _ in range(3):
        model = small_model()
        before = vector(model)
        train_round(model, cohort, cohort.take(np.arange(0)), TRAINING, seed=11, privacy=privacy)
        moved.append(vector(model) - before)
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        cosine = torch.nn.functional.cosine_similarity(moved[one], moved[other], dim=0)
        assert float(cosine) < 0.5  # noise dominates; equal noise would give 1


def test_the_model_leaves_as_it_came_but_for_its_weights(make_cohort):
    model = small_model()
    names = list(model.state_dict())
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()]
    movement_plan = plan(steps_per_round=2)
    descend_privately(model, make_cohort([0, 1, 2]), movement_plan, PatientLoss("ordinal"), lambda *_: None)
    assert list(model.state_dict()) == names
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()] == hooks
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not vars(parameter), "no gradient of a single patient stays in memory"


def test_private_and_plain_rounds_alternate_on_one_model(make_cohort):
    model, cohort = small_model(), make_cohort([0, 1, 2, 0, 1, 2])
    privacy = plan_privacy(PrivacySettings(expected_batch_size=4), 6, TRAINING)
    for terms in (privacy, None, privacy, None):
        before = vector(model)
        result = train_round(model, cohort, cohort, TRAINING, seed=0, privacy=terms)
        assert result.segment == (terms.segment if terms else None)
        assert not torch.equal(vector(model), before)


def test_a_private_round_reports_steps_but_returns_no_loss(make_cohort):
    seen = []
    privacy = plan(steps_per_round=3, noise_multiplier=1.0)
    result = train_round(
        small_model(), make_cohort([0, 1, 2]), make_cohort([0]), TRAINING, seed=0, privacy=privacy,
        on_epoch=seen.append,
    )  # fmt: skip
    assert [(progress.unit, progress.done, progress.total) for progress in seen] == [
        ("step", 1, 3), ("step", 2, 3), ("step", 3, 3),
    ]  # fmt: skip
    assert all(progress.validation_loss is None for progress in seen)
    assert result.train_loss == 0
    assert result.segment is not None
    assert result.segment.steps == 3


def test_the_head_alone_can_be_trained_and_everything_is_trainable_again_afterwards(make_cohort):
    model = small_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    terms = plan(trains="head", noise_multiplier=1.0)
    descend_privately(model, make_cohort([0, 1, 2]), terms, PatientLoss("cross_entropy"), lambda *_: None)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad
        assert torch.equal(parameter, before[name]) != name.startswith("head."), name


def test_a_model_without_a_head_cannot_train_it_alone(make_cohort):
    with pytest.raises(SettingsError, match="head"):
        descend_privately(
            nn.Linear(2, 3),
            make_cohort([0]),
            plan(trains="head"),
            PatientLoss("cross_entropy"),
            lambda *_: None,
        )


def test_fine_tuning_is_refused_under_differential_privacy(make_cohort):
    model = build_model(ModelSettings(trunk="finetune", stem_width=16, branch_width=16), seed=0)
    with pytest.raises(SettingsError, match="finetune"):
        train_round(model, make_cohort([0, 1]), make_cohort([0]), TRAINING, seed=0, privacy=plan())


@pytest.mark.parametrize("affine", [True, False], ids=["with weights", "without weights"])
def test_a_layer_with_statistics_of_the_batch_is_refused(make_cohort, affine):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=affine))
    with pytest.raises(SettingsError, match="BatchNorm"):
        descend_privately(model, make_cohort([0]), plan(), PatientLoss("cross_entropy"), lambda *_: None)


def test_class_weights_counted_from_the_patients_are_refused(make_cohort):
    cohort = make_cohort([0, 0, 0, 2])
    weighted = PatientLoss("cross_entropy", class_weights(cohort.labels))
    with pytest.raises(SettingsError, match="labels"):
        descend_privately(small_model(), cohort, plan(), weighted, lambda *_: None)


def test_a_private_round_weights_no_class_whatever_the_study_says(make_cohort):
    """The step of a cohort with one rare class is the mean of unweighted clipped gradients."""
    cohort = make_cohort([0, 0, 0, 2], signal=50.0)
    start = small_model()
    expected = movement(cohort, plan(), start)
    model = copy.deepcopy(start)
    weighted = TrainingSettings(class_weights=True)
    train_round(model, cohort, cohort, weighted, seed=0, privacy=plan())
    torch.testing.assert_close(vector(model) - vector(start), expected, rtol=1e-4, atol=1e-6)
    assert not np.allclose(class_weights(cohort.labels), 1), "there is something to ignore"


def test_a_private_round_never_looks_at_the_validation_patients(make_cohort):
    """Nothing can be read from them, so nothing can have been decided by them."""
    unreadable = object()
    impatient = TrainingSettings(patience=1)
    privacy = plan(steps_per_round=3, noise_multiplier=1.0)
    result = train_round(small_model(), make_cohort([0, 1]), unreadable, impatient, seed=0, privacy=privacy)
    assert result.segment == privacy.segment


def test_an_error_in_the_middle_leaves_no_hooks_behind(make_cohort):
    model = small_model()

    def fail(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descend_privately(model, make_cohort([0, 1]), plan(), PatientLoss("cross_entropy"), fail)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_weights_that_are_no_longer_numbers_are_reported(make_cohort):
    cohort, runaway = make_cohort([0, 1]), plan(noise_multiplier=100.0, learning_rate=1e38)
    with pytest.raises(SettingsError, match="diverged"):
        train_round(small_model(), cohort, cohort, TRAINING, seed=0, privacy=runaway)


@pytest.mark.parametrize("trains", ["head", "all"])
@pytest.mark.parametrize("bound", [0.01, 1.0, 100.0])
def test_the_clipped_sum_of_the_default_model_is_the_one_a_loop_finds(make_cohort, trains, bound):
    """Linear maps of one vector a patient go by outer products, all others by gradients laid out: `all` has both."""
    model = build_model(dataclasses.replace(ModelSettings(), dropout=0.0), seed=0).train()
    names = [name for name, _ in model.named_parameters() if trains == "all" or name.startswith("head.")]
    trained = [dict(model.named_parameters())[name] for name in names]
    features, clinical, labels = (
        torch.from_numpy(a) for a in make_cohort([0, 1, 2, 1, 0]).batch(np.arange(5), [0] * 5)
    )
    criterion = PatientLoss("cross_entropy")
    expected = torch.zeros(sum(tensor.numel() for tensor in trained))
    for one in range(5):
        row = slice(one, one + 1)
        loss = criterion(model(features[row].float(), clinical[row]), labels[row]).sum()
        gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, trained)])
        expected += gradient * min(1.0, bound / float(gradient.norm()))
    with recorded(model, frozenset(names)) as recorder:
        gradients = recorder.gradients(criterion(model(features.float(), clinical), labels))
        assert {type(gradient) for gradient in gradients.values()} == {Outer, Stacked}
        sums = clipped_sum(gradients, bound)
    found = torch.cat([sums[name].reshape(-1) for name in names])
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


@given(st.integers(1, 6), st.floats(1e-3, 1e3), st.floats(1e-6, 1e6), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_patient_adds_more_than_the_bound(patients, bound, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = {"left": (patients, 4), "right": (patients, 5), "stack": (patients, 3, 2)}
    parts = {name: scale * torch.randn(shape, generator=generator) for name, shape in drawn.items()}
    gradients = {"map": Outer(parts["left"], parts["right"]), "table": Stacked(parts["stack"])}
    for patient in range(patients):
        alone = {name: gradient.take(torch.tensor([patient])) for name, gradient in gradients.items()}
        added = torch.cat([tensor.reshape(-1) for tensor in clipped_sum(alone, bound).values()])
        assert float(added.norm()) <= bound * (1 + 1e-5)
    whole = clipped_sum(gradients, bound)
    assert float(torch.cat([tensor.reshape(-1) for tensor in whole.values()]).norm()) <= patients * bound * (
        1 + 1e-5
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_patient_whose_gradient_is_not_a_number_does_not_undo_the_others(bad):
    left, stack = torch.rand(3, 2), torch.rand(3, 4)
    good = {"map": Outer(left[:2], left[:2]), "table": Stacked(stack[:2])}
    spoilt_left, spoilt_stack = left.clone(), stack.clone()
    spoilt_left[2], spoilt_stack[2] = bad, bad
    spoilt = {"map": Outer(spoilt_left, spoilt_left), "table": Stacked(spoilt_stack)}
    assert not bool(norms(spoilt).isfinite().all())
    for name, total in clipped_sum(spoilt, 0.5).items():
        torch.testing.assert_close(total, clipped_sum(good, 0.5)[name])


def test_a_large_model_is_held_in_smaller_portions(make_cohort, monkeypatch):
    """Memory, not the plan, then decides how many patients are seen at once; the step is the same."""
    cohort, seen = make_cohort([0, 1, 2, 0, 1]), []
    start = small_model()
    expected = movement(cohort, plan(), start)
    monkeypatch.setattr(dp_sgd, "_MOST_NUMBERS", 2 * len(vector(start)))
    monkeypatch.setattr(dp_sgd, "clipped_sum", lambda g, c: seen.append(len(norms(g))) or clipped_sum(g, c))
    torch.testing.assert_close(movement(cohort, plan(), start), expected, rtol=1e-4, atol=1e-7)
    assert seen == [2, 2, 1]
