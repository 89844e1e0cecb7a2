"""A coordinator who keeps everything and computes: no suppressed cell can be worked out.

The attacker here shares nothing with the audits: she runs the very code that measures, on one imagined patient of
each kind, to learn which released numbers that kind adds to, and solves integer programmes over all replies of all
phases, rounds and studies at once. She knows all rules, settings and models, and who belongs to which cohort as far as
a pattern. Switched off, the protection fails against her.
"""

from dataclasses import dataclass, field
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, lil_array

from f2b_client.disclosure import DisclosureMemory, Subject
from f2b_client.settings import SiteFolder
from face2bone_model.contract.keys import Split
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.description import describe_update
from face2bone_model.metrics.evaluation import evaluation_update, validation_update
from face2bone_model.metrics.population_audit import Patients
from face2bone_model.metrics.suppression import suppress

ONE = EvaluationSettings(score_bins=2, calibration_bins=2, age_edges=(60,))
OTHER = EvaluationSettings(score_bins=2, calibration_bins=2, age_edges=(65, 75))
AGES = (55, 62, 70, 80)  # one in each band that both studies' edges make
OUTPUTS = np.array(
    [
        [p, q, 1 - p - q]
        for p in np.arange(0.02, 1, 0.0949)
        for q in np.arange(0.02, 1, 0.0949)
        if p + q < 0.99
    ]
)
KINDS = list(product(range(3), (False, True), AGES))


@dataclass
class Site:
    """A cohort that changes, and what was released of it."""

    rng: np.random.Generator
    people: dict = field(default_factory=dict)
    gone: dict = field(default_factory=dict)
    replies: list = field(default_factory=list)

    def admit(self, number):
        shares = self.rng.dirichlet([3, 3, 2])
        for _ in range(number):
            kind = (
                int(self.rng.choice(3, p=shares)),
                bool(self.rng.random() < 0.6),
                int(self.rng.choice(AGES)),
            )
            split = self.rng.choice(["train", "validation", "test"], p=[0.3, 0.3, 0.4])
            self.people[f"p{self.rng.integers(1 << 40)}"] = (*kind, str(split))

    def discharge(self, number):
        for name in self.rng.permutation(sorted(self.people))[:number]:
            self.gone[str(name)] = self.people.pop(str(name))

    def members(self, split):
        return [name for name, (*_, own) in self.people.items() if split is None or own == split]

    def columns(self, names):
        rows = [self.people[name] for name in names]
        label, female, age, _ = zip(*rows, strict=True) if rows else ((), (), (), ())
        return np.array(label, int), np.array(female, bool), np.array(age, int)


@dataclass
class Reply:
    names: frozenset
    splits: dict
    evaluation: EvaluationSettings
    phase: str
    model: int | None
    truth: object
    released: object


def model_says(model, names, labels):
    """One of OUTPUTS for each patient; the same whenever the same model is asked."""
    said = []
    for name, label in zip(names, labels, strict=True):
        rng = np.random.default_rng([model, *name.encode()])
        weight = np.exp(1.5 * OUTPUTS[:, label] + rng.gumbel(size=len(OUTPUTS)))
        said.append(OUTPUTS[int(weight.argmax())])
    return np.array(said).reshape(-1, 3)


def measured(evaluation, phase, probabilities, columns, splits):
    label, female, age = columns
    if phase == "describe":
        return describe_update(
            evaluation,
            labels=label,
            splits=splits,
            female=female,
            ages=age,
            excluded_patients=0,
            quarantined_photos=0,
        )
    if phase == "validate":
        return validation_update(evaluation, probabilities, label)
    return evaluation_update(evaluation, probabilities, label, female, age)


def ask(site, memory, phase, evaluation, min_cell, model=None):
    """One question, answered with protection if there is a memory, else by the primary rule alone."""
    split = {"describe": None, "validate": "validation", "evaluate": "test"}[phase]
    names = site.members(split)
    columns = site.columns(names)
    splits = np.array([site.people[name][3] for name in names], dtype=str)
    said = None if model is None else model_says(model, names, columns[0])
    truth = measured(evaluation, phase, said, columns, splits)
    if memory is None:
        released = suppress(truth, min_cell=min_cell)
    else:
        everyone = list(site.people)
        label, female, age = site.columns(everyone)
        people = Patients(
            keys=tuple(everyone),
            splits=tuple(Split(site.people[name][3]) for name in everyone),
            labels=label, female=female, ages=age,
        )  # fmt: skip

        def measure(mask):
            some = [names[i] for i in np.flatnonzero(mask)]
            own = site.columns(some)
            return measured(evaluation, phase, model_says(model, some, own[0]), own, splits[mask])

        subject = Subject(
            patients=people,
            split=Split(split) if split else None,
            age_edges=evaluation.age_edges,
            measure=measure if split else None,
        )
        protected = memory.protect(
            truth,
            subject,
            study_hash=str(evaluation.age_edges),
            request_key=str(len(site.replies)),
            min_cell=min_cell,
        )
        memory.record(protected)
        released = protected.statistics
    all_splits = {name: site.people[name][3] for name in names}
    site.replies.append(Reply(frozenset(names), all_splits, evaluation, phase, model, truth, released))


def integer_tables(statistics):
    return {
        name: table.reshape(-1)
        for name, table in statistics.tables.items()
        if np.issubdtype(table.dtype, np.integer)
        and name not in {"sites", "ellipse_only"}
        and not name.endswith("/released")
        and name.split("/")[1] not in {"excluded_patients", "quarantined_photos"}
        and not name.startswith("all/scores")
    }


class Attacker:
    """Integer programme over kinds of patients: a variable for each pattern, kind and (per model) output."""

    def __init__(self, site):
        self.replies = site.replies
        self.patterns = sorted(patterns_of(site), key=str)
        self.static = {key: i for i, key in enumerate(product(self.patterns, range(len(KINDS))))}
        self.size = len(self.static)
        self.rows, self.counts = [], []
        self.outputs = {}
        self.targets = []
        for number, reply in enumerate(self.replies):
            self._learn(number, reply)
        self._wish_for_differences(site)

    def _inside(self, number):
        """Patterns whose patients the reply is about; a pattern is the split at each reply's time, or nothing."""
        return [pattern for pattern in self.patterns if pattern[number] is not None]

    def _learn(self, number, reply):
        if reply.phase == "describe":
            unit = {
                (split, kind): integer_tables(
                    measured(reply.evaluation, "describe", None, one_patient(kind), np.array([split]))
                )
                for split in ("train", "validation", "test")
                for kind in range(len(KINDS))
            }
            every = product(self._inside(number), range(len(KINDS)))
            place = {(p, k): ([self.static[p, k]], [unit[p[number], k]]) for p, k in every}
        else:
            place = self._with_outputs(number, reply)
        self._equations(reply, place)

    def _with_outputs(self, number, reply):
        """Variables for what the model says, which add up to the patients there are."""
        kinds, tables = output_kinds(reply.evaluation, reply.phase)
        place = {}
        for pattern in self._inside(number):
            for k in range(len(KINDS)):
                key = (reply.model, reply.phase, reply.evaluation.age_edges, pattern, k)
                if key not in self.outputs:
                    self.outputs[key] = list(range(self.size, self.size + len(kinds[k])))
                    self.size += len(kinds[k])
                    self._row({**dict.fromkeys(self.outputs[key], 1), self.static[pattern, k]: -1}, 0)
                place[pattern, k] = (self.outputs[key], [tables[k][o] for o in range(len(kinds[k]))])
        return place

    def _equations(self, reply, place):
        truth, released = integer_tables(reply.truth), integer_tables(reply.released)
        for name, counts in truth.items():
            cells = [{} for _ in counts]
            for variables, units in place.values():
                for variable, unit in zip(variables, units, strict=True):
                    for cell in np.flatnonzero(unit[name]):
                        cells[cell][variable] = 1
            out = reply.released[f"{name.rpartition('/')[0]}/released"][0]
            for cell, count in zip(cells, counts, strict=True):
                if out:
                    self._row(cell, int(count))
                elif count > 0:
                    self.targets.append((name, cell, int(count)))
            assert out or not released[name].any()

    def _row(self, cell, count):
        self.rows.append(cell)
        self.counts.append(count)

    def _wish_for_differences(self, site):
        """Whom one reply was about, or one and not another: how many, and of each class, sex and age."""
        people = site.people | site.gone
        presence = {name: tuple(reply.splits.get(name) for reply in self.replies) for name in people}
        pairs = [*permutations(range(len(self.replies)), 2), *((i, None) for i in range(len(self.replies)))]
        for one, other in pairs:
            for what, wanted in ATTRIBUTES.items():
                kinds = [k for k, kind in enumerate(KINDS) if wanted(kind)]
                inside = [p for p in self.patterns if p[one] is not None]
                apart = [p for p in inside if other is None or p[other] is None]
                cell = {self.static[p, k]: 1 for p in apart for k in kinds}
                count = sum(presence[name] in apart and wanted(people[name]) for name in people)
                if count:
                    self.targets.append((f"{what} in {one}, not in {other}", cell, count))

    def attack(self, min_cell):
        """Small suppressed cells and the least and most each can be, as far as it takes to see that it is free."""
        equations = self._matrix(self.rows)
        small = {
            (name, count, tuple(sorted(cell)))
            for name, cell, count in self.targets
            if count < min_cell and cell
        }
        small = sorted(small)
        wanted = self._matrix([dict.fromkeys(cell, 1) for *_, cell in small])
        ranges = np.array([[np.inf, -np.inf]] * len(small)).reshape(-1, 2)

        def look(cost):
            values = wanted @ self._solve(equations, cost)
            ranges[:, 0] = np.minimum(ranges[:, 0], values)
            ranges[:, 1] = np.maximum(ranges[:, 1], values)

        chance = np.random.default_rng(0)
        for _ in small[:6]:
            look(chance.normal(size=self.size))
        for i, sign in product(range(len(small)), (1, -1)):
            if possible(*ranges[i], min_cell) < needed(min_cell):
                look(sign * wanted[[i]].toarray()[0])
        return [(name, count, *map(int, pair)) for (name, count, _), pair in zip(small, ranges, strict=True)]

    def _solve(self, equations, cost):
        found = milp(
            cost,
            constraints=LinearConstraint(equations, self.counts, self.counts),
            integrality=np.ones(self.size),
            bounds=Bounds(0, 400),
            options={"time_limit": 5},
        )
        assert found.x is not None, found.message
        return np.round(found.x)

    def _matrix(self, rows):
        matrix = lil_array((len(rows), self.size))
        for i, row in enumerate(rows):
            for variable, value in row.items():
                matrix[i, variable] = value
        return csr_array(matrix)


ATTRIBUTES = {
    "anybody": lambda _: True,
    **{f"class {k}": lambda kind, k=k: kind[0] == k for k in range(3)},
    **{f"female {female}": lambda kind, female=female: kind[1] == female for female in (False, True)},
    **{f"age {age}": lambda kind, age=age: kind[2] == age for age in AGES},
}
"""Of a kind, and of a patient, whose first three entries are a kind."""


def needed(min_cell):
    return (min_cell + 2) // 2


def possible(low, high, min_cell):
    """How many of the values 0 … min_cell a cell may have."""
    return max(0, min(high, min_cell) - max(low, 0) + 1) if low <= high else 0


def one_patient(kind):
    label, female, age = KINDS[kind]
    return np.array([label]), np.array([female]), np.array([age])


_OUTPUT_KINDS = {}


def output_kinds(evaluation, phase):
    """For each kind of patient the outputs that add to different numbers, and what they add to."""
    key = (evaluation.age_edges, phase)
    if key not in _OUTPUT_KINDS:
        kinds, tables = [], []
        for kind in range(len(KINDS)):
            seen = {}
            for said in OUTPUTS:
                unit = integer_tables(measured(evaluation, phase, said[None], one_patient(kind), None))
                seen.setdefault(np.concatenate(list(unit.values())).tobytes(), unit)
            kinds.append(list(seen))
            tables.append(list(seen.values()))
        _OUTPUT_KINDS[key] = kinds, tables
    return _OUTPUT_KINDS[key]


def patterns_of(site):
    """Which splits at which replies some patient had: what the attacker knows of who came and went."""
    names = set().union(*(reply.names for reply in site.replies))
    return {tuple(reply.splits.get(name) for reply in site.replies) for name in names}


def history(seed, folder, *, min_cell, protect, numbers, same_model):
    """Two studies with other age edges, and a cohort that changes between them."""
    start, came, went = numbers
    site = Site(np.random.default_rng(seed))
    memory = DisclosureMemory(SiteFolder(folder)) if protect else None
    site.admit(start)
    ask(site, memory, "describe", ONE, min_cell)
    ask(site, memory, "validate", ONE, min_cell, model=1)
    ask(site, memory, "evaluate", ONE, min_cell, model=2)
    site.discharge(went)
    site.admit(came)
    ask(site, memory, "describe", OTHER, min_cell)
    ask(site, memory, "evaluate", OTHER, min_cell, model=2 if same_model else 3)
    return site


def between_edges(folder, *, protect):
    """One cohort with three patients of 60 to 64 years, described for two studies."""
    site = Site(np.random.default_rng(0))
    ages = [55] * 40 + [62] * 3 + [70] * 40 + [80] * 40
    site.people = {
        f"p{i}": (i % 3, i % 2 == 0, age, ("train", "test")[i % 4 // 2]) for i, age in enumerate(ages)
    }
    memory = DisclosureMemory(SiteFolder(folder)) if protect else None
    ask(site, memory, "describe", ONE, 5)
    ask(site, memory, "describe", OTHER, 5)
    return site


def reconstructed(site, min_cell):
    cells = Attacker(site).attack(min_cell)
    return [cell for cell in cells if possible(*cell[2:], min_cell) < needed(min_cell)]


CHANGES = st.sampled_from([(120, 0, 0), (120, 3, 0), (150, 1, 1), (120, 0, 2), (110, 40, 0), (120, 60, 30)])


@settings(
    max_examples=3,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 10**6), numbers=CHANGES, min_cell=st.sampled_from([5, 11]), same_model=st.booleans()
)
def test_no_suppressed_cell_follows_from_all_replies_together(
    tmp_path_factory, seed, numbers, min_cell, same_model
):
    folder = tmp_path_factory.mktemp("site")
    site = history(seed, folder, min_cell=min_cell, protect=True, numbers=numbers, same_model=same_model)
    assert reconstructed(site, min_cell) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**9),
    numbers=CHANGES,
    min_cell=st.sampled_from([3, 5, 8, 11]),
    same_model=st.booleans(),
)
def test_no_suppressed_cell_follows_in_many_more_histories(
    tmp_path_factory, seed, numbers, min_cell, same_model
):
    folder = tmp_path_factory.mktemp("site")
    site = history(seed, folder, min_cell=min_cell, protect=True, numbers=numbers, same_model=same_model)
    assert reconstructed(site, min_cell) == []


@pytest.mark.parametrize("numbers", [(120, 3, 0), (120, 0, 2)])
def test_the_attacker_finds_patients_where_tables_are_only_looked_at_one_by_one(tmp_path, numbers):
    site = history(1, tmp_path, min_cell=5, protect=False, numbers=numbers, same_model=True)
    found = reconstructed(site, 5)
    assert any(low == count == high for _, count, low, high in found)


def test_the_attacker_finds_the_few_between_two_studies_age_edges(tmp_path):
    """Nobody came or went; the second study divides ages elsewhere."""
    found = reconstructed(between_edges(tmp_path, protect=False), 5)
    assert ("age 62 in 0, not in None", 3, 3, 3) in found
    assert reconstructed(between_edges(tmp_path, protect=True), 5) == []
