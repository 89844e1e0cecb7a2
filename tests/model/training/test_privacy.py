"""Accounting: known values, composition, and the noise a study needs."""

import itertools
import math
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import RDPAccountant
from scipy import optimize, stats

from face2bone_model.contract.errors import BudgetError, CohortError, SettingsError
from face2bone_model.contract.study import PrivacySettings, TrainingSettings
from face2bone_model.training.privacy import (
    DpSegment,
    changes_to_training,
    epsilon_of,
    plan_privacy,
)

DELTA = 1e-5
KNOWN = DpSegment(noise_multiplier=1.1, sample_rate=1 / 14, steps=280)


def exact_gaussian_epsilon(noise, steps, delta):
    """Balle and Wang 2018 (arXiv 1805.06530), theorem 8: exact for full batches, where no patient is left out."""
    mu = math.sqrt(steps) / noise

    def excess(epsilon):
        upper = stats.norm.cdf(mu / 2 - epsilon / mu)
        return upper - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu) - delta

    return optimize.brentq(excess, 0, 100)


@pytest.mark.parametrize(("accountant", "expected"), [("rdp", 7.62), ("prv", 6.91), ("pld", 6.901)])
def test_a_published_mechanism_costs_what_was_measured_elsewhere(accountant, expected):
    assert epsilon_of([KNOWN], DELTA, accountant) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("accountant", ["rdp", "prv", "pld"])
def test_twenty_segments_cost_what_one_of_twenty_times_the_steps_does(accountant):
    split = [DpSegment(noise_multiplier=1.1, sample_rate=1 / 14, steps=14)] * 20
    assert epsilon_of(split, DELTA, accountant) == epsilon_of([KNOWN], DELTA, accountant)


def test_an_accountant_that_forgets_between_rounds_would_report_a_third():
    one = DpSegment(noise_multiplier=1.1, sample_rate=1 / 14, steps=14)
    assert epsilon_of([one], DELTA) < 7.62 / 3
    assert epsilon_of([one] * 20, DELTA) == pytest.approx(7.62, abs=0.01)


@pytest.mark.parametrize(("noise", "steps"), [(2.0, 1), (4.0, 40), (8.0, 10)])
def test_full_batches_cost_what_the_exact_formula_says_and_rdp_is_above_it(noise, steps):
    segment = DpSegment(noise_multiplier=noise, sample_rate=1.0, steps=steps)
    exact = exact_gaussian_epsilon(noise, steps, DELTA)
    assert epsilon_of([segment], DELTA, "prv") == pytest.approx(exact, abs=0.05)
    assert exact <= epsilon_of([segment], DELTA, "rdp") <= exact * 1.15


@pytest.mark.parametrize(("noise", "steps"), [(2.0, 1), (4.0, 40), (8.0, 10), (0.5, 3), (400.0, 1000)])
def test_privacy_loss_distributions_meet_the_exact_formula_from_above(noise, steps):
    segment = DpSegment(noise_multiplier=noise, sample_rate=1.0, steps=steps)
    exact = exact_gaussian_epsilon(noise, steps, DELTA)
    assert exact * (1 - 1e-9) <= epsilon_of([segment], DELTA, "pld") <= exact * 1.002


RATES, NOISES = st.floats(0.01, 1.0), st.floats(0.8, 30.0)


@given(st.lists(st.tuples(NOISES, RATES, st.integers(1, 12)), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_the_tight_accountant_is_never_above_the_fast_one(parts):
    segments = [DpSegment(noise_multiplier=n, sample_rate=q, steps=k) for n, q, k in parts]
    assert 0 <= epsilon_of(segments, DELTA, "pld") <= epsilon_of(segments, DELTA, "rdp")


@given(st.lists(st.tuples(NOISES, RATES, st.integers(1, 50)), min_size=1, max_size=4))
@settings(max_examples=10, deadline=None)
def test_kept_divergences_give_what_opacus_gives_for_the_whole_history(parts):
    reference = RDPAccountant()
    reference.history = list(parts)
    segments = [DpSegment(noise_multiplier=n, sample_rate=q, steps=k) for n, q, k in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = reference.get_epsilon(DELTA)
    assert epsilon_of(segments, DELTA) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("accountant", ["rdp", "prv", "pld"])
def test_a_draw_in_which_nobody_can_take_part_costs_nothing(accountant):
    nobody = DpSegment(noise_multiplier=1.0, sample_rate=0.0, steps=5)
    none = DpSegment(noise_multiplier=1.0, sample_rate=0.5, steps=0)
    assert epsilon_of([nobody, none], DELTA, accountant) == 0
    assert epsilon_of([nobody, KNOWN], DELTA, accountant) == epsilon_of([KNOWN], DELTA, accountant)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("noise", [1e-3, 1e-9, 1e-99, 1e-170, 5e-324])
def test_hardly_any_noise_is_an_enormous_epsilon_and_no_crash(noise, accountant):
    segment = DpSegment(noise_multiplier=noise, sample_rate=0.5, steps=3)
    assert epsilon_of([segment], DELTA, accountant) > 1e5


@pytest.mark.slow
def test_two_hundred_different_segments_take_seconds():
    rng = np.random.default_rng(0)
    segments = [
        DpSegment(noise_multiplier=rng.uniform(5, 60), sample_rate=rng.uniform(0.3, 1), steps=4)
        for _ in range(200)
    ]
    started = time.process_time()
    assert 4.9 < epsilon_of(segments, DELTA, "pld") < 5.0
    assert time.process_time() - started < 20


@given(st.permutations([(2.0, 0.9, 5), (1.5, 1.0, 2), (4.0, 1.0, 8)]))
@settings(max_examples=4, deadline=None)
def test_the_order_of_segments_does_not_matter(parts):
    segments = [DpSegment(noise_multiplier=n, sample_rate=q, steps=k) for n, q, k in parts]
    assert epsilon_of(segments, DELTA) == pytest.approx(
        epsilon_of(sorted(segments, key=str), DELTA), rel=1e-12
    )


def test_each_further_segment_costs_something():
    segments = [DpSegment(noise_multiplier=2.0, sample_rate=q, steps=2) for q in (0.3, 0.6, 0.9, 1.0)]
    spent = [epsilon_of(segments[:count], DELTA) for count in range(5)]
    assert spent[0] == 0
    assert all(before < after for before, after in itertools.pairwise(spent))


def test_steps_without_noise_are_no_privacy_at_all():
    assert epsilon_of([DpSegment(noise_multiplier=0.0, sample_rate=0.1, steps=1)], DELTA) == math.inf


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [(-1, 0.5, 1), (1, 1.5, 1), (1, 0.5, -1), (math.nan, 0.5, 1), (math.inf, 0.5, 1)],
)
def test_a_ledger_line_that_would_give_budget_back_cannot_be_written(noise, rate, steps):
    with pytest.raises(ValueError, match="not a mechanism"):
        DpSegment(noise_multiplier=noise, sample_rate=rate, steps=steps)


@pytest.mark.parametrize(
    ("num_patients", "accountant"), [(30, "rdp"), (30, "prv"), (90, "rdp"), (400, "rdp")]
)
def test_all_rounds_of_a_planned_study_together_use_up_the_budget_and_no_more(num_patients, accountant):
    privacy = PrivacySettings(epsilon=8.0, accountant=accountant)
    training = TrainingSettings(rounds=5)
    plan = plan_privacy(privacy, num_patients, training)
    spent = epsilon_of([plan.segment] * training.rounds, privacy.delta, accountant)
    assert 7.9 < spent <= 8.0


def test_the_expected_batch_is_the_public_constant_whatever_the_size_of_the_cohort():
    plans = [plan_privacy(PrivacySettings(), size, TrainingSettings()) for size in (20, 64, 128)]
    assert {plan.expected_batch_size for plan in plans} == {64}
    assert [plan.sample_rate for plan in plans] == [1.0, 1.0, 0.5]
    noises = [plan.noise_multiplier for plan in plans]
    assert noises[0] == noises[1] > noises[2]


def test_fixed_noise_is_used_as_given():
    plan = plan_privacy(PrivacySettings(noise_multiplier=1.3), 90, TrainingSettings())
    assert plan.noise_multiplier == 1.3


def test_the_same_site_plans_the_same_noise_each_round():
    plans = [plan_privacy(PrivacySettings(), 87, TrainingSettings()) for _ in range(2)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 0.0},
        {"delta": 0.0},
        {"delta": 1.0},
        {"max_grad_norm": 0.0},
        {"noise_multiplier": -1.0},
        {"expected_batch_size": 0},
        {"steps_per_round": 0},
        {"learning_rate": 0.0},
    ],
)
def test_a_setting_out_of_range_is_named(change):
    with pytest.raises(SettingsError, match=next(iter(change))):
        plan_privacy(PrivacySettings(**change), 90, TrainingSettings())


def test_a_budget_no_noise_can_reach_is_refused():
    with pytest.raises(BudgetError, match="epsilon"):
        plan_privacy(PrivacySettings(epsilon=1e-9), 60, TrainingSettings())


def test_a_site_without_training_patients_is_refused():
    with pytest.raises(CohortError):
        plan_privacy(PrivacySettings(), 0, TrainingSettings())


def test_whoever_approves_is_told_which_settings_do_not_apply():
    told = changes_to_training(TrainingSettings(local_epochs=7, class_weights=True))
    assert [
        word for sentence in told for word in ("7 epochs", "early stopping", "labels") if word in sentence
    ] == [
        "7 epochs",
        "early stopping",
        "labels",
    ]
    assert not any(
        "labels" in sentence for sentence in changes_to_training(TrainingSettings(class_weights=False))
    )


def test_noise_never_falls_when_the_budget_shrinks():
    noises = [
        plan_privacy(PrivacySettings(epsilon=epsilon), 60, TrainingSettings()).noise_multiplier
        for epsilon in (8.0, 2.0, 0.5)
    ]
    assert np.all(np.diff(noises) > 0)
