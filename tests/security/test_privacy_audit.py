"""The privacy audit: what an attacker reads out of our own private training never exceeds the ledger's epsilon.

Each canary is a patient that shows in a column of weights of its own, with a gradient longer than the clipping norm:
the worst case the accounting allows for. The auditor knows every canary and sees the trained weights; half of the
canaries, by coin flips, were trained on. With a defect planted on purpose, it finds more than the ledger admits.
"""

import itertools
import sys

import numpy as np
import pytest
from audit import CONFIDENCE, chance_of_as_many, correct_guesses, epsilon_lower_bound
from scipy import stats
from torch import nn

from face2bone_model.data.cohort import Cohort
from face2bone_model.data.preparation import Preparation
from face2bone_model.training import dp_sgd
from face2bone_model.training.loss import PatientLoss
from face2bone_model.training.noise import secure_normal
from face2bone_model.training.privacy import DpPlan, epsilon_of

DELTA = 1e-5
CANARIES, GUESSES, RUNS = 1000, 200, 20
PLAN = DpPlan(
    noise_multiplier=6.0,
    sample_rate=0.5,
    steps_per_round=8,
    max_grad_norm=1.0,
    expected_batch_size=64,
    learning_rate=1e-3,
    trains="all",
)


class Columns(nn.Module):
    """Logits (B, 3) of rows (B, m): a weight for each canary and class, 0 at the start."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(CANARIES, 3, bias=False)
        nn.init.zeros_(self.map.weight)

    def forward(self, rows, clinical):
        return self.map(rows)


def canaries():
    """A cohort whose patient i shows in column i, all of class 0, with a gradient of length 33 before clipping."""
    return Cohort(
        features=(40.0 * np.eye(CANARIES)).astype(np.float16),
        faces=np.zeros((0, 160, 160, 3), dtype=np.uint8),
        photo_rows=tuple(np.array([row], dtype=np.int64) for row in range(CANARIES)),
        patient_ids=tuple(f"canary {row}" for row in range(CANARIES)),
        labels=np.zeros(CANARIES, dtype=np.int64),
        ages=np.full(CANARIES, 70),
        female=np.ones(CANARIES, dtype=np.bool_),
        clinical=np.zeros((CANARIES, 3), dtype=np.float32),
        splits=np.full(CANARIES, "train"),
        preparation=Preparation(settings_digest="", trunk_digest="", background="ellipse-only"),
    )


def scores_after_training(cohort):
    """How far each canary's column moved in the direction of its own gradient."""
    model = Columns().train()
    dp_sgd.descend_privately(model, cohort, PLAN, PatientLoss("cross_entropy"), lambda *_: None)
    moved = model.map.weight.detach().numpy()
    return moved[0] - moved[1:].mean(axis=0)


def audit(seed, *, without_known_noise=False):
    """Lower bound on epsilon from one training run.

    Args:
        seed: of the coins.
        without_known_noise: the attacker repeats the run on nobody and takes that away, which is no use unless the
            noise repeats itself.
    """
    included = np.random.default_rng(seed).random(CANARIES) < 0.5
    everybody = canaries()
    scores = scores_after_training(everybody.take(np.flatnonzero(included)))
    if without_known_noise:
        scores = scores - scores_after_training(everybody.take(np.array([], dtype=np.int64)))
    correct = correct_guesses(scores, included, GUESSES)
    return epsilon_lower_bound(correct, GUESSES, CANARIES, DELTA)


def promised():
    return epsilon_of([PLAN.segment], DELTA)


def show(capsys, what, bounds):
    with capsys.disabled():
        found = " ".join(f"{bound:.2f}" for bound in bounds)
        sys.stdout.write(f"\n{what}: at least {found}; the ledger says {promised():.2f}\n")


def test_twenty_audits_find_no_more_than_the_ledger_says(capsys):
    bounds = [audit(seed) for seed in range(RUNS)]
    show(capsys, "as it is", bounds)
    assert max(bounds) <= promised()
    assert np.median(bounds) > 0, "an audit that finds nothing at all shows nothing"


def test_taking_away_the_noise_of_another_run_helps_nobody():
    bounds = [audit(seed, without_known_noise=True) for seed in range(3)]
    assert max(bounds) <= promised()


def test_too_little_noise_is_found(capsys, monkeypatch):
    """As if the noise were meant for the mean of a batch of 64, not for its sum."""
    monkeypatch.setattr(dp_sgd, "secure_normal", lambda size: secure_normal(size) / 8)
    bounds = [audit(seed) for seed in range(3)]
    show(capsys, "an eighth of the noise", bounds)
    assert min(bounds) > promised()


def test_a_missing_clip_is_found(capsys, monkeypatch):
    unbounded = dp_sgd.clipped_sum
    monkeypatch.setattr(dp_sgd, "clipped_sum", lambda gradients, _: unbounded(gradients, 1e9))
    bounds = [audit(seed) for seed in range(3)]
    show(capsys, "no clipping", bounds)
    assert min(bounds) > promised()


def test_noise_that_follows_a_seed_is_found(capsys, monkeypatch):
    monkeypatch.setattr(dp_sgd, "secure_normal", lambda size: np.random.default_rng(7).standard_normal(size))
    bounds = [audit(seed, without_known_noise=True) for seed in range(3)]
    show(capsys, "noise from a seed", bounds)
    assert min(bounds) > promised()


def test_without_delta_the_bound_is_the_exact_binomial_one():
    """Randomised response: the share of truthful answers is e^eps / (1 + e^eps); Clopper and Pearson bound it."""
    for correct, guesses in [(60, 100), (730, 1000), (100, 100)]:
        interval = stats.binomtest(correct, guesses).proportion_ci(1 - 2 * (1 - CONFIDENCE), method="exact")
        expected = np.log(interval.low / (1 - interval.low))
        assert epsilon_lower_bound(correct, guesses, guesses, 0.0) == pytest.approx(expected, rel=1e-6)
    assert epsilon_lower_bound(40, 100, 100, 0.0) == 0


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_of_a_mechanism_whose_epsilon_is_known_the_bound_is_seldom_above_and_not_far_below(epsilon):
    rng = np.random.default_rng(3)
    included = rng.random((60, CANARIES)) < 0.5
    truthful = rng.random(included.shape) < 1 / (1 + np.exp(-epsilon))
    answers = included == truthful
    bounds = np.array(
        [
            epsilon_lower_bound(correct_guesses(a.astype(float), i, CANARIES), CANARIES, CANARIES, DELTA)
            for a, i in zip(answers, included, strict=True)
        ]
    )
    assert np.mean(bounds > epsilon) <= 0.15  # 5 % expected of 60, and no more
    assert np.median(bounds) > 0.6 * epsilon


def test_delta_only_weakens_the_bound():
    bounds = [epsilon_lower_bound(150, 200, 1000, delta) for delta in (0.0, 1e-6, 1e-5, 1e-4, 1e-3)]
    assert all(after <= before for before, after in itertools.pairwise(bounds))
    assert bounds[2] > 0.9 * bounds[0]


def test_the_chance_grows_with_epsilon_and_is_certain_for_no_correct_guess():
    chances = [chance_of_as_many(150, 200, 1000, epsilon, DELTA) for epsilon in (0.0, 0.5, 1.0, 2.0)]
    assert all(before < after for before, after in itertools.pairwise(chances))
    assert chance_of_as_many(0, 200, 1000, 0.0, DELTA) == 1


def test_guessing_counts_the_surest_coins_at_both_ends():
    scores = np.array([-3.0, 5.0, 0.1, -2.0, 4.0, 0.0])
    included = np.array([False, True, True, True, False, False])
    assert correct_guesses(scores, included, 2) == 2
    assert correct_guesses(scores, included, 4) == 2
