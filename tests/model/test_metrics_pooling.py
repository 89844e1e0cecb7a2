"""Figures from the sum of sites' sums equal the same figures computed on all patients in one place."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from face2bone_model.contract.keys import CLASSES
from face2bone_model.contract.statistics import check_statistics
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics import calibration, classification
from face2bone_model.metrics.evaluation import (
    evaluation_schema,
    evaluation_update,
    validation_schema,
    validation_update,
)
from face2bone_model.metrics.subgroup import groups, membership
from face2bone_model.metrics.summary import evaluation_report, validation_summary

STUDY = EvaluationSettings()


@pytest.fixture(autouse=True, scope="module")
def few_draws():
    """Values are compared here; intervals have their own tests, and simulating them takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "DRAWS", 10)
        patch.setattr(classification, "DRAWS", 10)
        yield


TOLERANCE = 1e-8
LABELS = [0, 1, 2]
COMPARED = {"all", "sex:female", "age:80+"}  # scikit-learn takes the time; groups are handled alike


def draw_site(rng, n, prevalence, ties, skill):
    labels = rng.choice(3, n, p=prevalence)
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if ties:  # eighths, with exact 0 and exact 1 among them
        first = rng.integers(0, 9, n)
        second = rng.integers(0, 9 - first)
        probabilities = np.stack([first, second, 8 - first - second], axis=1) / 8
    return probabilities, labels, rng.random(n) < 0.7, rng.integers(45, 90, n)


@st.composite
def federations(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(0, 120), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) > 0))
    one_class = draw(st.booleans())
    sites = []
    for i, n in enumerate(sizes):
        prevalence = np.eye(3)[rng.integers(3)] if one_class and i % 2 else rng.dirichlet([2, 2, 1])
        sites.append(draw_site(rng, n, prevalence, draw(st.booleans()), draw(st.floats(0, 4))))
    return sites


def pooled(sites):
    total = None
    for site in sites:
        statistics = evaluation_update(STUDY, *site)
        check_statistics(statistics, evaluation_schema(STUDY))
        total = statistics if total is None else total + statistics
    return evaluation_report(total, STUDY)


def expected_calibration_error(confidence, came_true, bins=15):
    edges = np.minimum(np.floor(np.round(confidence * bins, 12)), bins - 1)
    gaps = [np.abs((confidence - came_true)[edges == b].sum()) for b in range(bins)]
    return sum(gaps) / len(confidence)


def assert_same(estimate, value, what):
    if value is None:
        assert math.isnan(estimate.value), what
        assert estimate.reason, what
    else:
        assert estimate.value == pytest.approx(value, abs=TOLERANCE), what
        if not math.isnan(estimate.low):
            assert estimate.low - 1e-12 <= estimate.value <= estimate.high + 1e-12, what


def expected_classification(labels, called):
    present = np.bincount(labels, minlength=3) > 0
    seen = np.bincount(called, minlength=3) > 0
    options = {"labels": LABELS, "zero_division": 0}
    by_class = reference.precision_recall_fscore_support(labels, called, **options)
    macro = reference.precision_recall_fscore_support(labels, called, average="macro", **options)
    weighted = reference.precision_recall_fscore_support(labels, called, average="weighted", **options)
    values = {"accuracy": reference.accuracy_score(labels, called)}
    for i, name in enumerate(("precision", "recall", "f1")):
        for k, label in enumerate(CLASSES):
            defined = seen[k] if name == "precision" else present[k]
            values[f"{name}:{label}"] = by_class[i][k] if defined else None
        values[f"{name}:macro"] = macro[i] if present.all() else None
        values[f"{name}:weighted"] = weighted[i]
    rest = labels != 2
    values["specificity:osteoporosis"] = float((called != 2)[rest].mean()) if rest.any() else None
    return values


def probabilistic(probabilities, labels):
    truth = np.eye(3)[labels]
    values = {
        "brier": reference.brier_score_loss(truth, probabilities, scale_by_half=False),
        "brier:osteoporosis": np.mean((probabilities[:, 2] - truth[:, 2]) ** 2),
        "log_loss": reference.log_loss(labels, probabilities, labels=LABELS),
        "ece:top_label": expected_calibration_error(
            probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        ),
    }
    for k, name in enumerate(CLASSES):
        values[f"ece:{name}"] = expected_calibration_error(probabilities[:, k], truth[:, k])
        defined = truth[:, k].any() and probabilities[:, k].any()
        values[f"oe:{name}"] = truth[:, k].sum() / probabilities[:, k].sum() if defined else None
    return values


QUICK = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MANY = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_exact_figures_are_those_of_all_patients(report, sites):
    probabilities, labels, female, ages = (np.concatenate(columns) for columns in zip(*sites, strict=True))
    members = membership(STUDY, female, ages)
    for group, rows in zip(groups(STUDY), members, strict=True):
        if group not in COMPARED:
            continue
        summary = report.groups[group]
        assert summary.n == rows.sum()
        if not rows.any():
            assert all(math.isnan(estimate.value) for estimate in summary.metrics.values())
            continue
        scores, truth = probabilities[rows], labels[rows]
        called = scores.argmax(axis=1)
        assert np.array_equal(summary.confusion, reference.confusion_matrix(truth, called, labels=LABELS))
        assert summary.n_by_class == tuple(np.bincount(truth, minlength=3))
        for name, value in (expected_classification(truth, called) | probabilistic(scores, truth)).items():
            assert_same(summary.metrics[name], value, f"{group} {name}")


def assert_bounds_contain_the_auc_of_all_patients(report, sites):
    probabilities, labels, female, ages = (np.concatenate(columns) for columns in zip(*sites, strict=True))
    for group, rows in zip(groups(STUDY), membership(STUDY, female, ages), strict=True):
        if group not in COMPARED:
            continue
        aucs = []
        for k, name in enumerate(CLASSES):
            estimate, own = report.groups[group].metrics[f"auc:{name}"], labels[rows] == k
            if not own.any() or own.all():
                assert math.isnan(estimate.value)
                assert estimate.reason
                continue
            aucs.append(reference.roc_auc_score(own, probabilities[rows, k]))
            low, high = estimate.bound
            assert low - 1e-12 <= aucs[-1] <= high + 1e-12
            assert estimate.low <= low
            assert high <= estimate.high
        macro = report.groups[group].metrics["auc:macro"]
        if len(aucs) == 3:
            assert macro.bound[0] - 1e-12 <= np.mean(aucs) <= macro.bound[1] + 1e-12
        else:
            assert math.isnan(macro.value)


@QUICK
@given(federations())
def test_every_exact_figure_of_every_group_equals_the_one_on_all_patients(sites):
    assert_exact_figures_are_those_of_all_patients(pooled(sites), sites)


@QUICK
@given(federations())
def test_the_bound_always_contains_the_auc_of_all_patients(sites):
    assert_bounds_contain_the_auc_of_all_patients(pooled(sites), sites)


@pytest.mark.slow
@MANY
@given(federations())
def test_five_hundred_federations_pool_exactly_and_within_their_bounds(sites):
    report = pooled(sites)
    assert_exact_figures_are_those_of_all_patients(report, sites)
    assert_bounds_contain_the_auc_of_all_patients(report, sites)


@QUICK
@given(federations())
def test_the_within_site_auc_counts_the_pairs_of_each_site(sites):
    metrics = pooled(sites).groups["all"].metrics
    for k, name in enumerate(CLASSES):
        concordant = pairs = 0.0
        for probabilities, labels, _, _ in sites:
            own, others = probabilities[labels == k, k], probabilities[labels != k, k]
            difference = own[:, None] - others[None, :]
            concordant += (difference > 0).sum() + (difference == 0).sum() / 2
            pairs += difference.size
        assert_same(metrics[f"auc_within_site:{name}"], concordant / pairs if pairs else None, name)


def test_a_bound_of_a_thousand_bins_is_narrower_than_two_thousandths():
    rng = np.random.default_rng(3)
    sites = [draw_site(rng, 300, [0.4, 0.4, 0.2], ties=False, skill=1.5) for _ in range(3)]
    for name in CLASSES:
        low, high = pooled(sites).groups["all"].metrics[f"auc:{name}"].bound
        assert high - low < 0.002


def test_the_learning_curve_is_the_loss_of_all_validation_patients():
    rng = np.random.default_rng(4)
    sites = [draw_site(rng, n, [0.4, 0.4, 0.2], ties=False, skill=1.0)[:2] for n in (40, 90)]
    first, second = (validation_update(STUDY, *site) for site in sites)
    check_statistics(first, validation_schema(STUDY))
    summary = validation_summary(first + second, STUDY)
    probabilities, labels = (np.concatenate(columns) for columns in zip(*sites, strict=True))
    assert (summary.sites, summary.n) == (2, 130)
    assert summary.loss.value == pytest.approx(reference.log_loss(labels, probabilities), abs=TOLERANCE)
    own = labels == 2
    assert summary.auc.bound[0] <= reference.roc_auc_score(own, probabilities[:, 2]) <= summary.auc.bound[1]
    assert summary.auc_within_site.value == pytest.approx(summary.auc.value, abs=0.05)
