"""Small cells stay at the site, and what would give them away stays with them."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from face2bone_model.contract.keys import Split
from face2bone_model.contract.statistics import check_statistics
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.attack import UNKNOWN, Attack, Knowledge
from face2bone_model.metrics.description import describe_schema, describe_update
from face2bone_model.metrics.evaluation import (
    evaluation_schema,
    evaluation_update,
    validation_schema,
    validation_update,
)
from face2bone_model.metrics.family import SITE_FACTS
from face2bone_model.metrics.population_audit import Patients, PopulationAudit, Told, longest_safe
from face2bone_model.metrics.reply_audit import MOST_ATOMS, ReplyAudit, _Atoms
from face2bone_model.metrics.summary import describe_summary, evaluation_report
from face2bone_model.metrics.suppression import families_by_use, is_count, suppress, withheld_families
from face2bone_model.metrics.tells import CLASS, OSTEOPOROSIS_OR_NOT, SPLITS, TOTAL, Tell, tell_of

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


def brute_force(rows, counts, target, most):
    """Least and most a sum over atoms can be, by trying every table of patients."""
    tables = np.indices((most + 1,) * len(target)).reshape(len(target), -1)
    values = (target @ tables)[(rows @ tables == counts[:, None]).all(axis=0)].tolist()
    return min(values), max(values)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4]))
def test_what_is_given_away_is_what_trying_every_table_of_patients_shows(seed, min_cell):
    """Counts of runs of neighbouring kinds, for which linear programmes have whole-numbered ends."""
    rng = np.random.default_rng(seed)
    patients = rng.integers(0, 4, 4)
    ends = np.sort(rng.integers(0, 5, (3, 2)), axis=1)
    rows = np.array([[low <= i < high for i in range(4)] for low, high in [(0, 4), *ends]])
    target = np.array([seed % 3 <= i < seed % 3 + 2 for i in range(4)])
    counts = rows @ patients
    low, high = brute_force(rows, counts, target, int(patients.sum()))
    truth = int(target @ patients)
    left = len(set(range(low, high + 1)) & set(range(min_cell + 1)))
    for known, away in ((truth, left < (min_cell + 2) // 2), (UNKNOWN, low >= 1 and high < min_cell)):
        attack = Attack.on(
            Knowledge(sums=rows, counts=counts), target[None], np.array([known]), min_cell=min_cell
        )
        assert attack.gives_away(0) == away


def test_counts_that_fit_no_patients_give_no_answer():
    impossible = Knowledge(sums=np.ones((1, 2), bool), counts=np.array([3]))
    contradicted = Knowledge(sums=np.array([[1, 1], [1, 0]], bool), counts=np.array([3, 5]))
    target = np.array([[True, False]])
    assert Attack.on(impossible, target, np.array([1]), min_cell=2) is not None
    assert Attack.on(contradicted, target, np.array([1]), min_cell=2) is None


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(0, 30))
def test_the_longest_safe_choice_takes_whatever_still_fits_in_order(weights, room):
    items = list(enumerate(weights))
    expected, used = [], 0
    for item in items:
        if used + item[1] <= room:
            expected.append(item)
            used += item[1]
    assert list(longest_safe(items, lambda taken: sum(w for _, w in taken) <= room)) == expected


def the_few_between():
    """3 patients called osteoporotic at 0.45; the others called so are at 0.9, the rest of that bin is not called."""
    rows = (
        [([0.05, 0.05, 0.9], k) for k in (0, 1, 2) for _ in range(20)]
        + [([0.19, 0.36, 0.45], 2)] * 3
        + [([0.08, 0.50, 0.42], k) for k in (0, 1, 2) for _ in range(20)]
        + [([0.70, 0.25, 0.05], k) for k in (0, 1, 2) for _ in range(20)]
    )
    probabilities, labels = (np.array(column) for column in zip(*rows, strict=True))
    n = len(labels)
    return evaluation_update(STUDY, probabilities, labels, np.arange(n) % 2 == 0, np.full(n, 65))


def test_two_tables_that_give_a_few_patients_away_together_do_not_leave_together():
    statistics = the_few_between()
    audit = ReplyAudit(statistics, age_edges=STUDY.age_edges, known=(), min_cell=11)
    passed = families_by_use(suppress(statistics, min_cell=11))
    assert {"all/confusion", "all/calibration_5"} <= set(passed)
    assert audit.safe(["all/confusion"])
    assert audit.safe(["all/calibration_5"])
    assert not audit.safe(["all/confusion", "all/calibration_5"])
    kept = longest_safe(passed, audit.safe)
    assert "all/confusion" in kept  # the coarser stays
    assert "all/calibration_5" not in kept


def test_what_is_too_large_to_be_checked_does_not_leave():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1, 1, 1], 60_000)
    n = len(probabilities)
    labels = rng.integers(0, 3, n)
    statistics = evaluation_update(STUDY, probabilities, labels, rng.random(n) < 0.5, rng.integers(40, 90, n))
    audit = ReplyAudit(statistics, age_edges=STUDY.age_edges, known=(), min_cell=2)
    assert n > MOST_ATOMS
    assert not audit.safe(["all/scores"])
    assert audit.safe(["all/losses"])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_audit_places_a_patient_in_the_cells_in_which_she_is_counted(seed):
    """One patient at a time: every integer table of the evaluation against the rows of her kind."""
    rng = np.random.default_rng(seed)
    study = EvaluationSettings(score_bins=24, calibration_bins=6)
    probabilities = rng.dirichlet([1, 1, 1], 1)
    label, female, age = rng.integers(0, 3, 1), rng.random(1) < 0.5, rng.integers(40, 90, 1)
    statistics = evaluation_update(study, probabilities, label, female, age)
    tables = {name: table for name, table in statistics.tables.items() if is_count(name, table)}
    atoms = _Atoms.of(tables, True, (0, *study.age_edges, 1000))
    cells = {name: np.array(atoms.rows(name, t.shape, study.age_edges)) for name, t in tables.items()}
    mine = np.ones(atoms.size, bool)
    for name, table in tables.items():
        mine &= ((table.reshape(-1) > 0) == cells[name].T).all(axis=1)
    assert mine.any()


def test_every_family_says_how_many_patients_it_tells_of():
    evaluated, validated, described = (statistics for statistics, _ in statistics_of(1, 300))
    assert tell_of("sex/accuracy", evaluated) == Tell("sex", TOTAL)
    assert tell_of("all/screen", evaluated) == Tell("all", OSTEOPOROSIS_OR_NOT)
    assert tell_of("all/pairs", evaluated) == Tell("all", CLASS)
    assert tell_of("age/confusion", evaluated) == Tell("age", CLASS)
    assert tell_of("all/pairs", validated) == Tell("all", OSTEOPOROSIS_OR_NOT)
    assert tell_of("all/top_label_15", evaluated) == Tell("all", TOTAL)
    assert tell_of("all/splits_by_class", described) == Tell(SPLITS, CLASS)
    assert tell_of("all/excluded_patients", described) is None


def patients(number, *, label=0, age=65, start=0):
    return Patients(
        keys=tuple(f"{start + i:05d}" for i in range(number)),
        splits=(Split.TEST,) * number,
        labels=np.full(number, label),
        female=np.zeros(number, bool),
        ages=np.full(number, age),
    )


@pytest.mark.parametrize(("added", "safe"), [(0, True), (1, False), (10, False), (11, True), (40, True)])
def test_a_total_is_told_again_only_when_enough_were_added(added, safe):
    edges, total = (50, 60, 70, 80), Tell("all", TOTAL)
    before = Told(patients=patients(60), split=Split.TEST, age_edges=edges, tells=frozenset([total]))
    after = Told(patients=patients(60 + added), split=Split.TEST, age_edges=edges, tells=frozenset())
    assert PopulationAudit([before], after, min_cell=11).safe([total]) == safe


@pytest.mark.parametrize(("went", "came"), [(1, 1), (10, 10), (3, 0)])
def test_an_exchange_of_few_patients_is_nearly_the_same_population(went, came):
    edges, total = (50,), Tell("all", TOTAL)
    before = Told(patients=patients(60), split=Split.TEST, age_edges=edges, tells=frozenset([total]))
    after = Told(
        patients=patients(60 - went + came, start=went), split=Split.TEST, age_edges=edges, tells=frozenset()
    )
    assert PopulationAudit([before], after, min_cell=11).nearly_told(total)
    assert not PopulationAudit([before], after, min_cell=max(went, came)).nearly_told(total)
