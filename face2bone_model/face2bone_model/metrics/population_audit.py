"""Differencing between replies: what counts about overlapping patients give away together.

Replies of all phases, rounds and studies tell how many patients there are by group and class. Where patients were
added, left, or are divided differently (another study's age bands, the splits of one cohort), differences of those
counts are counts of fewer patients. Every patient a site ever counted is placed in one table: by which of the counted
populations she belongs to, class, sex, and the finest age bands that all studies' edges make; `attack` then asks which
small numbers of that table, or of its margins, follow from what was told.

The attacker is assumed to know who belongs to which populations as far as that is possible (for example that nobody
left), so that a count and the same count with one patient more give that patient away.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.keys import CLASSES, OSTEOPOROSIS, Split
from face2bone_model.metrics.attack import Attack, Knowledge, distinct
from face2bone_model.metrics.tells import OLDEST, SPLITS, Cell, Tell, cells_of

K = len(CLASSES)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Patients:
    """A site's patients at one time, in any order. Never leaves the site."""

    keys: tuple[str, ...]
    """One each; a patient whose class, sex or age changed has another key."""
    splits: tuple[Split, ...]
    labels: NDArray[np.int64]
    female: NDArray[np.bool_]
    ages: NDArray[np.int64]

    def of(self, split: Split | None) -> frozenset[str]:
        """The keys of one split's patients, or of all."""
        return frozenset(
            key for key, own in zip(self.keys, self.splits, strict=True) if split is None or own is split
        )


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one reply told about some patients."""

    patients: Patients
    split: Split | None
    """Which of them; None: all."""
    age_edges: tuple[int, ...]
    tells: frozenset[Tell]

    def populations(self, tell: Tell) -> tuple[frozenset[str], ...]:
        """The populations a tell of this reply is about."""
        if tell.by == SPLITS:
            return tuple(self.patients.of(split) for split in Split)
        return (self.patients.of(self.split),)


@dataclass(frozen=True)
class KnownCount:
    """A count of patients of one population."""

    cell: Cell
    count: int


class PopulationAudit:
    """All that was told so far, and one reply that is to come."""

    def __init__(self, told: Sequence[Told], reply: Told, *, min_cell: int) -> None:
        self._told = told
        self._reply = reply
        self._min_cell = min_cell
        self._table = _Table.of([*told, reply])

    def safe(self, tells: Iterable[Tell]) -> bool:
        """Whether telling these gives no small number of patients away that was not given away before."""
        told = [*self._told, self._with(tells)]
        if self._table.cells(told) == self._table.cells(self._told):
            return True
        attack = self._attack(told)
        return attack is not None and not any(
            attack.gives_away(target) and not self._given_away_before(target)
            for target in range(len(attack.targets))
        )

    def nearly_told(self, tell: Tell) -> bool:
        """Whether a tell is about a population that differs by few patients from one already told about.

        Those who came and those who went are then too few to be counted, each in itself, however the two mix.
        """
        earlier = {group for told in self._told for each in told.tells for group in told.populations(each)}
        return any(
            few_apart(before, now, self._min_cell)
            for before in earlier
            for now in self._reply.populations(tell)
        )

    def known(self, tells: Iterable[Tell]) -> tuple[KnownCount, ...]:
        """Counts told of exactly the patients the reply is about, once it tells these."""
        subject = self._reply.patients.of(self._reply.split)
        cells = {
            cell
            for told in (*self._told, self._with(tells))
            for tell in told.tells
            if subject in told.populations(tell)
            for cell in cells_of(tell, told.age_edges)
        }
        return tuple(KnownCount(cell, self._table.count(subject, cell)) for cell in sorted(cells))

    def _with(self, tells: Iterable[Tell]) -> Told:
        reply = self._reply
        return Told(
            patients=reply.patients, split=reply.split, age_edges=reply.age_edges, tells=frozenset(tells)
        )

    def _given_away_before(self, target: int) -> bool:
        return self._before is not None and self._before.gives_away(target)

    @cached_property
    def _before(self) -> Attack | None:
        return self._attack(self._told)

    @cached_property
    def _targets(self) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        return self._table.small_targets(self._min_cell)

    def _attack(self, told: Sequence[Told]) -> Attack | None:
        return Attack.on(self._table.knowledge(told), *self._targets, min_cell=self._min_cell)


def few_apart(before: frozenset[str], now: frozenset[str], min_cell: int) -> bool:
    """Whether two populations are the same but for fewer than min_cell who went and fewer who came."""
    went, came = len(before - now), len(now - before)
    return went + came > 0 and max(went, came) < min_cell and not before.isdisjoint(now)


def longest_safe(candidates: Sequence[T], safe: Callable[[Sequence[T]], bool]) -> tuple[T, ...]:
    """Take candidates in order, leaving out each that would make the taken ones unsafe.

    Fewer of a safe choice are safe too, so the longest safe beginning is found by halving.
    """
    taken: list[T] = []
    rest = list(candidates)
    while rest and not safe([*taken, *rest]):
        good, bad = 0, len(rest)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if safe([*taken, *rest[:middle]]) else (good, middle)
        taken, rest = [*taken, *rest[:good]], rest[bad:]
    return (*taken, *rest)


@dataclass(frozen=True)
class _Table:
    """Patients by pattern of populations, class, sex and finest age band."""

    populations: dict[frozenset[str], NDArray[np.bool_]]
    """Which patterns belong to each population."""
    edges: tuple[int, ...]
    """Of the finest age bands, from 0 to `OLDEST`."""
    counts: NDArray[np.int64]
    """Shape (patterns, K, 2, bands)."""
    training: frozenset[frozenset[str]]
    """The training patients of each cohort."""

    @classmethod
    def of(cls, told: Sequence[Told]) -> "_Table":
        groups = _populations(told)
        where: dict[str, tuple[int, int, int]] = {}
        for each in told:
            people = each.patients
            for key, *place in zip(people.keys, people.labels, people.female, people.ages, strict=True):
                where[key] = (int(place[0]), int(place[1]), int(place[2]))
        keys = sorted(where)
        presence = np.array([[key in group for group in groups] for key in keys], bool).reshape(
            -1, len(groups)
        )
        patterns, pattern = np.unique(presence, axis=0, return_inverse=True)
        edges = tuple(sorted({0, OLDEST, *(edge for each in told for edge in each.age_edges)}))
        label, sex, age = np.array([where[key] for key in keys], np.int64).reshape(-1, 3).T
        counts = np.zeros((len(patterns), K, 2, len(edges) - 1), np.int64)
        np.add.at(counts, (pattern.reshape(-1), label, sex, np.searchsorted(edges, age, side="right") - 1), 1)
        training = frozenset(each.patients.of(Split.TRAIN) for each in told)
        return cls({group: patterns[:, i] for i, group in enumerate(groups)}, edges, counts, training)

    def row(self, group: frozenset[str], cell: Cell) -> NDArray[np.bool_]:
        """The atoms of a cell of a population, flat."""
        return self._row(self.populations[group], *self._masks(cell))

    def count(self, group: frozenset[str], cell: Cell) -> int:
        """How many patients that is."""
        return int(self.counts.reshape(-1)[self.row(group, cell)].sum())

    def cells(self, told: Sequence[Told]) -> set[tuple[frozenset[str], Cell]]:
        """All cells told, and all training patients, whose number goes with every update."""
        cells = {
            (group, cell)
            for each in told
            for tell in each.tells
            for group in each.populations(tell)
            for cell in cells_of(tell, each.age_edges)
        }
        return cells | {(group, Cell()) for group in self.training}

    def knowledge(self, told: Sequence[Told]) -> Knowledge:
        """The counts of the cells told."""
        rows = [self.row(group, cell) for group, cell in self.cells(told)]
        sums = np.array(rows, bool).reshape(-1, self.counts.size)
        return Knowledge(sums=sums, counts=sums @ self.counts.reshape(-1))

    def small_targets(self, min_cell: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Small numbers of patients worth knowing: of a population or what sets two apart, by class and sex or age."""
        masks = self._marginal_masks()
        rows = [row for region in self._regions() for row in self._small_rows(region, masks, min_cell)]
        targets = np.array(rows, bool).reshape(-1, self.counts.size)
        targets = targets[distinct(targets)]
        return targets, targets @ self.counts.reshape(-1)

    def _small_rows(
        self, region: NDArray[np.bool_], masks: Sequence[tuple[NDArray[np.bool_], ...]], min_cell: int
    ) -> Iterable[NDArray[np.bool_]]:
        here = self.counts[region].sum(axis=0)
        for classes, sexes, bands in masks:
            if 0 < here[np.ix_(classes, sexes, bands)].sum() < min_cell:
                yield self._row(region, classes, sexes, bands)

    def _regions(self) -> NDArray[np.bool_]:
        """Sets of patterns: each alone, each population, what is in one population and not in another."""
        single = np.eye(len(self.counts), dtype=bool)
        groups = list(self.populations.values())
        apart = [a & ~b for one, other in combinations(groups, 2) for a, b in ((one, other), (other, one))]
        regions = np.unique(np.array([*single, *groups, *apart], bool).reshape(-1, len(self.counts)), axis=0)
        return regions[regions.any(axis=1)]

    def _marginal_masks(self) -> list[tuple[NDArray[np.bool_], ...]]:
        bands = len(self.edges) - 1
        rest = np.arange(K) != OSTEOPOROSIS
        classes = [np.ones(K, bool), rest, *np.eye(K, dtype=bool)]
        sexes = [np.ones(2, bool), *np.eye(2, dtype=bool)]
        place = np.arange(bands)
        runs = [(place >= a) & (place < b) for a, b in combinations(range(bands + 1), 2)]
        return [(c, s, np.ones(bands, bool)) for c in classes for s in sexes] + [
            (c, sexes[0], run) for c in classes for run in runs if not run.all()
        ]

    def _masks(self, cell: Cell) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        low = np.array(self.edges[:-1])
        return (
            np.isin(np.arange(K), cell.classes),
            np.isin(np.arange(2), cell.sexes),
            (low >= cell.ages[0]) & (low < cell.ages[1]),
        )

    def _row(
        self,
        region: NDArray[np.bool_],
        classes: NDArray[np.bool_],
        sexes: NDArray[np.bool_],
        bands: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        row = np.zeros(self.counts.shape, bool)
        row[np.ix_(region, classes, sexes, bands)] = True
        return row.reshape(-1)


def _populations(told: Sequence[Told]) -> list[frozenset[str]]:
    """Every population that was, or is to be, told about, and the training patients; each once, in order."""
    groups: dict[frozenset[str], None] = {}
    for each in told:
        for split in (None, *Split):
            groups[each.patients.of(split)] = None
    return list(groups)
