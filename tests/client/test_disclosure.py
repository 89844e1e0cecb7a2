"""What was told before counts: replies of all rounds and studies are protected together."""

import os
import sqlite3
import stat
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest

from f2b_client.disclosure import POPULATION, SMALL_CELL, THING, DisclosureMemory, Subject
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import RecordsError
from face2bone_model.contract.keys import Split
from face2bone_model.contract.statistics import check_statistics
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.description import describe_update
from face2bone_model.metrics.evaluation import evaluation_schema, evaluation_update, validation_update
from face2bone_model.metrics.suppression import families_by_use, suppress, withheld_families
from face2bone_model.metrics.tells import COUNTS_OF_THINGS

STUDY = EvaluationSettings()
OTHER_AGES = EvaluationSettings(age_edges=(55, 65, 75))


@dataclass
class Table:
    """The part of a cohort that says who is in it."""

    patient_ids: tuple
    labels: np.ndarray
    female: np.ndarray
    ages: np.ndarray
    splits: np.ndarray

    def keep(self, mask):
        names = tuple(np.array(self.patient_ids)[mask].tolist())
        return Table(names, self.labels[mask], self.female[mask], self.ages[mask], self.splits[mask])

    def and_also(self, other):
        columns = ("labels", "female", "ages", "splits")
        joined = [np.concatenate([getattr(self, c), getattr(other, c)]) for c in columns]
        return Table((*self.patient_ids, *other.patient_ids), *joined)


def people(n, *, seed=0, prefix="patient", **fixed):
    rng = np.random.default_rng(seed)
    columns = {
        "labels": rng.choice(3, n, p=[0.35, 0.4, 0.25]),
        "female": rng.random(n) < 0.6,
        "ages": rng.integers(42, 88, n),
        "splits": rng.choice(["train", "validation", "test"], n, p=[0.6, 0.2, 0.2]),
    }
    columns |= {name: np.full(n, value) for name, value in fixed.items()}
    return Table(tuple(f"{prefix}-{i:04d}" for i in range(n)), **columns)


def model_of(number, table):
    """What a model says of each patient: by her own number, whoever else is asked about."""
    logits = np.array(
        [np.random.default_rng([number, *name.encode()]).normal(size=3) for name in table.patient_ids]
    )
    logits = logits.reshape(-1, 3)
    logits[np.arange(len(logits)), table.labels] += 1.5
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.fixture
def memory(tmp_path):
    return DisclosureMemory(SiteFolder(tmp_path / "site"))


def protect(  # noqa: PLR0913  # one keyword for each thing a test changes
    memory, table, split, *, study=STUDY, model=1, key="k", min_cell=11, excluded=0, measured=True
):
    def statistics(some):
        if split is None:
            return describe_update(
                study,
                labels=some.labels,
                splits=some.splits,
                female=some.female,
                ages=some.ages,
                excluded_patients=excluded,
                quarantined_photos=0,
            )
        said = model_of(model, some)
        if split is Split.VALIDATION:
            return validation_update(study, said, some.labels)
        return evaluation_update(study, said, some.labels, some.female, some.ages)

    own = table if split is None else table.keep(table.splits == split.value)
    subject = Subject(
        patients=memory.patients(table),
        split=split,
        age_edges=study.age_edges,
        measure=(lambda mask: statistics(own.keep(mask))) if measured else None,
    )
    return memory.protect(
        statistics(own), subject, study_hash=str(study.age_edges), request_key=key, min_cell=min_cell
    )


def let_out(memory, *arguments, **named):
    protected = protect(memory, *arguments, **named)
    memory.record(protected)
    return protected


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one.tables | other.tables)


def test_an_ordinary_site_loses_nothing_beyond_small_cells_and_no_time(memory):
    table = people(300)
    for split in (None, Split.VALIDATION, Split.TEST):
        assert set(let_out(memory, table, split, key=f"first {split}").withheld.values()) <= {SMALL_CELL}
    began = time.process_time()
    for number in range(10):
        protected = let_out(memory, table, Split.VALIDATION, model=number, key=f"train {number}")
        assert set(protected.withheld.values()) <= {SMALL_CELL}
        assert {"all/losses", "all/pairs"} <= set(families_by_use(protected.statistics))
    assert time.process_time() - began < 10


def test_a_minimum_of_one_withholds_nothing_and_is_remembered(memory):
    table, newcomers = people(100, splits="test"), people(3, prefix="new", splits="test")
    for key, asked in (("a", table), ("b", table.and_also(newcomers))):
        protected = let_out(memory, asked, Split.TEST, key=key, min_cell=1)
        assert withheld_families(protected.statistics) == ()
    one_more = table.and_also(newcomers.keep(np.arange(3) < 1))
    assert families_by_use(protect(memory, one_more, Split.TEST, key="c").statistics) == ()


def test_what_leaves_is_what_the_schema_declares_and_no_more_than_the_primary_rule_lets_out(memory):
    let_out(memory, people(300), None)
    protected = protect(memory, people(320), Split.TEST, key="e")
    check_statistics(protected.statistics, evaluation_schema(STUDY))
    plain = suppress(protect(memory, people(320), Split.TEST, min_cell=1).statistics, min_cell=11)
    for name, table in protected.statistics.tables.items():
        assert not table.any() or np.array_equal(table, plain[name])


@pytest.mark.parametrize("split", [None, Split.VALIDATION, Split.TEST])
def test_one_patient_more_shows_in_no_later_reply(memory, split):
    table = people(300)
    newcomer = people(1, prefix="new", splits="test" if split is None else split.value)
    assert families_by_use(let_out(memory, table, split, key="before").statistics)
    after = protect(memory, table.and_also(newcomer), split, key="after")
    assert set(families_by_use(after.statistics)) <= COUNTS_OF_THINGS
    assert POPULATION in after.withheld.values()


def test_a_newcomer_in_training_leaves_the_test_patients_reply_alone(memory):
    table = people(300)
    first = let_out(memory, table, Split.TEST, key="before")
    later = protect(memory, table.and_also(people(1, prefix="new", splits="train")), Split.TEST, key="after")
    assert same(first.statistics, later.statistics)


def test_a_cell_of_ten_does_not_show_as_eleven_once_a_patient_has_come(memory):
    table = people(40, labels=0, splits="test").and_also(people(10, prefix="ill", labels=2, splits="test"))
    first = let_out(memory, table, Split.TEST, key="round 1")
    assert first.withheld["all/counts"] == SMALL_CELL
    assert "all/losses" in families_by_use(first.statistics)
    grown = table.and_also(people(1, prefix="new", labels=2, splits="test"))
    second = let_out(memory, grown, Split.TEST, key="round 2")
    assert second.withheld["all/counts"] == POPULATION
    third = let_out(
        memory, table.and_also(people(12, prefix="new", labels=2, splits="test")), Split.TEST, key="3"
    )
    assert third.withheld.get("all/counts") is None or third.withheld["all/counts"] == POPULATION


def test_enough_newcomers_are_told_and_those_of_a_small_class_are_not(memory):
    table = people(120, splits="test")
    let_out(memory, table, Split.TEST, key="before")
    enough = protect(
        memory, table.and_also(people(60, prefix="new", splits="test", seed=5)), Split.TEST, key="a"
    )
    assert {"all/losses", "all/counts"} <= set(families_by_use(enough.statistics))
    mixed = people(40, prefix="new", labels=0, splits="test").and_also(
        people(2, prefix="odd", labels=2, splits="test")
    )
    few = protect(memory, table.and_also(mixed), Split.TEST, key="b")
    assert few.withheld["all/counts"] == POPULATION
    assert "all/losses" in families_by_use(few.statistics)


def test_the_same_model_asked_again_shows_nothing_small_of_the_newcomers(memory, tmp_path):
    table = people(150, splits="test", female=True, ages=65)
    let_out(memory, table, Split.TEST, key="before", model=7)
    newcomers = people(45, prefix="new", splits="test", seed=2, female=True, ages=65)
    after = protect(memory, table.and_also(newcomers), Split.TEST, key="after", model=7)
    alone = protect(DisclosureMemory(SiteFolder(tmp_path / "elsewhere")), newcomers, Split.TEST, model=7)
    hidden = {family for family, why in alone.withheld.items() if why == SMALL_CELL}
    assert not {f for f in families_by_use(after.statistics) if f.startswith("all/")} & hidden
    assert "all/losses" in families_by_use(after.statistics)
    unmeasured = protect(memory, table.and_also(newcomers), Split.TEST, key="u", model=7, measured=False)
    assert not {"all/accuracy", "all/recall"} & set(families_by_use(unmeasured.statistics))


def test_what_a_model_says_of_patients_who_left_is_not_told_by_difference(memory):
    table = people(150, splits="test")
    let_out(memory, table, Split.TEST, key="before")
    after = protect(memory, table.keep(np.arange(150) >= 30), Split.TEST, key="after")
    assert after.withheld["all/accuracy"] == POPULATION


@pytest.mark.parametrize(("between", "told"), [(0, True), (3, False), (10, False), (11, True)])
def test_another_studys_age_bands_do_not_cut_out_a_few(memory, between, told):
    ages = np.array([55] * 40 + [62] * between + [67] * 40 + [75] * 40)
    table = replace(people(len(ages)), ages=ages)
    first = let_out(memory, table, None, study=EvaluationSettings(age_edges=(60, 70)))
    assert "age/totals" in families_by_use(first.statistics)
    second = protect(memory, table, None, study=EvaluationSettings(age_edges=(65, 70)), key="2")
    assert ("age/totals" in families_by_use(second.statistics)) == told
    assert told or second.withheld["age/totals"] == POPULATION


def test_the_number_of_excluded_patients_is_told_again_only_after_a_large_change(memory):
    table = people(300)
    name = "all/excluded_patients"
    for key, excluded, told in (
        ("a", 40, True),
        ("b", 41, False),
        ("c", 40, True),
        ("d", 60, True),
        ("e", 55, False),
    ):
        protected = let_out(memory, table, None, key=key, excluded=excluded)
        assert (name in families_by_use(protected.statistics)) == told, key
        assert told or protected.withheld[name] == THING


def test_the_same_question_has_the_same_answer_whatever_came_between(memory, tmp_path):
    table = people(300)
    first = protect(memory, table, Split.TEST, key="q")
    assert same(
        first.statistics, protect(memory, table, Split.TEST, key="q").statistics
    )  # not recorded: a crash
    memory.record(first)
    memory.record(first)
    let_out(memory, table, None, study=OTHER_AGES, key="other")
    again = protect(DisclosureMemory(SiteFolder(tmp_path / "site")), table, Split.TEST, key="q")
    assert same(first.statistics, again.statistics)
    assert again.withheld == first.withheld


def test_a_question_repeated_about_changed_patients_is_another_question(memory):
    table = people(300, splits="test")
    let_out(memory, table, Split.TEST, key="q")
    changed = protect(memory, table.and_also(people(1, prefix="new", splits="test")), Split.TEST, key="q")
    assert families_by_use(changed.statistics) == ()


def test_a_stricter_minimum_holds_for_a_repeated_question_too(memory):
    table = people(300)
    let_out(memory, table, Split.TEST, key="q", min_cell=5)
    strict = protect(memory, table, Split.TEST, key="q", min_cell=40)
    assert set(withheld_families(strict.statistics)) >= set(
        withheld_families(suppress(strict.statistics, min_cell=40))
    )
    assert all(count == 0 or count >= 40 for count in strict.statistics["sex/accuracy/outcomes"].reshape(-1))


def test_the_memory_holds_no_patient_number_and_only_its_owner_reads_it(memory, tmp_path):
    let_out(memory, people(60), None)
    files = [path for path in (tmp_path / "site").iterdir() if path.name.startswith("disclosure.db")]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"patient-00" not in path.read_bytes()


def test_a_patient_whose_diagnosis_changed_counts_as_one_who_went_and_one_who_came(memory):
    table = people(300, splits="test")
    let_out(memory, table, Split.TEST, key="before")
    labels = table.labels.copy()
    labels[0] = (labels[0] + 1) % 3
    assert (
        families_by_use(protect(memory, replace(table, labels=labels), Split.TEST, key="after").statistics)
        == ()
    )


@pytest.mark.parametrize("kind", ["patients", "reply"])
def test_nothing_leaves_on_a_damaged_memory(memory, tmp_path, kind):
    let_out(memory, people(60), None)
    with sqlite3.connect(tmp_path / "site" / "disclosure.db") as connection:
        connection.execute("UPDATE disclosures SET body = '{' WHERE kind = ?", [kind])
    with pytest.raises(RecordsError, match="damaged"):
        protect(memory, people(60), None, key="next")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "disclosure.db").write_bytes(os.urandom(4096))
    with pytest.raises(RecordsError):
        DisclosureMemory(SiteFolder(tmp_path)).patients(people(3))
