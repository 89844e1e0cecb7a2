"""Nominal 95 % intervals, counted on simulated truth."""

import numpy as np
import pytest

from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics import calibration, classification, discrimination
from face2bone_model.metrics.family import Predictions, Released
from face2bone_model.metrics.grid import grids
from face2bone_model.metrics.losses import LOSSES, brier

GRID = grids(EvaluationSettings())
SCORES = discrimination.score_family(GRID, 1020)
TOP_LABEL = calibration.top_label_family(GRID, 15)


def draw(rng, n, sharpness=1.0):
    labels = rng.choice(3, n, p=[0.4, 0.4, 0.2])
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += 1.5
    odds = np.exp(logits * sharpness)
    return Predictions(probabilities=odds / odds.sum(axis=1, keepdims=True), labels=labels)


def released(family, *sites):
    measured = [family.measure(site) for site in sites]
    tables = {name: sum(each[name] for each in measured) for name in measured[0]}
    return Released(tables=tables, sites=len(sites), withheld=0)


def estimates(predictions, draws=True):
    half = len(predictions.labels) // 2
    first, second = (predictions.of(np.arange(2 * half) // half == i) for i in (0, 1))
    scores = released(SCORES, first, second)
    out = {
        "accuracy": classification.accuracy(released(classification.ACCURACY, first, second)),
        "auc": discrimination.auc(scores, 2, 2),
        "auc within site": discrimination.auc_within_site(
            released(discrimination.pair_family(), first, second), 2, 2
        ),
        "brier": brier(released(LOSSES, first, second)),
    }
    if draws:
        top = released(TOP_LABEL, first, second)
        out["macro F1"] = classification.f1_scores(released(classification.CONFUSION, first, second))[
            "f1:macro"
        ]
        out["macro recall"] = classification.recalls(released(classification.RECALL, first, second))[
            "recall:macro"
        ]
        out["macro AUC"] = discrimination.macro_auc(scores)
        out["ECE"] = calibration.ece(top, calibration.top_label_bins(top), "top label")[0]
    return out


def coverage(n, repeats, *, draws, sharpness=1.0):
    truth = {
        name: estimate.value
        for name, estimate in estimates(draw(np.random.default_rng(0), 200_000, sharpness), draws).items()
    }
    held = dict.fromkeys(truth, 0)
    rng = np.random.default_rng(n)
    for _ in range(repeats):
        for name, estimate in estimates(draw(rng, n, sharpness), draws).items():
            held[name] += estimate.low <= truth[name] <= estimate.high
    return {name: count / repeats for name, count in held.items()}


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    for name, share in coverage(200, 250, draws=False).items():
        assert 0.91 <= share <= 0.99, name  # 250 repeats: 0.95 ± 0.041 at three standard errors


@pytest.mark.slow
@pytest.mark.parametrize("n", [120, 600])
@pytest.mark.parametrize("sharpness", [0.6, 2.5])
def test_every_kind_of_interval_holds_the_truth_as_often_as_it_says(n, sharpness):
    shares = coverage(n, 1500, draws=True, sharpness=sharpness)
    conservative = {"macro AUC": shares.pop("macro AUC"), "ECE": shares.pop("ECE")}
    for name, share in shares.items():
        assert 0.93 <= share <= 0.97, name
    for name, share in conservative.items():
        assert share >= 0.95, name
