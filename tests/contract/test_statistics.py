"""Statistics are exactly what their schema declares, and merge by addition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from face2bone_model.contract.errors import EgressError
from face2bone_model.contract.statistics import SiteStatistics, TableSpec, check_statistics, schema_digest

SCHEMA = (
    TableSpec(name="counts", shape=(2, 3)),
    TableSpec(name="flag", shape=(1,), high=1),
    TableSpec(name="losses", shape=(2,), dtype="float64", high=100),
)
COUNTS = npst.arrays(np.int64, (2, 3), elements=st.integers(0, 2**31))
LOSSES = npst.arrays(np.float64, (2,), elements=st.floats(0, 100))
STATISTICS = st.builds(
    lambda counts, losses: SiteStatistics(
        tables={"counts": counts, "flag": np.ones(1, np.int64), "losses": losses}
    ),
    COUNTS,
    LOSSES,
)


def changed(statistics, name, table):
    return SiteStatistics(tables={**statistics.tables, name: table})


@given(STATISTICS)
def test_what_the_schema_declares_passes(statistics):
    check_statistics(statistics, SCHEMA)


@given(STATISTICS, st.sampled_from(["counts", "flag", "losses"]), st.text(max_size=8))
def test_a_missing_or_undeclared_table_is_named(statistics, missing, extra):
    tables = dict(statistics.tables)
    tables.pop(missing)
    with pytest.raises(EgressError, match=missing):
        check_statistics(SiteStatistics(tables=tables), SCHEMA)
    if extra not in statistics.tables:
        with pytest.raises(EgressError, match="not what the study declares"):
            check_statistics(changed(statistics, extra, np.ones(1, np.int64)), SCHEMA)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("counts", np.zeros((3, 2), np.int64)),
        ("counts", np.zeros(6, np.int64)),
        ("counts", np.zeros((2, 3), np.int32)),
        ("counts", np.zeros((2, 3), np.float64)),
        ("counts", np.full((2, 3), "P-0001")),
        ("losses", np.zeros(2, np.float32)),
        ("losses", np.zeros(2, np.int64)),
    ],
)
def test_another_shape_or_dtype_is_refused(name, table):
    good = SiteStatistics(tables={s.name: np.zeros(s.shape, s.dtype) for s in SCHEMA})
    with pytest.raises(EgressError, match=f"Table '{name}'"):
        check_statistics(changed(good, name, table), SCHEMA)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("counts", -1),
        ("counts", 2**31 + 1),
        ("flag", 2),
        ("losses", -1e-9),
        ("losses", 100.1),
        ("losses", np.nan),
        ("losses", np.inf),
        ("losses", -np.inf),
    ],
)
def test_one_value_out_of_range_is_enough(name, value):
    good = SiteStatistics(tables={s.name: np.zeros(s.shape, s.dtype) for s in SCHEMA})
    table = good[name].copy()
    table.flat[-1] = value
    with pytest.raises(EgressError, match="outside"):
        check_statistics(changed(good, name, table), SCHEMA)


@given(STATISTICS, STATISTICS)
def test_sums_merge_table_by_table_and_in_any_order(one, other):
    both = one + other
    for name in one.tables:
        np.testing.assert_array_equal(both[name], one[name] + other[name])
        np.testing.assert_array_equal(both[name], (other + one)[name])


@given(STATISTICS)
def test_statistics_of_different_schemas_do_not_merge(statistics):
    with pytest.raises(ValueError, match="different schemas"):
        _ = statistics + changed(statistics, "more", np.ones(1))


SPEC = TableSpec(name="n", shape=(2,))


@pytest.mark.parametrize(
    "other",
    [
        TableSpec(name="m", shape=(2,)),
        TableSpec(name="n", shape=(3,)),
        TableSpec(name="n", shape=(2,), dtype="float64"),
        TableSpec(name="n", shape=(2,), high=5),
        TableSpec(name="n", shape=(2,), low=-1),
    ],
)
def test_the_digest_of_a_schema_follows_everything_a_table_declares(other):
    assert schema_digest([SPEC]) != schema_digest([other])
    assert schema_digest([SPEC, other]) == schema_digest([other, SPEC])
