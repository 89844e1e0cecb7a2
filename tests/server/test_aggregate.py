"""The federated average is the weighted mean, whoever answers first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from f2b_server.aggregate import federated_average, pool
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.update import Update

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
    found = federated_average(updates)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * (1 + np.abs(vectors).max()))


@given(UPDATES, st.randoms())
def test_the_order_of_arrival_does_not_change_a_bit(updates, random):
    names = list(updates)
    random.shuffle(names)
    assert federated_average({name: updates[name] for name in names}).tobytes() == (
        federated_average(updates).tobytes()
    )


def test_sites_that_agree_are_not_changed_by_averaging():
    vector = np.array([0.1, -3.25, 1e-7], np.float32)
    updates = {name: an_update(vector, n) for name, n in (("a", 1), ("b", 7), ("c", 1000))}
    np.testing.assert_array_equal(federated_average(updates), vector)


def test_updates_without_patients_cannot_be_averaged():
    with pytest.raises(ValueError, match="without patients"):
        federated_average({"a": an_update([1.0], 0)})


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
