"""SCAFFOLD: the paper's algorithm, with the sites' half played here on quadratics whose gradients are known."""

from dataclasses import replace

import numpy as np
import pytest
from strategy_rounds import PLAIN_STEPS, Round, a_study, an_update

from f2b_server.strategies.choice import strategy_of
from face2bone_model.contract.study import PrivacySettings
from face2bone_model.contract.update import ModelSignature

SIZE = 12
SIGNATURE = ModelSignature((("t", (SIZE,)),), "trunk")
RATE, EPOCHS, BATCH = PLAIN_STEPS.learning_rate, PLAIN_STEPS.local_epochs, PLAIN_STEPS.batch_size


class Quadratic:
    """A site whose loss is ½ (w - o)ᵀ diag(h) (w - o)."""

    def __init__(self, seed, patients):
        rng = np.random.default_rng(seed)
        self.curvature, self.optimum = rng.uniform(0.2, 2.0, SIZE), rng.normal(0, 2, SIZE)
        self.patients = patients
        self.steps = EPOCHS * int(np.ceil(patients / BATCH))

    def gradient(self, w):
        return self.curvature * (w - self.optimum)

    def train(self, received, correction):
        w = received.astype(np.float64)
        for _ in range(self.steps):
            w = w - RATE * (self.gradient(w) + (0 if correction is None else correction))
        return w


def federation(patients):
    return [Quadratic(seed, n) for seed, n in enumerate(patients)]


def run(sites, rounds, weights="equal", absent=lambda number, index: False, state=None):
    """Models after each round, and the state."""
    study = a_study(len(sites), name="scaffold", weights=weights, longest_norm_ratio=0.0)
    strategy = strategy_of(study, SIGNATURE)
    vector, state, found = np.zeros(SIZE, np.float32), state or {}, []
    for number in range(rounds):
        updates = [
            an_update(name, site.train(vector, strategy.correction(name, state)), site.patients)
            for index, (name, site) in enumerate(zip(study.sites, sites, strict=True))
            if not absent(number, index)
        ]
        done = strategy.step(updates, vector, state)
        vector, state = done.vector, dict(done.state)
        found.append(vector)
    return found, state


def papers(sites, rounds, absent=lambda number, index: False):
    """Algorithm 1 of the paper, option II, uniform mean over the participants, in double precision."""
    x, c, own = np.zeros(SIZE), np.zeros(SIZE), [np.zeros(SIZE) for _ in sites]
    found = []
    for number in range(rounds):
        present = [index for index in range(len(sites)) if not absent(number, index)]
        moved, changed = np.zeros(SIZE), np.zeros(SIZE)
        for index in present:
            site = sites[index]
            y = site.train(x, c - own[index])
            renewed = own[index] - c + (x - y) / (site.steps * RATE)
            moved += (y - x) / len(present)
            changed += (renewed - own[index]) / len(sites)
            own[index] = renewed
        x, c = x + moved, c + changed
        found.append(x)
    return found, c, own


@pytest.mark.parametrize("absent", [lambda number, index: False, lambda number, index: number % 3 == index])
def test_with_equal_weights_it_is_the_papers_algorithm(absent):
    sites = federation([20, 31, 40, 8])
    found, state = run(sites, 8, absent=absent)
    expected, control, own = papers(sites, 8, absent)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    np.testing.assert_allclose(state["control"], control, atol=2e-3)
    for index, one in enumerate(own):
        np.testing.assert_allclose(state[f"control/s{index:02d}"], one, atol=2e-3)


def optimum(sites, weights):
    """Where the weighted sum of the losses is least."""
    h = sum(w * site.curvature for w, site in zip(weights, sites, strict=True))
    return sum(w * site.curvature * site.optimum for w, site in zip(weights, sites, strict=True)) / h


@pytest.mark.parametrize("weights", ["equal", "patients"])
def test_it_reaches_the_optimum_of_all_sites_which_fedavg_misses(weights):
    sites = federation([10, 60, 150])
    wanted = optimum(sites, [1, 1, 1] if weights == "equal" else [10, 60, 150])
    found, _ = run(sites, 150, weights)
    np.testing.assert_allclose(found[-1], wanted, atol=0.01)
    plain = strategy_of(a_study(3, name="fedavg", weights=weights, longest_norm_ratio=0.0), SIGNATURE)
    vector = np.zeros(SIZE, np.float32)
    for _ in range(150):
        vector = plain.step(
            [an_update(f"s{i}", site.train(vector, None), site.patients) for i, site in enumerate(sites)],
            vector,
            {},
        ).vector
    assert np.abs(vector - wanted).max() > 0.1


def test_it_reaches_the_weighted_optimum_though_sites_come_and_go():
    sites = federation([10, 60, 150])
    found, _ = run(sites, 300, "patients", absent=lambda number, index: number > 10 and number % 3 == index)
    end, _ = run(sites, 150, "patients")
    wanted = optimum(sites, [10, 60, 150])
    assert np.linalg.norm(found[-1] - wanted) < 0.5 * np.linalg.norm(wanted - found[0])
    np.testing.assert_allclose(end[-1], wanted, atol=0.01)


def test_the_first_request_carries_no_correction_and_the_next_the_difference():
    sites = federation([20, 30])
    strategy = strategy_of(a_study(2, name="scaffold"), SIGNATURE)
    assert strategy.correction("s00", {}) is None
    _, state = run(sites, 2)
    sent = strategy.correction("s01", state)
    np.testing.assert_array_equal(sent, state["control"] - state["control/s01"])
    assert (sent.dtype, sent.shape) == (np.float32, (SIZE,))
    np.testing.assert_array_equal(strategy.correction("newcomer", state), state["control"])


def test_the_controls_of_an_absent_site_are_kept():
    sites = federation([20, 30, 40])
    _, before = run(sites, 2)
    _, after = run(sites, 1, absent=lambda number, index: index == 1, state=before)
    np.testing.assert_array_equal(after["control/s01"], before["control/s01"])
    assert (after["control/s00"] != before["control/s00"]).any()


def test_a_private_sites_steps_are_those_of_the_privacy_terms():
    study = replace(
        a_study(2, name="scaffold"), privacy=PrivacySettings(steps_per_round=5, learning_rate=0.2)
    )
    received, returned = np.zeros(SIZE, np.float32), np.full(SIZE, 3.0)
    updates = [an_update("s00", returned, 16, noise_multiplier=1.1), an_update("s01", returned, 16)]
    state = strategy_of(study, SIGNATURE).step(updates, received, {}).state
    np.testing.assert_allclose(state["control/s00"], -3.0 / (5 * 0.2))
    np.testing.assert_allclose(state["control/s01"], -3.0 / (EPOCHS * 2 * RATE), rtol=1e-6)


def test_its_server_rate_shortens_the_step():
    one = Round(
        np.zeros(SIZE, np.float32),
        (an_update("s00", np.ones(SIZE)), an_update("s01", np.ones(SIZE))),
        (SIZE,),
    )
    strategy = strategy_of(a_study(2, name="scaffold", server_learning_rate=0.25), SIGNATURE)
    np.testing.assert_allclose(strategy.step(one.updates, one.received, {}).vector, 0.25)


def test_its_state_may_lie_in_a_folder_of_the_study_and_leaves_no_file(tmp_path):
    strategy = strategy_of(a_study(2, name="scaffold"), SIGNATURE, tmp_path)
    updates = [an_update("s00", np.ones(SIZE)), an_update("s01", np.zeros(SIZE) + 2)]
    state = strategy.step(updates, np.zeros(SIZE, np.float32), {}).state
    assert isinstance(state["control"], np.memmap)
    assert list(tmp_path.iterdir()) == []
    assert set(state) == {"control", "control/s00", "control/s01", "weight/s00", "weight/s01"}
