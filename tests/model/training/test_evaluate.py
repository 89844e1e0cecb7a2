"""Prediction: probabilities of patients, not of photos."""

import numpy as np
import pytest
import torch

from face2bone_model.contract.study import ModelSettings
from face2bone_model.models.face2bone import build_model
from face2bone_model.training import evaluate
from face2bone_model.training.evaluate import predict

SMALL = ModelSettings(stem_width=16, branch_width=16, head_hidden=8)


@pytest.fixture
def model():
    return build_model(SMALL, seed=2)


def test_a_patient_gets_the_mean_of_the_softmax_of_each_photo(make_cohort, model):
    cohort = make_cohort([0, 1, 2], photos=[2, 1, 3])
    expected = []
    model.eval()
    for patient, rows in enumerate(cohort.photo_rows):
        clinical = torch.from_numpy(cohort.clinical[[patient]])
        photos = [
            model(torch.from_numpy(cohort.features_of(rows[[i]])).float(), clinical) for i in range(len(rows))
        ]
        expected.append(torch.cat(photos).detach().double().softmax(dim=1).mean(dim=0).numpy())
    probabilities = predict(model, cohort, device="cpu")
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


def test_probabilities_do_not_depend_on_how_many_photos_are_read_at_once(make_cohort, model, monkeypatch):
    cohort = make_cohort([0, 1, 2, 0, 1], photos=[1, 2, 3, 1, 2])
    whole = predict(model, cohort, device="cpu")
    monkeypatch.setattr(evaluate, "_PHOTOS_AT_ONCE", 2)
    np.testing.assert_allclose(predict(model, cohort, device="cpu"), whole, atol=1e-6)


def test_the_order_of_patients_is_kept(make_cohort, model):
    cohort = make_cohort([0, 1, 2, 0])
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(
        predict(model, cohort.take(order), device="cpu"),
        predict(model, cohort, device="cpu")[order],
        atol=1e-6,
    )


def test_prediction_is_without_dropout_and_leaves_the_mode_as_it_was(make_cohort, model):
    cohort = make_cohort([0, 1, 2])
    model.train()
    np.testing.assert_array_equal(predict(model, cohort, device="cpu"), predict(model, cohort, device="cpu"))
    assert model.training
    model.eval()
    predict(model, cohort, device="cpu")
    assert not model.training


def test_nobody_is_predicted_as_an_empty_table(make_cohort, model):
    assert predict(model, make_cohort([]), device="cpu").shape == (0, 3)
