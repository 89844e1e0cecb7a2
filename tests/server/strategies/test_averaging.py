"""FedAvg, FedProx, FedAvgM, FedAdam and FedYogi against their formulae and against Flower's own strategies."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvgM, FedYogi
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from strategy_rounds import a_random_round, a_round, step_of

FLOATS = st.floats(-1e6, 1e6, width=32)
VECTORS = st.tuples(st.integers(1, 6), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape, elements=FLOATS),
        st.lists(st.integers(1, 10_000), min_size=shape[0], max_size=shape[0]),
    )
)


@given(VECTORS)
def test_the_federated_average_is_the_mean_weighted_by_patients(case):
    vectors, patients = case
    received = np.full(vectors.shape[1], np.float32(np.pi))
    found = step_of(a_round(list(vectors), received, patients=patients), longest_norm_ratio=0.0).vector
    expected = np.average(vectors.astype(np.float64), axis=0, weights=patients)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * (1 + np.abs(vectors).max()))


def test_a_tensor_that_a_site_did_not_train_is_averaged_over_those_that_did():
    one = a_round([[1.0, 1.0, 9.0], [2.0, 4.0, 6.0]], [1.0, 1.0, 5.0], sizes=[2, 1], patients=[10, 30])
    np.testing.assert_allclose(step_of(one).vector, [2.0, 4.0, 0.25 * 9 + 0.75 * 6])


def rounds(count=4):
    """Rounds of vectors, each from wherever the model then is: (patients, steps of shape (sites, size))."""
    rng = np.random.default_rng(5)
    return [(rng.integers(5, 200, 3), rng.normal(size=(3, 20)) + 0.3) for _ in range(count)]


def ours(start, **strategy):
    """Our models after each round, and the last state."""
    vector, state, found = start, {}, []
    for patients, steps in rounds():
        one = a_round(list(vector + steps), vector, patients=[int(n) for n in patients])
        done = step_of(one, state, **strategy)
        vector, state = done.vector, dict(done.state)
        found.append(vector)
    return found, state


def test_fedavgm_is_the_mean_with_momentum():
    start = np.ones(20, np.float32)
    found, state = ours(start, name="fedavgm", server_momentum=0.7, server_learning_rate=0.5)
    x, v = start.astype(np.float64), np.zeros(20)
    for vector, (patients, steps) in zip(found, rounds(), strict=True):
        v = 0.7 * v + np.average(steps, axis=0, weights=patients)
        x = x + 0.5 * v
        np.testing.assert_allclose(vector, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state["momentum"], v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["fedadam", "fedyogi"])
def test_the_adaptive_strategies_follow_the_papers_algorithm_2(name):
    start = np.ones(20, np.float32)
    settings = {"beta_1": 0.8, "beta_2": 0.95, "tau": 0.02, "server_learning_rate": 0.1}
    found, state = ours(start, name=name, **settings)
    x, m, v = start.astype(np.float64), np.zeros(20), np.full(20, 0.02**2)
    for vector, (patients, steps) in zip(found, rounds(), strict=True):
        delta = np.average(steps, axis=0, weights=patients)
        m = 0.8 * m + 0.2 * delta
        square = delta * delta
        v = 0.95 * v + 0.05 * square if name == "fedadam" else v - 0.05 * square * np.sign(v - square)
        x = x + 0.1 * m / (np.sqrt(v) + 0.02)
        np.testing.assert_allclose(vector, x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state["momentum"], m, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state["variance"], v, rtol=1e-5, atol=1e-6)


@pytest.fixture
def a_task(monkeypatch):
    """Flower's messages name the task that sends them."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def replies(vectors, patients):
    """A round as Flower's strategies take it."""
    for number, (vector, n) in enumerate(zip(vectors, patients, strict=True)):
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(np.asarray(vector, np.float32))}),
                "metrics": MetricRecord({"num-examples": int(n)}),
            }
        )
        asked = Message(content=RecordDict(), dst_node_id=number + 1, message_type="train")
        yield Message(content=content, reply_to=asked)


class NoGrid:
    """Flower's strategies sample nodes before they note the model; three are there."""

    def get_node_ids(self):
        return [1, 2, 3]


def flowers(strategy, start):
    """Flower's models after each round."""
    vector, found = start, []
    for number, (patients, steps) in enumerate(rounds(), start=1):
        list(strategy.configure_train(number, ArrayRecord({"w": Array(vector)}), ConfigRecord(), NoGrid()))
        arrays, _ = strategy.aggregate_train(number, list(replies(vector + steps, patients)))
        vector = arrays["w"].numpy().astype(np.float32)
        found.append(vector)
    return found


@pytest.mark.usefixtures("a_task")
def test_fedavgm_agrees_with_flowers():
    start = np.ones(20, np.float32)
    found, _ = ours(start, name="fedavgm", server_momentum=0.7, server_learning_rate=0.5)
    reference = FedAvgM(server_momentum=0.7, server_learning_rate=0.5)
    np.testing.assert_allclose(found, flowers(reference, start), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("a_task")
def test_fedyogi_agrees_with_flowers_that_begins_at_tau_squared():
    start = np.ones(20, np.float32)
    found, _ = ours(start, name="fedyogi", beta_1=0.8, beta_2=0.95, tau=0.02, server_learning_rate=0.1)
    reference = FedYogi(eta=0.1, beta_1=0.8, beta_2=0.95, tau=0.02)
    reference.v_t = {"w": np.full(20, 0.02**2)}  # Flower begins at 0; the paper says at least tau squared
    np.testing.assert_allclose(found, flowers(reference, start), rtol=1e-4, atol=1e-5)


class PaperFedAdam(FedAdam):
    """Flower's FedAdam without the bias correction that it adds to the paper's."""

    def aggregate_train(self, server_round, replies):
        correction = np.sqrt(1 - self.beta_2 ** (server_round + 1)) / (1 - self.beta_1 ** (server_round + 1))
        self.eta /= correction
        result = super().aggregate_train(server_round, replies)
        self.eta *= correction
        return result


@pytest.mark.usefixtures("a_task")
def test_fedadam_agrees_with_flowers_without_its_bias_correction():
    start = np.ones(20, np.float32)
    found, _ = ours(start, name="fedadam", beta_1=0.8, beta_2=0.95, tau=0.02, server_learning_rate=0.1)
    reference = PaperFedAdam(eta=0.1, beta_1=0.8, beta_2=0.95, tau=0.02)
    reference.v_t = {"w": np.full(20, 0.02**2)}
    np.testing.assert_allclose(found, flowers(reference, start), rtol=1e-4, atol=1e-5)


def test_at_its_default_rate_an_adaptive_step_is_of_the_size_of_the_sites_steps():
    """Why rates above 0.1 are refused: with steps of 0.01 a rate of 1 would move every weight forty times as far."""
    one = a_random_round(size=1000)
    small = a_round(list(one.received + 0.01 * (one.vectors - one.received)), one.received)
    mean = np.abs(np.mean(small.vectors, axis=0) - small.received)
    moved = np.abs(step_of(small, name="fedadam", server_learning_rate=0.01).vector - small.received)
    assert 0.1 < np.median(moved) / np.median(mean) < 10
