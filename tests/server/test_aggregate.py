"""The federated average is the weighted mean, whoever answers first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from f2b_server.aggregate import federated_average, pool
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.update import ModelSignature, Update

FLOATS = st.floats(-1e6, 1e6, width=32)


def an_update(vector, num_patients):
    return Update(
        vector=np.asarray(vector, np.float32),
        num_patients=num_patients,
        train_loss=0.0,
        epsilon=0.0,
        delta=0.0,
        noise_multiplier=0.0,
        validation=SiteStatistics(tables={}),
    )


def average(updates, received=None, sizes=None):
    """The average of updates that all started from `received`, one tensor unless sizes say otherwise."""
    length = next(iter(updates.values())).vector.size
    received = np.full(length, np.float32(np.pi)) if received is None else np.asarray(received, np.float32)
    tensors = tuple((f"t{index}", (size,)) for index, size in enumerate(sizes or [length]))
    return federated_average(updates, received, ModelSignature(tensors, "trunk"))


UPDATES = st.integers(1, 6).flatmap(
    lambda size: st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=3),
        st.builds(an_update, npst.arrays(np.float32, (size,), elements=FLOATS), st.integers(1, 10_000)),
        min_size=1,
        max_size=5,
    )
)


@given(UPDATES)
def test_the_federated_average_is_the_mean_weighted_by_patients(updates):
    vectors = np.stack([update.vector.astype(np.float64) for update in updates.values()])
    weights = [update.num_patients for update in updates.values()]
    expected = np.average(vectors, axis=0, weights=weights)
    found = average(updates)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * (1 + np.abs(vectors).max()))


@given(UPDATES, st.randoms())
def test_the_order_of_arrival_does_not_change_a_bit(updates, random):
    names = list(updates)
    random.shuffle(names)
    assert average({name: updates[name] for name in names}).tobytes() == (average(updates).tobytes())


def test_sites_that_agree_are_not_changed_by_averaging():
    vector = np.array([0.1, -3.25, 1e-7], np.float32)
    updates = {name: an_update(vector, n) for name, n in (("a", 1), ("b", 7), ("c", 1000))}
    np.testing.assert_allclose(average(updates), vector, rtol=1e-7)


def test_a_tensor_that_a_site_did_not_train_is_averaged_over_those_that_did():
    received = [1.0, 1.0, 5.0]
    updates = {"head only": an_update([1.0, 1.0, 9.0], 10), "all": an_update([2.0, 4.0, 6.0], 30)}
    np.testing.assert_allclose(average(updates, received, sizes=[2, 1]), [2.0, 4.0, 0.25 * 9 + 0.75 * 6])


def test_a_tensor_that_nobody_trained_stays_as_it_was():
    received = [0.5, -1.5]
    updates = {"a": an_update(received, 10), "b": an_update(received, 3)}
    np.testing.assert_array_equal(average(updates, received), received)


@given(
    st.dictionaries(
        st.text("abc", min_size=1), st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=2), min_size=1
    )
)
def test_pooled_sums_do_not_depend_on_the_order_either(tables):
    statistics = {name: SiteStatistics(tables={"t": np.array(values)}) for name, values in tables.items()}
    backwards = {name: statistics[name] for name in reversed(statistics)}
    pooled = pool(statistics)["t"]
    np.testing.assert_allclose(pooled, np.sum(list(tables.values()), axis=0), atol=1e-9)
    assert pooled.tobytes() == pool(backwards)["t"].tobytes()
