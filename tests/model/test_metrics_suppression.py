"""Small cells stay at the site."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from face2bone_model.contract.statistics import check_statistics
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.description import describe_schema, describe_update
from face2bone_model.metrics.evaluation import (
    evaluation_schema,
    evaluation_update,
    validation_schema,
    validation_update,
)
from face2bone_model.metrics.family import SITE_FACTS
from face2bone_model.metrics.summary import describe_summary, evaluation_report
from face2bone_model.metrics.suppression import suppress, withheld_families

STUDY = EvaluationSettings()


def cohort(seed, n, skill=1.5):
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=rng.dirichlet([4, 4, 2]))
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += skill
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, labels, rng.random(n) < 0.7, rng.integers(40, 90, n)


def statistics_of(seed, n):
    probabilities, labels, female, ages = cohort(seed, n)
    splits = np.random.default_rng(seed).choice(["train", "validation", "test"], n)
    described = describe_update(
        STUDY,
        labels=labels,
        splits=splits,
        female=female,
        ages=ages,
        excluded_patients=seed % 30,
        quarantined_photos=5,
    )
    return [
        (evaluation_update(STUDY, probabilities, labels, female, ages), evaluation_schema(STUDY)),
        (validation_update(STUDY, probabilities, labels), validation_schema(STUDY)),
        (described, describe_schema(STUDY)),
    ]


def counts(statistics):
    for name, table in statistics.tables.items():
        if np.issubdtype(table.dtype, np.integer) and name != "sites" and not name.endswith("/released"):
            yield name, table


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(0, 3000), st.sampled_from([2, 5, 8, 11, 30]))
def test_nothing_released_has_a_small_cell(seed, n, min_cell):
    for statistics, schema in statistics_of(seed, n):
        released = suppress(statistics, min_cell=min_cell)
        check_statistics(released, schema)
        for name, table in counts(released):
            assert not ((table > 0) & (table < min_cell)).any(), name


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(0, 3000))
def test_a_family_leaves_whole_or_as_zeros(seed, n):
    for statistics, _ in statistics_of(seed, n):
        released = suppress(statistics, min_cell=11)
        for name, table in released.tables.items():
            if name in SITE_FACTS:  # about the site itself
                continue
            flag = released[f"{name.rpartition('/')[0]}/released"][0]
            assert np.array_equal(table, statistics[name] * flag), name


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(1, 3000))
def test_counts_that_follow_from_released_ones_are_not_small_either(seed, n):
    """Sums over the cells of a family, and differences of cumulative counts on any two released grids."""
    released = suppress(statistics_of(seed, n)[0][0], min_cell=11)
    cumulative = {}
    for bins in (1020, 15, 5, 1):
        name = "all/scores" if bins == 1020 else f"all/calibration_{bins}"
        if released[f"{name}/released"][0]:
            edges = np.arange(1, bins + 1) * (1020 // bins)
            for k in range(3):
                for side in range(2):
                    values = released[f"{name}/counts"][0, k, :, side].cumsum()
                    known = cumulative.setdefault((k, side), {0: 0})
                    known.update(zip(edges.tolist(), values.tolist(), strict=True))
    for known in cumulative.values():
        steps = np.diff([known[edge] for edge in sorted(known)])
        assert not ((steps > 0) & (steps < 11)).any()
    for name, table in counts(released):
        total = table.sum(axis=-1)
        assert not ((total > 0) & (total < 11)).any(), name


def test_a_minimum_cell_of_one_withholds_nothing():
    for statistics, _ in statistics_of(1, 200):
        released = suppress(statistics, min_cell=1)
        assert all(np.array_equal(released[name], table) for name, table in statistics.tables.items())
        assert withheld_families(released) == ()


def test_a_hospital_with_a_minimum_of_eleven_still_reports_its_main_figures():
    report = evaluation_report(suppress(statistics_of(3, 250)[0][0], min_cell=11), STUDY)
    metrics = report.groups["all"].metrics
    for name in ("accuracy", "auc_within_site:osteoporosis", "brier", "log_loss", "oe:osteoporosis"):
        assert metrics[name].known, name
    assert not metrics["auc:osteoporosis"].known
    assert metrics["auc:osteoporosis"].reason == "Withheld at every site (1) because of small cells."
    assert report.groups["all"].confusion is None


def test_a_large_hospital_falls_back_to_coarser_bins():
    probabilities, labels, female, ages = cohort(3, 6000, skill=0.5)
    statistics = suppress(evaluation_update(STUDY, probabilities, labels, female, ages), min_cell=11)
    assert {"all/scores", "all/calibration_15"} <= set(withheld_families(statistics))
    metrics = evaluation_report(statistics, STUDY).groups["all"].metrics
    assert metrics["ece:osteoporosis"].definition.endswith("5 equal-width bins, osteoporosis")
    low, high = metrics["auc:osteoporosis"].bound
    assert low <= roc_auc_score(labels == 2, probabilities[:, 2]) <= high
    assert 0.01 < high - low < 0.3


def test_pooled_figures_use_the_sites_that_released_and_say_so():
    open_site, small_site = statistics_of(5, 300)[0][0], statistics_of(6, 40)[0][0]
    total = suppress(open_site, min_cell=1) + suppress(small_site, min_cell=11)
    alone = evaluation_report(open_site, STUDY).groups["all"].metrics["f1:macro"]
    both = evaluation_report(total, STUDY).groups["all"].metrics["f1:macro"]
    assert both.value == alone.value
    assert (both.sites, both.withheld) == (1, 1)
    assert both.reason == "1 of 2 sites withheld this because of small cells."
    assert "all/confusion" in withheld_families(total)


def test_the_summary_of_a_described_cohort_says_what_was_withheld():
    summary = describe_summary(suppress(statistics_of(3, 400)[2][0], min_cell=11), STUDY)
    assert summary.quarantined_photos is None
    assert summary.patients_by_group["all"] == 400
    assert sum(summary.patients_by_split.values()) == sum(summary.patients_by_class.values()) == 400
    assert "all/quarantined_photos" in summary.withheld


@pytest.mark.parametrize("min_cell", [1, 11])
def test_suppressing_twice_changes_nothing(min_cell):
    once = suppress(statistics_of(8, 120)[0][0], min_cell=min_cell)
    twice = suppress(once, min_cell=min_cell)
    assert all(np.array_equal(once[name], table) for name, table in twice.tables.items())
