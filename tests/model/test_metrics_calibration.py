"""ECE, its null band and interval, O/E and reliability points."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from face2bone_model.contract.errors import SettingsError
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics import calibration
from face2bone_model.metrics.estimate import wilson_interval
from face2bone_model.metrics.family import Predictions, Released
from face2bone_model.metrics.grid import grids

GRID = grids(EvaluationSettings())


def draw(n, sharpness=1.0, seed=0):
    """Labels drawn from the probabilities; `sharpness` other than 1 distorts what is then claimed."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet([1, 1, 1], n)
    labels = (rng.random(n)[:, None] > true.cumsum(axis=1)).sum(axis=1)
    claimed = true**sharpness / (true**sharpness).sum(axis=1, keepdims=True)
    return Predictions(probabilities=claimed, labels=labels)


def top_label(predictions, bins=15):
    tables = calibration.top_label_family(GRID, bins).measure(predictions)
    released = Released(tables=tables, sites=1, withheld=0)
    return released, calibration.top_label_bins(released)


def of_class(predictions, k, bins=15):
    tables = calibration.class_family(GRID, bins).measure(predictions)
    released = Released(tables=tables, sites=1, withheld=0)
    return released, calibration.class_bins(released, k)


@pytest.mark.parametrize("seed", range(5))
def test_top_label_ece_is_that_of_torchmetrics(seed):
    predictions = draw(500, sharpness=2.0, seed=seed)
    expected = multiclass_calibration_error(
        torch.tensor(predictions.probabilities), torch.tensor(predictions.labels), num_classes=3, n_bins=15
    )
    assert calibration.ece(*top_label(predictions), "top label")[0].value == pytest.approx(
        float(expected), abs=1e-6
    )


def test_a_confidence_of_exactly_one_counts_in_the_last_bin():
    probabilities = np.array([[1.0, 0, 0]] * 4 + [[0.95, 0.05, 0]] * 4)
    labels = np.array([0, 0, 1, 1, 0, 0, 0, 0])
    estimate, _ = calibration.ece(
        *top_label(Predictions(probabilities=probabilities, labels=labels)), "top label"
    )
    assert estimate.value == pytest.approx(abs(6 / 8 - 7.8 / 8))  # one bin; apart it would be 0.275


@pytest.mark.parametrize(
    ("n", "mean", "high"), [(100, 0.108, 0.155), (1000, 0.034, 0.048), (5000, 0.015, 0.0215)]
)
def test_the_null_band_is_what_perfect_models_show(n, mean, high):
    """Means and 97.5 % points measured for this project on other perfect models: agreement to 15 %."""
    _, null = calibration.ece(*top_label(draw(n)), "top label")
    shown = [top_label(draw(n, seed=seed))[1].error for seed in range(300)]
    assert null.value == pytest.approx(np.mean(shown), rel=0.1)
    assert null.high == pytest.approx(np.quantile(shown, 0.975), rel=0.1)
    assert null.value == pytest.approx(mean, rel=0.25)
    assert null.high == pytest.approx(high, rel=0.25)


def test_a_perfect_model_has_an_interval_from_zero_and_an_overconfident_one_has_not():
    perfect, null = calibration.ece(*top_label(draw(2000)), "top label")
    assert perfect.low == 0
    assert null.low < perfect.value < null.high
    overconfident, null = calibration.ece(*top_label(draw(2000, sharpness=3.0)), "top label")
    assert overconfident.low > 0
    assert overconfident.value > null.high


def test_the_standard_error_of_ece_is_that_of_its_terms():
    released, bins = of_class(draw(800, sharpness=3.0), 2)
    estimate, _ = calibration.ece(released, bins, "osteoporosis")
    mean = bins.probability_sum / bins.counts.sum(axis=1)
    sign = np.sign(bins.probability_sum - bins.counts[:, 1])
    terms = np.concatenate(
        [np.repeat(sign[b] * (mean[b] - y), bins.counts[b, y]) for b in range(15) for y in (0, 1)]
    )
    assert terms.mean() == pytest.approx(estimate.value)
    half = 1.959963984540054 * terms.std() / math.sqrt(len(terms))
    assert estimate.high - estimate.value == pytest.approx(half)


def test_observed_over_expected_has_a_log_scale_interval():
    predictions = draw(300)
    released, bins = of_class(predictions, 2, bins=1)
    estimate = calibration.observed_expected(released, bins, 2)
    observed = (predictions.labels == 2).sum()
    assert estimate.value == pytest.approx(observed / predictions.probabilities[:, 2].sum())
    error = math.sqrt(1 / observed - 1 / 300)
    assert math.log(estimate.high / estimate.low) == pytest.approx(2 * 1.959963984540054 * error)


def test_reliability_points_are_bins_with_patients():
    predictions = draw(60)
    points = calibration.reliability_points(top_label(predictions)[1])
    assert sum(point.n for point in points) == 60
    assert [point.predicted for point in points] == sorted(point.predicted for point in points)
    for point in points:
        assert (point.low, point.high) == wilson_interval(round(point.observed * point.n), point.n)
    confidence = sum(point.predicted * point.n for point in points)
    assert confidence == pytest.approx(predictions.probabilities.max(axis=1).sum())


def test_no_patient_gives_reasons_and_no_points():
    nobody = Predictions(probabilities=np.zeros((0, 3)), labels=np.zeros(0, int))
    released, bins = of_class(nobody, 2)
    for estimate in (*calibration.ece(released, bins, "x"), calibration.observed_expected(released, bins, 2)):
        assert math.isnan(estimate.value)
        assert estimate.reason
    assert calibration.reliability_points(bins) == ()


@pytest.mark.parametrize("bins", [2, 7, 12, 15, 16])
def test_every_grid_is_a_union_of_the_finer_ones(bins):
    grid = grids(EvaluationSettings(calibration_bins=bins, score_bins=100))
    chain = (grid.scores, grid.subgroup_scores, *grid.calibration)
    scores = np.concatenate([np.random.default_rng(0).random(2000), np.arange(grid.scores + 1) / grid.scores])
    assert chain[0] >= 100
    assert chain[-1] == 1
    for fine, coarse in pairwise(chain):
        assert fine % coarse == 0
        assert np.array_equal(grid.index(scores, fine) // (fine // coarse), grid.index(scores, coarse))


def test_a_grid_of_one_bin_is_refused():
    with pytest.raises(SettingsError, match="2 or more"):
        grids(EvaluationSettings(calibration_bins=1))
