"""FedProx's pull, SCAFFOLD's correction and plain gradient descent, against steps worked out by hand."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from face2bone_model.contract.local_steps import local_steps
from face2bone_model.contract.study import PrivacySettings, StrategySettings, Study, TrainingSettings
from face2bone_model.training import dp_sgd
from face2bone_model.training.dp_sgd import descend_privately
from face2bone_model.training.loss import PatientLoss
from face2bone_model.training.privacy import DpPlan
from face2bone_model.training.steering import PLAIN, Pull, Steering, steering_of
from face2bone_model.training.train import train_round

RATE, DECAY, MU = 0.5, 0.1, 0.7
NAMES = ("map.bias", "map.weight")


class Clinical(nn.Module):
    """A linear model of the clinical values alone: small enough to differentiate by hand."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, 3)
        with torch.no_grad():
            self.map.weight.copy_(torch.arange(9.0).view(3, 3) / 10 - 0.4)
            self.map.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))

    def forward(self, inputs, clinical):
        return self.map(clinical)


class Spare(Clinical):
    """The same with weights that no patient ever reaches."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(2))


def plain(**changes):
    """Whole-cohort steps of plain gradient descent."""
    terms = {
        "optimizer": "sgd",
        "learning_rate": RATE,
        "weight_decay": DECAY,
        "batch_size": 64,
        "class_weights": False,
        "patience": 1000,
    }
    return TrainingSettings(**{**terms, **changes})


def gradient(weights, cohort):
    """Of the mean cross-entropy of a linear model, by hand: (p - y) x and p - y, averaged over patients."""
    x = cohort.clinical.astype(np.float64)
    logits = x @ weights["map.weight"].T + weights["map.bias"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    residual = p / p.sum(1, keepdims=True) - np.eye(3)[cohort.labels]
    return {"map.weight": residual.T @ x / len(x), "map.bias": residual.mean(0)}


def by_hand(cohort, steps, extra, *, decay=DECAY):
    """Plain steps; `extra(name, weight, start)` is what the strategy adds to each gradient."""
    start = of(Clinical())
    weights = dict(start)
    for _ in range(steps):
        slope = gradient(weights, cohort)
        weights = {n: w - RATE * (slope[n] + decay * w + extra(n, w, start[n])) for n, w in weights.items()}
    return weights


def of(model):
    return {name: tensor.detach().double().numpy() for name, tensor in model.named_parameters()}


def trained(cohort, settings, model=None, **options):
    model = Clinical() if model is None else model
    nobody = cohort.take(np.arange(0))
    held_out = options.pop("validation", nobody)
    result = train_round(model, cohort, held_out, settings, seed=3, device="cpu", **options)
    return model, result


def correction():
    return {
        "map.weight": np.linspace(-0.3, 0.3, 9, dtype=np.float32).reshape(3, 3),
        "map.bias": np.array([0.2, 0.0, -0.1], np.float32),
    }


def assert_same(model, expected):
    found = of(model)
    for name in NAMES:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_plain_gradient_descent_is_the_step_worked_out_by_hand(make_cohort):
    cohort = make_cohort([0, 1, 2, 1, 0])
    model, _ = trained(cohort, plain(local_epochs=4))
    assert_same(model, by_hand(cohort, 4, lambda *_: 0.0))


def test_the_pull_of_fedprox_is_mu_times_the_distance_from_the_model_received(make_cohort):
    cohort = make_cohort([0, 1, 2, 1, 0])
    model, _ = trained(cohort, plain(local_epochs=4), steering=Steering(proximal_mu=MU))
    assert_same(model, by_hand(cohort, 4, lambda _, w, received: MU * (w - received)))


def test_the_first_step_of_fedprox_is_that_of_fedavg(make_cohort):
    cohort = make_cohort([0, 1, 2])
    (one, _), (other, _) = (
        trained(cohort, plain(local_epochs=1), steering=s) for s in (PLAIN, Steering(proximal_mu=MU))
    )
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_fedprox_with_adamw_minimises_the_loss_plus_the_proximal_term(make_cohort):
    """An independent loop that differentiates the whole objective of the paper."""
    cohort = make_cohort([0, 1, 2, 1, 0])
    settings = plain(optimizer="adamw", local_epochs=6, learning_rate=0.05)
    model, _ = trained(cohort, settings, steering=Steering(proximal_mu=MU))
    other = Clinical()
    received = [parameter.detach().clone() for parameter in other.parameters()]
    optimizer = torch.optim.AdamW(other.parameters(), lr=0.05, weight_decay=DECAY)
    for _ in range(6):
        away = sum((p - r).square().sum() for p, r in zip(other.parameters(), received, strict=True))
        logits = other(None, torch.from_numpy(cohort.clinical))
        loss = functional.cross_entropy(logits, torch.from_numpy(cohort.labels)) + MU / 2 * away
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same(model, of(other))


def test_a_strong_pull_keeps_the_site_near_the_model_received(make_cohort):
    cohort = make_cohort([0, 1, 2, 1, 0])
    start = torch.cat([p.detach().reshape(-1) for p in Clinical().parameters()])

    def distance(mu):
        settings = plain(local_epochs=30, weight_decay=0.0, learning_rate=0.1)
        model, _ = trained(cohort, settings, steering=Steering(proximal_mu=mu))
        return float((torch.cat([p.detach().reshape(-1) for p in model.parameters()]) - start).norm())

    lengths = [distance(mu) for mu in (0.0, 0.1, 1.0, 5.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0] / 3


def test_the_correction_of_scaffold_is_added_to_every_gradient(make_cohort):
    cohort = make_cohort([0, 1, 2, 1, 0])
    model, _ = trained(cohort, plain(local_epochs=4), steering=Steering(correction=correction()))
    assert_same(model, by_hand(cohort, 4, lambda name, *_: correction()[name]))


def test_weights_that_no_patient_reaches_follow_the_correction_alone(make_cohort):
    pulls = {**correction(), "unused": np.array([1.0, -2.0], np.float32)}
    settings = plain(local_epochs=3, weight_decay=0.0)
    model, _ = trained(make_cohort([0, 1]), settings, Spare(), steering=Steering(correction=pulls))
    np.testing.assert_allclose(model.unused.detach(), 1 - 3 * RATE * pulls["unused"], rtol=1e-6)


def test_tensors_that_stay_at_the_site_are_neither_pulled_nor_corrected(make_cohort):
    cohort = make_cohort([0, 1, 2, 1, 0])
    steering = Steering(
        proximal_mu=MU,
        correction={"map.weight": correction()["map.weight"]},
        is_personal=lambda name: name == "map.bias",
    )
    model, _ = trained(cohort, plain(local_epochs=4), steering=steering)

    def extra(name, w, received):
        return MU * (w - received) + correction()[name] if name == "map.weight" else 0.0

    assert_same(model, by_hand(cohort, 4, extra))


def scaffold_study(**training):
    return Study(
        name="n",
        question="?",
        sites=("a", "b"),
        trunk_name="random",
        trunk_digest="t",
        training=plain(**training),
        strategy=StrategySettings(name="scaffold"),
        privacy=PrivacySettings(steps_per_round=5, learning_rate=0.2),
    )


@pytest.mark.parametrize("patients", [1, 4, 5, 9])
def test_scaffold_takes_exactly_the_steps_the_centre_counts(make_cohort, patients):
    """With a loss whose gradient is nought, the weights tell how many steps of the correction were taken."""
    study = scaffold_study(local_epochs=3, batch_size=4, weight_decay=0.0, patience=1, learning_rate=0.25)
    pull = {"map.weight": np.zeros((3, 3), np.float32), "map.bias": np.ones(3, np.float32)}
    pull["unused"] = np.ones(2, np.float32)
    cohort = make_cohort([0] * patients)
    model, result = trained(
        cohort, study.training, Spare(), steering=steering_of(study, pull), validation=make_cohort([2, 2])
    )
    steps = local_steps(study, patients, private=False)
    assert steps.count == 3 * -(-patients // 4)
    assert result.epochs == 3
    np.testing.assert_allclose(model.unused.detach(), 1 - steps.count * steps.learning_rate, rtol=1e-6)


def test_under_scaffold_the_last_weights_count_whatever_the_validation_patients_say(make_cohort):
    """The validation patients get worse with every step; another strategy stops after one epoch."""
    cohort, against = make_cohort([0] * 6), make_cohort([2] * 6)
    settings = plain(local_epochs=5, patience=1)
    _, other = trained(cohort, settings, validation=against)
    assert other.epochs < 5
    study = scaffold_study(local_epochs=5, patience=1)
    model, result = trained(cohort, settings, validation=against, steering=steering_of(study))
    assert result.epochs == 5
    assert_same(model, by_hand(cohort, 5, lambda *_: 0.0))


def test_only_fedprox_pulls_and_only_scaffold_counts_every_step():
    study = scaffold_study()
    for name in ("fedavg", "fedprox", "scaffold"):
        strategy = StrategySettings(name=name, proximal_mu=MU, personal=("head.*",))
        steering = steering_of(Study(**{**vars(study), "strategy": strategy}))
        assert steering.proximal_mu == (MU if name == "fedprox" else 0.0)
        assert steering.every_step_counts == (name == "scaffold")
        assert steering.is_personal("head.weight")
        assert not steering.is_personal("stem.weight")


@pytest.mark.parametrize("steering", [PLAIN, Steering(proximal_mu=MU), Steering(correction=correction())])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_same_seed_gives_the_same_bits(make_cohort, steering, optimizer):
    cohort = make_cohort([0, 1, 2, 0, 1, 2, 0], photos=2)
    settings = plain(optimizer=optimizer, batch_size=2, local_epochs=3)
    (one, _), (other, _) = (trained(cohort, settings, steering=steering) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_gradients_are_freed_and_nothing_else_is_changed(make_cohort):
    pull = correction()
    model, _ = trained(make_cohort([0, 1]), plain(), Spare(), steering=Steering(proximal_mu=MU))
    assert all(parameter.grad is None for parameter in model.parameters())
    trained(make_cohort([0, 1]), plain(), steering=Steering(correction=pull))
    assert all((pull[name] == tensor).all() for name, tensor in correction().items())


PLAN = DpPlan(
    noise_multiplier=2.0,
    sample_rate=1.0,
    steps_per_round=3,
    max_grad_norm=0.4,
    expected_batch_size=4,
    learning_rate=0.3,
)


def privately(cohort, steering, monkeypatch, noise=2.0):
    """A private round with noise that is the same each time, so that two of them can be compared."""
    rng = np.random.default_rng(8)
    with monkeypatch.context() as patch:
        patch.setattr(dp_sgd, "secure_normal", lambda n: noise / 2.0 * rng.normal(size=n))
        model = Clinical().train()
        descend_privately(model, cohort, PLAN, PatientLoss("cross_entropy"), lambda *_: None, steering)
    return model


def test_the_private_step_adds_the_correction_to_the_noisy_mean(make_cohort, monkeypatch):
    """The gradients clipped and the noise as without it: an independent loop of clipping, noise and correction."""
    cohort = make_cohort([0, 1, 2, 1])
    steering = Steering(correction=correction(), proximal_mu=MU)
    found = of(privately(cohort, steering, monkeypatch))
    rng, start = np.random.default_rng(8), of(Clinical())
    weights = dict(start)
    order = [name for name, _ in Clinical().named_parameters()]
    for _ in range(PLAN.steps_per_round):
        total = {name: np.zeros_like(value) for name, value in weights.items()}
        for patient in range(4):
            one = gradient(weights, cohort.take(np.array([patient])))
            length = np.sqrt(sum((part**2).sum() for part in one.values()))
            for name, part in one.items():
                total[name] += part * min(1.0, PLAN.max_grad_norm / length)
        noise = PLAN.noise_multiplier * PLAN.max_grad_norm * rng.normal(size=12)
        parts = np.split(noise, np.cumsum([weights[name].size for name in order])[:-1])
        for name, part in zip(order, parts, strict=True):
            mean = (total[name] + part.reshape(weights[name].shape)) / PLAN.expected_batch_size
            pull = correction()[name] + MU * (weights[name] - start[name])
            weights[name] = weights[name] - PLAN.learning_rate * (mean + pull)
    for name in order:
        np.testing.assert_allclose(found[name], weights[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_what_a_patient_changes_in_a_private_step_does_not_depend_on_the_pull(
    make_cohort, monkeypatch, scale
):
    """Sensitivity: with and without a patient, one step differs as much whatever the centre sends."""
    cohort = make_cohort([0, 1, 2, 1])
    monkeypatch.setattr(dp_sgd, "secure_normal", np.zeros)
    pull = {name: scale * value for name, value in correction().items()}
    one_step = DpPlan(**{**vars(PLAN), "steps_per_round": 1})
    ends = []
    for group in (cohort, cohort.take(np.arange(3))):
        weights = {n: p.detach().double() for n, p in Clinical().named_parameters()}
        sums = {n: torch.zeros_like(w) for n, w in weights.items()}
        for patient in range(group.num_patients):
            for n, part in gradient(of(Clinical()), group.take(np.array([patient]))).items():
                sums[n] += torch.from_numpy(part)
        dp_sgd.take_noisy_step(weights, sums, one_step, Pull(Steering(correction=pull), weights))
        ends.append(weights)
    moved = {n: float((ends[0][n] - ends[1][n]).norm()) for n in NAMES}
    last = gradient(of(Clinical()), cohort.take(np.array([3])))
    for n in NAMES:
        expected = np.linalg.norm(last[n]) * one_step.learning_rate / one_step.expected_batch_size
        assert moved[n] == pytest.approx(expected, rel=1e-6)


def test_a_private_round_of_scaffold_costs_what_any_private_round_costs(make_cohort):
    study, cohort = scaffold_study(), make_cohort([0, 1, 2])
    for steering in (PLAIN, steering_of(study, correction())):
        _, result = trained(cohort, study.training, privacy=PLAN, steering=steering)
        assert result.segment == PLAN.segment
    steps = local_steps(study, 3, private=True)
    assert (steps.count, steps.learning_rate) == (5, 0.2)
