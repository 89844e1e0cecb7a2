"""AUC, its variance and its interval; ROC points."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics import discrimination
from face2bone_model.metrics.family import Predictions, Released
from face2bone_model.metrics.grid import grids

GRID = grids(EvaluationSettings())


def delong_by_pairs(own, others):
    """Variance of the AUC from the definition: means over all pairs, one patient at a time."""
    kernel = (own[:, None] > others) + (own[:, None] == others) / 2
    return kernel.mean(), kernel.mean(1).var(ddof=1) / len(own) + kernel.mean(0).var(ddof=1) / len(others)


def problem(seed, n=80, levels=None):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[[0, 0, 1, 1, 2, 2], rng.integers(0, 3, n - 6)])
    scores = rng.dirichlet([1, 1, 1], n) + np.eye(3)[labels] * rng.uniform(0, 1)
    scores /= scores.sum(axis=1, keepdims=True)
    if levels:
        whole = np.round(scores[:, 2] * levels) / levels
        scores = np.stack([1 - whole, np.zeros(n), whole], axis=1)
    return Predictions(probabilities=scores, labels=labels)


def released(family, *predictions):
    measured = [family.measure(each) for each in predictions]
    tables = {name: sum(each[name] for each in measured) for name in measured[0]}
    return Released(tables=tables, sites=len(predictions), withheld=0)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 4, 30]))
def test_mann_whitney_sums_hold_delongs_variance(seed, levels):
    predictions = problem(seed, levels=levels)
    own = predictions.labels == 2
    scores = predictions.probabilities[:, 2]
    auc, variance = delong_by_pairs(scores[own], scores[~own])
    pairs = own.sum() * (~own).sum()
    sums = discrimination.pair_family().measure(predictions)["sums"][2]
    expected = [auc * pairs, pairs, variance * pairs**2, pairs**2 / min(own.sum(), (~own).sum())]
    assert sums == pytest.approx(expected, rel=1e-9)
    assert (
        variance <= auc * (1 - auc) / (min(own.sum(), (~own).sum()) - 1) + 1e-12
    )  # Birnbaum and Klose, estimated


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_scores_on_the_grid_lose_nothing(seed):
    predictions = problem(seed, levels=15)
    own, scores = predictions.labels == 2, predictions.probabilities[:, 2]
    estimate = discrimination.auc(released(discrimination.score_family(GRID, 15), predictions), 2, 2)
    ranking = discrimination.rank(discrimination.score_family(GRID, 1020).measure(predictions)["counts"][2])
    auc, variance = delong_by_pairs(scores[own], scores[~own])
    assert ranking.auc == pytest.approx(auc, abs=1e-12)
    assert ranking.standard_error == pytest.approx(math.sqrt(variance), abs=1e-12)
    assert estimate.bound[0] - 1e-12 <= auc <= estimate.bound[1] + 1e-12


def test_coarser_bins_widen_bound_and_interval():
    predictions = problem(7, n=400)
    fine, coarse = (
        discrimination.auc(released(discrimination.score_family(GRID, bins), predictions), 2, 2)
        for bins in (1020, 5)
    )
    assert coarse.bound[0] < fine.bound[0] < fine.bound[1] < coarse.bound[1]
    assert coarse.low < fine.low < fine.high < coarse.high


def test_a_score_of_exactly_one_is_in_the_last_bin():
    assert GRID.index(np.array([0.0, 1.0]), 15).tolist() == [0, 14]
    perfect = Predictions(probabilities=np.eye(3)[[0, 1, 2]], labels=np.array([0, 1, 2]))
    counts = discrimination.score_family(GRID, 1020).measure(perfect)["counts"]
    assert counts[2, -1].tolist() == [0, 1]


def test_perfect_ranking_of_few_patients_is_not_certain():
    labels = np.array([0] * 20 + [1] * 20 + [2] * 10)
    perfect = Predictions(probabilities=np.eye(3)[labels], labels=labels)
    estimate = discrimination.auc(released(discrimination.score_family(GRID, 1020), perfect), 2, 2)
    within = discrimination.auc_within_site(released(discrimination.pair_family(), perfect), 2, 2)
    for each in (estimate, within):
        assert each.value == each.high == 1
        assert each.low == pytest.approx(10 / (10 + 1.959963984540054**2))


def test_one_patient_of_a_class_gives_a_wide_interval():
    predictions = Predictions(
        probabilities=np.array([[0.6, 0.2, 0.2], [0.5, 0.2, 0.3], [0.4, 0.35, 0.25]]),
        labels=np.array([0, 1, 2]),
    )
    estimate = discrimination.auc(released(discrimination.score_family(GRID, 1020), predictions), 2, 2)
    assert estimate.value == 0.5
    assert estimate.high - estimate.low > 0.75


def test_a_group_of_one_class_says_which():
    only = Predictions(probabilities=np.full((5, 3), 1 / 3), labels=np.full(5, 2))
    scores = released(discrimination.score_family(GRID, 255), only)
    assert discrimination.auc(scores, 2, 2).reason == "Every patient of this group has class 'osteoporosis'."
    assert discrimination.auc(scores, 0, 0).reason == "No patient with class 'normal' in this group."
    assert discrimination.macro_auc(scores).reason == "No patient with class 'normal' in this group."
    assert discrimination.roc_points(scores["counts"][2]) == ()


def test_sites_of_one_class_each_have_a_pooled_auc_but_no_within_site_auc():
    ill = Predictions(probabilities=np.tile([0.1, 0.1, 0.8], (4, 1)), labels=np.full(4, 2))
    well = Predictions(probabilities=np.tile([0.8, 0.1, 0.1], (6, 1)), labels=np.zeros(6, int))
    assert discrimination.auc(released(discrimination.score_family(GRID, 1020), ill, well), 2, 2).value == 1
    within = discrimination.auc_within_site(released(discrimination.pair_family(), ill, well), 2, 2)
    assert within.reason == "No site has both patients with and without this class in this group."


def test_roc_points_are_those_of_scikit_learn_on_binned_scores():
    predictions = problem(11, n=300)
    scores, own = predictions.probabilities[:, 2], predictions.labels == 2
    counts = discrimination.score_family(GRID, 255).measure(predictions)["counts"][2]
    points = discrimination.roc_points(counts)
    false_positive, true_positive, _ = roc_curve(own, GRID.index(scores, 255), drop_intermediate=False)
    theirs = {(round(x, 12), round(y, 12)) for x, y in zip(false_positive, true_positive, strict=True)}
    ours = [(point.false_positive_rate, point.true_positive_rate) for point in points]
    assert {(round(x, 12), round(y, 12)) for x, y in ours} <= theirs
    assert (ours[0], ours[-1]) == ((0, 0), (1, 1))
    for point in points[1:]:
        assert (scores[own] >= point.threshold - 1e-12).mean() == pytest.approx(point.true_positive_rate)
    area = np.trapezoid([y for _, y in ours], [x for x, _ in ours])
    assert area == pytest.approx(roc_auc_score(own, GRID.index(scores, 255)))


def test_the_macro_standard_error_is_the_widest_the_three_allow():
    predictions = problem(5, n=200)
    scores = released(discrimination.score_family(GRID, 1020), predictions)
    macro = discrimination.macro_auc(scores)
    errors = [discrimination.rank(counts).standard_error for counts in scores["counts"]]
    low, high = discrimination.auc_interval(macro.bound[0], np.mean(errors), 1)
    assert macro.low == pytest.approx(low)
    assert macro.high > high
