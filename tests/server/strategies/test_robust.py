"""Trimmed mean, Krum and geometric median against independent references."""

from itertools import combinations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.multikrum import select_multikrum
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import optimize
from strategy_rounds import a_random_round, a_round, step_of

from f2b_server.strategies.trimmed_mean import cut_at_each_end, sorting_network

FLOATS = st.floats(-1e3, 1e3, width=32)


@pytest.mark.parametrize("sites", [4, 5, 8, 13, 40])
@pytest.mark.parametrize("trim", [0.25, 0.4])
def test_the_trimmed_mean_is_flowers(sites, trim):
    one = a_random_round(seed=sites, sites=sites, size=200)
    found = step_of(one, name="trimmed_mean", trim=trim).vector
    np.testing.assert_allclose(found, trim_mean(one.vectors, trim), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", range(1, 70))
def test_the_sorting_network_sorts(rows):
    columns = np.random.default_rng(rows).integers(0, rows, (rows, 50))
    for low, high in sorting_network(rows):
        columns[[low, high]] = np.sort(columns[[low, high]], axis=0)
    assert (np.diff(columns, axis=0) >= 0).all()


def test_of_three_or_more_sites_at_least_one_is_cut_at_each_end_and_one_remains():
    assert [cut_at_each_end(0.1, sites) for sites in range(1, 8)] == [0, 0, 1, 1, 1, 1, 1]
    assert [cut_at_each_end(0.49, sites) for sites in range(1, 8)] == [0, 0, 1, 1, 2, 2, 3]
    assert cut_at_each_end(0.0, 9) == 0
    assert cut_at_each_end(0.25, 64) == 16


@given(npst.arrays(np.float32, (4, 3), elements=FLOATS), st.integers(0, 3), FLOATS)
def test_one_site_cannot_move_the_trimmed_mean_out_of_the_others_range(vectors, liar, lie):
    vectors[liar] = lie
    received = np.full(3, np.float32(np.pi))
    one = a_round(list(vectors), received)
    found = step_of(one, name="trimmed_mean", longest_norm_ratio=0.0).vector
    honest = np.delete(vectors, liar, axis=0)
    assert (found >= honest.min(axis=0)).all()
    assert (found <= honest.max(axis=0)).all()


@pytest.mark.parametrize(("sites", "byzantine"), [(4, 0), (5, 1), (7, 1), (7, 2), (12, 3)])
def test_krum_takes_the_update_that_flowers_takes(sites, byzantine):
    for seed in range(10):
        one = a_random_round(seed=seed, sites=sites, size=30)
        records = [
            RecordDict({"arrays": ArrayRecord({"w": Array(v.astype(np.float32))})}) for v in one.vectors
        ]
        (chosen,) = select_multikrum(records, byzantine, 1)
        done = step_of(one, name="krum", byzantine_sites=byzantine)
        np.testing.assert_array_equal(done.vector, chosen["arrays"]["w"].numpy())
        assert len(done.left_out) == sites - 1


@pytest.mark.parametrize(("sites", "byzantine"), [(3, 0), (3, 1), (4, 1), (5, 2)])
def test_with_one_neighbour_krum_takes_the_first_of_the_closest_two(sites, byzantine):
    for seed in range(10):
        one = a_random_round(seed=seed, sites=sites, size=30)
        pairs = list(combinations(range(sites), 2))
        gaps = [np.linalg.norm(one.vectors[i] - one.vectors[j]) for i, j in pairs]
        first = pairs[int(np.argmin(gaps))][0]
        done = step_of(one, name="krum", byzantine_sites=byzantine)
        np.testing.assert_array_equal(done.vector, one.updates[first].vector)


def test_krum_leaves_a_far_update_alone_however_many_patients_it_claims():
    rng = np.random.default_rng(0)
    vectors = [*rng.normal(1, 0.1, (4, 50)), rng.normal(-3, 0.1, 50)]
    done = step_of(a_round(vectors, patients=[10, 10, 10, 10, 10_000]), name="krum")
    assert "s04" in done.left_out
    assert any(np.array_equal(done.vector, np.float32(vector)) for vector in vectors[:4])


def geometric_median(points, weights):
    """By a general minimiser, from the mean."""

    def cost(z):
        return float(weights @ np.linalg.norm(points - z, axis=1))

    start = np.average(points, axis=0, weights=weights)
    return optimize.minimize(cost, start, method="BFGS", options={"gtol": 1e-10}).x


@pytest.mark.parametrize("seed", range(5))
def test_the_geometric_median_minimises_the_sum_of_distances(seed):
    one = a_random_round(seed=seed, sites=6, size=8)
    expected = geometric_median(one.vectors, one.patients / one.patients.sum())
    found = step_of(one, name="geometric_median").vector
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_geometric_median_of_points_on_a_line_is_the_median():
    one = a_round([[x, 0.0] for x in (0.5, 1.0, 2.0, 4.0, 9.0)])
    np.testing.assert_allclose(step_of(one, name="geometric_median").vector, [2.0, 0.0], atol=1e-4)


def test_the_geometric_median_stays_with_the_majority_however_far_the_others_go():
    rng = np.random.default_rng(1)
    honest = rng.normal(1, 0.1, (3, 30))
    for distance in (1e2, 1e5):
        one = a_round([*honest, np.full(30, distance), np.full(30, -distance)])
        found = step_of(one, name="geometric_median", longest_norm_ratio=0.0).vector
        assert np.linalg.norm(found - honest.mean(axis=0)) < 1.0


@pytest.mark.parametrize("name", ["krum", "geometric_median"])
def test_of_two_updates_nobody_can_say_which_is_wrong_so_their_mean_is_taken(name):
    done = step_of(a_round([[1.0, 2.0], [3.0, 6.0]], patients=[30, 10]), name=name)
    np.testing.assert_allclose(done.vector, [1.5, 3.0])
    assert done.left_out == {}
