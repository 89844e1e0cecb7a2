"""A round of local training without differential privacy."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from face2bone_model.contract.errors import CohortError, SettingsError
from face2bone_model.contract.study import ModelSettings, TrainingSettings
from face2bone_model.models.face2bone import build_model
from face2bone_model.training import train
from face2bone_model.training.batches import choose_photos, every_photo, pick_device, shuffled
from face2bone_model.training.evaluate import predict
from face2bone_model.training.loss import PatientLoss
from face2bone_model.training.train import BestWeights, train_round, training_mode, validation_loss

SMALL = ModelSettings(stem_width=16, branch_width=16, head_hidden=8)
SETTINGS = TrainingSettings(local_epochs=2, batch_size=4)


def small_model(**changes):
    return build_model(dataclasses.replace(SMALL, **changes), seed=1)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def run(cohort, *, seed, model=None, validation=None, settings=SETTINGS, **options):
    model = small_model() if model is None else model
    held_out = cohort.take(np.arange(0)) if validation is None else validation
    result = train_round(model, cohort, held_out, settings, seed=seed, device="cpu", **options)
    return model, result


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(make_cohort):
    cohort = make_cohort([0, 1, 2, 0, 1, 2, 0], photos=2)
    torch.manual_seed(1)
    (first, _), (again, _), (other, _) = (run(cohort, seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    assert any(not torch.equal(value, weights(other)[name]) for name, value in weights(first).items())


def test_a_round_leaves_the_global_random_state_as_it_was(make_cohort):
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    run(make_cohort([0, 1, 2]), seed=0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("loss", ["cross_entropy", "ordinal"])
def test_a_tiny_cohort_is_learned_by_heart(make_cohort, loss):
    cohort = make_cohort([0, 1, 2] * 4)
    settings = TrainingSettings(local_epochs=25, batch_size=6, learning_rate=3e-3, loss=loss)
    model, result = run(cohort, seed=0, model=small_model(dropout=0.0), settings=settings)
    assert (predict(model, cohort, device="cpu").argmax(axis=1) == cohort.labels).all()
    assert result.train_loss < 0.5


@pytest.mark.parametrize("inputs", ["clinical", "both"])
def test_clinical_inputs_are_trained_through_the_same_door(make_cohort, inputs):
    model, result = run(make_cohort([0, 1, 2]), seed=0, model=small_model(inputs=inputs))
    assert result.num_patients == 3
    assert np.isfinite(predict(model, make_cohort([0, 1]), device="cpu")).all()


def test_a_round_stops_after_patience_epochs_without_progress_and_keeps_the_best(make_cohort, monkeypatch):
    held_out = iter([1.0, 0.4, 0.6, 0.5, 0.1])
    kept = []

    def scripted(model, cohort, criterion):
        kept.append(weights(model))
        return next(held_out)

    monkeypatch.setattr(train, "validation_loss", scripted)
    cohort = make_cohort([0, 1, 2, 0])
    settings = TrainingSettings(local_epochs=5, patience=2, batch_size=4)
    model, result = run(cohort, seed=0, validation=cohort, settings=settings)
    assert result.epochs == 4
    assert all(torch.equal(value, kept[1][name]) for name, value in weights(model).items())


def test_without_validation_patients_every_epoch_runs_and_the_last_counts(make_cohort):
    settings = TrainingSettings(local_epochs=4, patience=1, batch_size=4)
    _, result = run(make_cohort([0, 1, 2, 0]), seed=0, settings=settings)
    assert result.epochs == 4


def test_best_weights_leave_frozen_tensors_alone():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(requires_grad=False)
    best = BestWeights(patience=1)
    assert not best.seen(1.0, model)
    assert set(best.weights) == {"1.weight", "1.bias"}


def test_an_epoch_sees_every_patient_once_by_one_photo(make_cohort):
    cohort = make_cohort([0, 1, 2, 0, 1], photos=[1, 3, 2, 1, 2])
    seen = []

    class Recording(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(1, 3)

        def forward(self, features, clinical):
            if self.training:
                seen.append(features[:, :, 0, 0].clone())
            return self.linear(features.mean((1, 2, 3))[:, None])

    run(cohort, seed=0, model=Recording(), settings=TrainingSettings(local_epochs=1, batch_size=2))
    shown = torch.cat(seen)
    owner = [
        patient
        for row in shown
        for patient, rows in enumerate(cohort.photo_rows)
        if any(np.array_equal(cohort.features[r, :, 0, 0].astype(np.float32), row.numpy()) for r in rows)
    ]
    assert sorted(owner) == [0, 1, 2, 3, 4]


def test_each_photo_of_a_patient_is_as_likely(make_cohort):
    cohort = make_cohort([0, 1, 2], photos=[1, 2, 3])
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(3), 3000)
    choice = choose_photos(cohort, patients, rng.random(len(patients)))
    for patient, count in enumerate([1, 2, 3]):
        shares = np.bincount(choice[patients == patient], minlength=3) / 3000
        np.testing.assert_allclose(shares[:count], 1 / count, atol=0.05)
        assert not shares[count:].any()


def test_batches_are_nearly_equal_and_hold_everyone_once():
    batches = list(shuffled(33, 16, np.random.default_rng(0)))
    assert sorted(len(batch) for batch in batches) == [11, 11, 11]
    assert sorted(np.concatenate(batches).tolist()) == list(range(33))


def test_every_photo_of_nobody_is_nothing(make_cohort):
    patients, choice = every_photo(make_cohort([]))
    assert patients.shape == choice.shape == (0,)


def test_class_weights_come_from_the_training_labels_unless_switched_off(make_cohort, monkeypatch):
    given = []
    build = train.PatientLoss
    monkeypatch.setattr(train, "PatientLoss", lambda kind, w=None: given.append(w) or build(kind, w))
    cohort = make_cohort([0, 0, 0, 1, 1, 2])
    for wanted in (True, False):
        run(cohort, seed=0, settings=dataclasses.replace(SETTINGS, class_weights=wanted))
    assert given[0][2] > given[0][1] > given[0][0]
    assert given[1] is None


def test_progress_is_told_after_each_epoch(make_cohort):
    cohort, seen = make_cohort([0, 1, 2, 0]), []
    run(cohort, seed=0, validation=cohort, on_epoch=seen.append)
    assert [(p.unit, p.done, p.total) for p in seen] == [("epoch", 1, 2), ("epoch", 2, 2)]
    assert all(p.train_loss > 0 and p.validation_loss > 0 for p in seen)
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(seen))


def test_validation_counts_patients_not_photos(make_cohort):
    cohort = make_cohort([0, 2], photos=[1, 3])
    model, criterion = small_model(), PatientLoss("cross_entropy")
    apart = [validation_loss(model, cohort.take(np.array([patient])), criterion) for patient in (0, 1)]
    assert validation_loss(model, cohort, criterion) == pytest.approx(np.mean(apart), rel=1e-5)
    assert validation_loss(model, cohort.take(np.arange(0)), criterion) is None


def test_statistics_of_frozen_batch_normalisation_do_not_move():
    frozen, free = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    frozen.requires_grad_(requires_grad=False)
    model = nn.Sequential(frozen, free)
    before = copy.deepcopy(frozen.state_dict())
    training_mode(model)
    model(torch.randn(8, 3) * 5 + 2)
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert free.running_mean.abs().max() > 0


def test_fine_tuning_trains_the_trunk_through_the_faces(make_cohort):
    cohort = make_cohort([0, 1], with_faces=True)
    model = build_model(dataclasses.replace(SMALL, trunk="finetune"), seed=0)
    before = weights(model)
    run(cohort, seed=0, model=model, settings=TrainingSettings(local_epochs=1, batch_size=2))
    moved = [name for name, value in weights(model).items() if not torch.equal(value, before[name])]
    assert any(name.startswith("trunk") for name in moved)
    assert any(name.startswith("head") for name in moved)


def test_a_site_without_training_patients_is_told(make_cohort):
    with pytest.raises(CohortError, match="no training patients"):
        run(make_cohort([]), seed=0)


def test_a_loss_that_is_no_number_stops_the_round(make_cohort):
    cohort = dataclasses.replace(make_cohort([0, 1]), clinical=np.full((2, 3), np.nan, np.float32))
    with pytest.raises(SettingsError, match="diverged"):
        run(cohort, seed=0, model=small_model(inputs="clinical"))


def test_a_device_that_is_not_here_is_named():
    assert pick_device("auto").type in {"cpu", "cuda"}
    with pytest.raises(SettingsError, match="toaster"):
        pick_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match="CUDA"):
            pick_device("cuda")


def test_gradients_are_freed_after_the_round(make_cohort):
    model, _ = run(make_cohort([0, 1, 2]), seed=0)
    assert all(parameter.grad is None for parameter in model.parameters())
