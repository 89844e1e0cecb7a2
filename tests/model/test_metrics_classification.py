"""Accuracy, precision, recall and F1: reasons where there is no value, and sensible intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from face2bone_model.metrics import classification
from face2bone_model.metrics.estimate import logit_interval, normal_interval, wilson_interval
from face2bone_model.metrics.family import Predictions, Released


def released(family, labels, called, **options):
    predictions = Predictions(probabilities=np.eye(3)[called], labels=np.asarray(labels))
    return Released(tables=family.measure(predictions), **({"sites": 1, "withheld": 0} | options))


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_score_test_rejects_exactly_outside_wilsons_interval(counts):
    successes, trials = counts
    share = successes / trials
    for end in wilson_interval(successes, trials):
        if 0 < end < 1 and end != share:
            z = abs(share - end) / math.sqrt(end * (1 - end) / trials)
            assert z == pytest.approx(norm.ppf(0.975), rel=1e-9)


def test_wilson_has_width_without_an_error():
    low, high = wilson_interval(30, 30)
    assert high == 1
    assert low == pytest.approx(30 / (30 + norm.ppf(0.975) ** 2))


def test_the_mean_interval_is_that_of_the_sample_variance():
    terms = np.random.default_rng(0).exponential(size=50)
    half = norm.ppf(0.975) * terms.std(ddof=1) / math.sqrt(50)
    expected = terms.mean() - half, terms.mean() + half
    assert normal_interval(terms.sum(), (terms**2).sum(), 50) == pytest.approx(expected)
    assert math.isnan(normal_interval(1.0, 1.0, 1)[0])


def test_the_logit_interval_stays_inside_zero_and_one():
    low, high = logit_interval(0.98, 0.02)
    assert 0 < low < 0.98 < high < 1
    assert math.log(0.98 / 0.02) - math.log(low / (1 - low)) == pytest.approx(
        norm.ppf(0.975) * 0.02 / (0.98 * 0.02)
    )


def test_a_class_nobody_has_gives_a_reason_and_no_recall():
    recalls = classification.recalls(released(classification.RECALL, [0, 0, 1], [0, 2, 1]))
    assert math.isnan(recalls["recall:osteoporosis"].value)
    assert recalls["recall:osteoporosis"].reason == "No patient with class 'osteoporosis' in this group."
    assert "osteoporosis" in recalls["recall:macro"].reason
    assert recalls["recall:weighted"].value == pytest.approx(2 / 3)


def test_a_class_the_model_never_calls_has_no_precision_but_counts_as_zero_in_the_mean():
    precisions = classification.precisions(released(classification.CONFUSION, [0, 1, 2], [0, 1, 1]))
    assert (
        precisions["precision:osteoporosis"].reason
        == "The model called no patient of this group 'osteoporosis'."
    )
    assert precisions["precision:macro"].value == pytest.approx((1 + 0.5 + 0) / 3)


def test_a_perfect_model_on_few_patients_is_not_certain():
    labels = [0, 1, 2] * 5
    for estimates in (
        classification.f1_scores(released(classification.CONFUSION, labels, labels)),
        classification.precisions(released(classification.CONFUSION, labels, labels)),
        classification.recalls(released(classification.RECALL, labels, labels)),
        classification.screening(released(classification.SCREEN, labels, labels)),
    ):
        for estimate in estimates.values():
            assert estimate.value == estimate.high == 1
            assert estimate.low < 0.95


def test_screening_equals_the_same_figures_from_the_confusion_matrix():
    rng = np.random.default_rng(1)
    labels, called = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    screen = classification.screening(released(classification.SCREEN, labels, called))
    confusion = released(classification.CONFUSION, labels, called)
    others = (
        classification.precisions(confusion)
        | classification.f1_scores(confusion)
        | classification.recalls(released(classification.RECALL, labels, called))
    )
    for name in ("precision:osteoporosis", "recall:osteoporosis", "f1:osteoporosis"):
        assert screen[name].value == pytest.approx(others[name].value, abs=1e-12)
        assert screen[name].low == pytest.approx(others[name].low, abs=0.01)
    assert screen["specificity:osteoporosis"].value == (called[labels != 2] != 2).mean()


def test_intervals_are_the_same_each_time():
    confusion = released(classification.CONFUSION, [0, 1, 2, 2, 1], [0, 1, 1, 2, 2])
    assert classification.f1_scores(confusion) == classification.f1_scores(confusion)


def test_a_table_withheld_everywhere_says_so():
    empty = released(classification.ACCURACY, [], [], sites=0, withheld=3)
    estimate = classification.accuracy(empty)
    assert not estimate.known
    assert estimate.reason == "Withheld at every site (3) because of small cells."


def test_a_table_withheld_at_some_sites_says_how_many():
    estimate = classification.accuracy(released(classification.ACCURACY, [0, 1], [0, 0], sites=2, withheld=1))
    assert (estimate.value, estimate.sites, estimate.withheld) == (0.5, 2, 1)
    assert estimate.reason == "1 of 3 sites withheld this because of small cells."
