"""SCAFFOLD over three hospitals that differ: the sites' own training, and the centre's formulae from the paper.

The centre here is written from algorithm 1 of Karimireddy et al. (2020), option II, and shares no code with ours. The
optimum of the pooled problem is found by Newton's method.
"""

import numpy as np
import pytest
from torch import nn

from face2bone_model.contract.local_steps import local_steps
from face2bone_model.contract.study import StrategySettings, Study, TrainingSettings
from face2bone_model.contract.update import pack, signature_of, unpack
from face2bone_model.models.parameters import load_trainable, trainable_tensors
from face2bone_model.training.steering import steering_of
from face2bone_model.training.train import train_round

PATIENTS, CLASSES, DECAY = 24, 3, 0.05


class Clinical(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, CLASSES)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, inputs, clinical):
        return self.map(clinical)


SIGNATURE = signature_of(trainable_tensors(Clinical()), "t")


def study_of(strategy, **training):
    terms = {"optimizer": "sgd", "learning_rate": 0.4, "weight_decay": DECAY, "class_weights": False}
    return Study(
        name="n",
        question="?",
        sites=("a", "b", "c"),
        trunk_name="random",
        trunk_digest="t",
        training=TrainingSettings(**{**terms, "local_epochs": 20, "batch_size": PATIENTS, **training}),
        strategy=StrategySettings(name=strategy, **({"proximal_mu": 1.0} if strategy == "fedprox" else {})),
    )


@pytest.fixture(scope="module")
def sites(make_cohort):
    """As many patients each; other mixtures of classes, and clinical values that mean something else."""
    cohorts = []
    rng = np.random.default_rng(4)
    for shift, mixture in ((-2.0, (16, 4, 4)), (0.0, (4, 16, 4)), (2.0, (2, 2, 20))):
        unread = np.zeros((PATIENTS, 1, 1, 1))
        cohort = make_cohort(np.repeat(np.arange(CLASSES), mixture), features=unread)
        cohort.clinical[:] = rng.normal(size=(PATIENTS, 3)) + shift * np.array([1.0, -0.5, 0.25])
        cohort.clinical[:, 1] += cohort.labels * np.sign(shift + 0.5)
        cohorts.append(cohort)
    return cohorts


def pooled_optimum(sites):
    """Newton's method on the mean cross-entropy of all patients plus DECAY/2 |w|^2, all weights and biases."""
    x = np.concatenate([c.clinical for c in sites]).astype(np.float64)
    x = np.hstack([x, np.ones((len(x), 1))])
    y = np.eye(CLASSES)[np.concatenate([c.labels for c in sites])]
    w = np.zeros((CLASSES, 4))
    for _ in range(50):
        p = np.exp(x @ w.T)
        p /= p.sum(1, keepdims=True)
        slope = (p - y).T @ x / len(x) + DECAY * w
        spread = np.einsum("nk,kl->nkl", p, np.eye(CLASSES)) - np.einsum("nk,nl->nkl", p, p)
        curvature = np.einsum("nkl,ni,nj->kilj", spread, x, x).reshape(12, 12) / len(x) + DECAY * np.eye(12)
        w -= np.linalg.solve(curvature, slope.reshape(-1)).reshape(CLASSES, 4)
    assert np.abs(slope).max() < 1e-10
    return pack({"map.bias": w[:, 3], "map.weight": w[:, :3]}, SIGNATURE)


def local(study, cohort, received, correction=None):
    """One site's round: y_i."""
    model = Clinical()
    load_trainable(model, unpack(received, SIGNATURE))
    pull = None if correction is None else unpack(correction, SIGNATURE)
    steering = steering_of(study, pull)
    nobody = cohort.take(np.arange(0))
    train_round(model, cohort, nobody, study.training, seed=0, device="cpu", steering=steering)
    return pack(trainable_tensors(model), SIGNATURE)


def averaging(study, sites, rounds=15):
    x = np.zeros(SIGNATURE.size, np.float32)
    for _ in range(rounds):
        x = np.mean([local(study, cohort, x) for cohort in sites], axis=0, dtype=np.float64).astype(
            np.float32
        )
    return x


def scaffold(study, sites, rounds=50):
    x, c = np.zeros(SIGNATURE.size), np.zeros(SIGNATURE.size)
    own = [np.zeros(SIGNATURE.size) for _ in sites]
    for _ in range(rounds):
        received, steps = x.astype(np.float32), []
        for i, cohort in enumerate(sites):
            y = local(study, cohort, received, (c - own[i]).astype(np.float32)).astype(np.float64)
            taken = local_steps(study, cohort.num_patients, private=False)
            new = own[i] - c + (received - y) / (taken.count * taken.learning_rate)
            steps.append((y - received, new - own[i]))
            own[i] = new
        x = received + np.mean([dy for dy, _ in steps], axis=0)
        c = c + np.mean([dc for _, dc in steps], axis=0)
    return x


def distance(found, optimum):
    return float(np.linalg.norm(found - optimum) / np.linalg.norm(optimum))


def test_scaffold_reaches_the_pooled_optimum_where_fedavg_drifts(sites):
    optimum = pooled_optimum(sites)
    drifted = distance(averaging(study_of("fedavg"), sites), optimum)
    corrected = distance(scaffold(study_of("scaffold"), sites), optimum)
    assert drifted > 0.5
    assert corrected < 0.01


def test_fedprox_drifts_less_than_fedavg(sites):
    optimum = pooled_optimum(sites)
    drifted, pulled = (distance(averaging(study_of(name), sites), optimum) for name in ("fedavg", "fedprox"))
    assert pulled < 0.7 * drifted


def test_with_one_step_a_round_nothing_drifts_and_scaffold_is_fedavg(sites):
    """With K = 1 there is no drift: both are plain gradient descent on the pooled problem, step by step."""
    few = {"local_epochs": 1, "learning_rate": 0.3}
    one, other = (
        averaging(study_of("fedavg", **few), sites, 8),
        scaffold(study_of("scaffold", **few), sites, 8),
    )
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_minibatches_of_scaffold_stay_near_the_optimum(sites):
    """Noise of the batches remains; the drift does not."""
    optimum = pooled_optimum(sites)
    small = {"batch_size": 8, "local_epochs": 7, "learning_rate": 0.1}
    drifted = distance(averaging(study_of("fedavg", **small), sites, 25), optimum)
    corrected = distance(scaffold(study_of("scaffold", **small), sites, 25), optimum)
    assert corrected < drifted / 2
