"""Complementary suppression inside one reply: what families about the same patients give away together.

Families of one evaluation look at the same patients in different ways: those called osteoporotic (`confusion`) less
those with a probability above 8/15 (`calibration_15`) are the few with a probability between 1/3 and 8/15. Every
patient is placed in one table: by true class, the class the model called, the bin of each class's probability on the
finest grid released, sex, and age band. Only combinations that probabilities allow exist: the called class has the
largest, and they sum to 1. `attack` then asks which small cells, of released or withheld tables, follow.

Asked about are the small cells of all families of the reply, and every difference of released counts: a released cell
without the released cells that lie in it, table by table and all together.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.keys import CLASSES, OSTEOPOROSIS
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.metrics.attack import UNKNOWN, Attack, Knowledge, distinct
from face2bone_model.metrics.calibration import CLASS_BINS, TOP_LABEL_BINS
from face2bone_model.metrics.classification import ACCURACY, CONFUSION, COUNTS, RECALL, SCREEN
from face2bone_model.metrics.discrimination import PAIRS, SCORES
from face2bone_model.metrics.family import SUM_TOLERANCE
from face2bone_model.metrics.losses import LOSSES
from face2bone_model.metrics.population_audit import KnownCount
from face2bone_model.metrics.subgroup import ALL
from face2bone_model.metrics.suppression import family_of, is_count
from face2bone_model.metrics.tells import OLDEST

K = len(CLASSES)
MOST_ATOMS = 6000
"""More combinations than this are not looked into: what cannot be checked stays."""
Rows = list[NDArray[np.bool_]]


class ReplyAudit:
    """One evaluation or validation of one model, and what was told about the same patients before."""

    def __init__(
        self,
        statistics: SiteStatistics,
        *,
        age_edges: tuple[int, ...],
        known: Sequence[KnownCount],
        min_cell: int,
    ) -> None:
        self._tables = {name: table for name, table in statistics.tables.items() if is_count(name, table)}
        self._age_edges = age_edges
        self._known = known
        self._min_cell = min_cell

    def safe(self, families: Collection[str]) -> bool:
        """Whether releasing these families gives no small cell away."""
        released = {name: table for name, table in self._tables.items() if family_of(name) in families}
        atoms = _Atoms.of(released, self._groups(), self._bands())
        if atoms is None:
            return False
        tables = {
            name: np.array(atoms.rows(name, table.shape, self._age_edges)) for name, table in released.items()
        }
        sums = [row for rows in tables.values() for row in rows]
        counts = [count for table in released.values() for count in table.reshape(-1)]
        known = [atoms.known(each) for each in self._known]
        knowledge = Knowledge(
            sums=np.array([*sums, *known], bool).reshape(-1, atoms.size),
            counts=np.array([*counts, *(each.count for each in self._known)], np.int64),
        )
        small, truths = self._small_cells(atoms)
        apart = _differences(list(tables.values()))
        attack = Attack.on(
            knowledge,
            np.vstack([small, apart]),
            np.concatenate([truths, np.full(len(apart), UNKNOWN)]),
            min_cell=self._min_cell,
        )
        return attack is not None and not any(map(attack.gives_away, range(len(small) + len(apart))))

    def _groups(self) -> bool:
        """Whether the reply says anything by sex or age."""
        return any(not name.startswith(f"{ALL}/") for name in self._tables)

    def _bands(self) -> tuple[int, ...]:
        """Edges of the finest bands of this reply and of what is known, from 0 to `OLDEST`."""
        known = (edge for each in self._known for edge in each.cell.ages)
        return tuple(sorted({0, OLDEST, *self._age_edges, *known}))

    def _small_cells(self, atoms: "_Atoms") -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Cells of 1 to min_cell - 1 patients that the atoms can tell apart.

        A bin finer than any released grid is left out: its count can be 0, or as much as the bin's around it.
        """
        rows: Rows = []
        truths: list[int] = []
        for name, table in self._tables.items():
            flat = table.reshape(-1)
            small = (flat > 0) & (flat < self._min_cell)
            if small.any() and atoms.resolves(name, table.shape):
                every = atoms.rows(name, table.shape, self._age_edges)
                rows += [every[i] for i in np.flatnonzero(small)]
                truths += [int(flat[i]) for i in np.flatnonzero(small)]
        cells = np.array(rows, bool).reshape(-1, atoms.size)
        once = distinct(cells)
        return cells[once], np.array(truths, np.int64)[once]


def _differences(tables: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Each released cell without the smaller released cells that lie in it: of each table, and of all."""
    if not tables:
        return np.zeros((0, 0), bool)
    cells = np.vstack(tables)
    cells = cells[distinct(cells)]
    inside = [_covered(cells, table) for table in tables]
    left = [cells & ~covered for covered in (*inside, np.logical_or.reduce(inside))]
    apart = np.vstack(left)
    apart = apart[distinct(apart)]
    return apart[apart.any(axis=1)]


def _covered(cells: NDArray[np.bool_], table: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Of each cell the atoms in cells of a table that lie wholly, and not as the same cell, in it."""
    numbers = table.astype(np.float32)
    common = cells.astype(np.float32) @ numbers.T
    size = numbers.sum(axis=1)
    lies_in = (common == size) & (size < cells.sum(axis=1, dtype=np.float32)[:, None])
    covered: NDArray[np.bool_] = (lies_in.astype(np.float32) @ numbers) > 0
    return covered


@dataclass(frozen=True)
class _Atoms:
    """Combinations of properties a patient may have, one per element of each array."""

    truth: NDArray[np.int64]
    called: NDArray[np.int64]
    bins: NDArray[np.int64]
    """Bin of each class's probability on its grid, and of the largest one, shape (K + 1, atoms)."""
    grids: tuple[int, ...]
    """Number of bins of each of these grids."""
    female: NDArray[np.int64]
    age: NDArray[np.int64]
    """Age at which the band begins."""
    sexed: bool
    """Whether sex and age are told apart."""

    @property
    def size(self) -> int:
        """How many."""
        return len(self.truth)

    @classmethod
    def of(
        cls, released: dict[str, NDArray[np.int64]], by_group: bool, bands: tuple[int, ...]
    ) -> "_Atoms | None":
        """The combinations the released tables tell apart; None if they are too many."""
        grids, used = zip(*(_grid(released, k) for k in range(K + 1)), strict=True)
        if np.prod([float(len(each)) for each in used]) > MOST_ATOMS * K:
            return None
        outputs = _possible_outputs(grids, used)
        people = (
            [(t, s, a) for t in range(K) for s in (0, 1) for a in bands[:-1]]
            if by_group
            else [(t, 0, 0) for t in range(K)]
        )
        if len(outputs[0]) * len(people) > MOST_ATOMS:
            return None
        truth, sex, age = np.repeat(np.array(people).T, len(outputs[0]), axis=1)
        called, *bins = (np.tile(each, len(people)) for each in outputs)
        return cls(truth, called, np.array(bins), grids, sex, age, by_group)

    def resolves(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the cells of a table are sums over atoms: its grid is no finer than theirs."""
        return all(shape[axis] <= self.grids[k] for k, axis in _grids_of(name, shape))

    def known(self, known: KnownCount) -> NDArray[np.bool_]:
        """The atoms of a count of patients; all of a class where sex and age are not told apart."""
        here = np.isin(self.truth, known.cell.classes)
        if not self.sexed:
            return here
        low, high = known.cell.ages
        return here & np.isin(self.female, known.cell.sexes) & (self.age >= low) & (self.age < high)

    def rows(self, name: str, shape: tuple[int, ...], age_edges: tuple[int, ...]) -> Rows:
        """The atoms of every cell of a table, in the table's own order."""
        groups, kind, _ = name.split("/")
        cells = self._cells(kind, shape[1:])
        return [group & cell for group in self._group_rows(groups, age_edges) for cell in cells]

    def _group_rows(self, groups: str, age_edges: tuple[int, ...]) -> Rows:
        if groups == ALL:
            return [np.ones(self.size, bool)]
        if groups == "sex":
            return [self.female == 1, self.female == 0]
        return [(self.age >= low) & (self.age < high) for low, high in pairwise((0, *age_edges, OLDEST))]

    def _cells(self, kind: str, shape: tuple[int, ...]) -> Rows:
        """Of one group; the order is that of the family's `measure`."""
        right, classes, either = self.truth == self.called, range(K), (False, True)
        if kind in {PAIRS, SCORES} or kind.startswith(CLASS_BINS):
            return self._by_class(shape)
        if kind.startswith(TOP_LABEL_BINS):
            return self._binned(K, shape[0], right)
        ill, called_ill = self.truth == OSTEOPOROSIS, self.called == OSTEOPOROSIS
        return {
            LOSSES.name: [np.ones(self.size, bool)],
            COUNTS.name: [self.truth == k for k in classes],
            ACCURACY.name: [~right, right],
            RECALL.name: [(self.truth == k) & (right == one) for k in classes for one in either],
            CONFUSION.name: [(self.truth == k) & (self.called == j) for k in classes for j in classes],
            SCREEN.name: [(ill == one) & (called_ill == other) for one in either for other in either],
        }[kind]

    def _by_class(self, shape: tuple[int, ...]) -> Rows:
        """Of one class after the other: others and patients of the class, in each bin where there are bins."""
        classes = _classes_in(shape[0])
        if len(shape) == 2:  # noqa: PLR2004  # class, side
            return [(self.truth == k) == own for k in classes for own in (False, True)]
        return [row for k in classes for row in self._binned(k, shape[1], self.truth == k)]

    def _binned(self, which: int, bins: int, side: NDArray[np.bool_]) -> Rows:
        index = self.bins[which] * bins // self.grids[which]
        return [(index == b) & (side == own) for b in range(bins) for own in (False, True)]


def _classes_in(number: int) -> tuple[int, ...]:
    """The classes of a table along its axis: all, or osteoporosis alone."""
    return tuple(range(K)) if number == K else (OSTEOPOROSIS,)


def _grids_of(name: str, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Which grids a table is on: pairs of class (K for the largest probability) and the axis of its bins."""
    kind = name.split("/")[1]
    if kind.startswith(TOP_LABEL_BINS):
        return ((K, 1),)
    if kind == SCORES or kind.startswith(CLASS_BINS):
        return tuple((k, 2) for k in _classes_in(shape[1]))
    return ()


def _grid(released: dict[str, NDArray[np.int64]], which: int) -> tuple[int, NDArray[np.int64]]:
    """The finest released grid of one probability, and its bins that hold a patient."""
    finest, used = 1, np.zeros(1, np.int64)
    for name, table in released.items():
        for k, axis in _grids_of(name, table.shape):
            if k == which and table.shape[axis] > finest:
                finest = table.shape[axis]
                own = table if k == K else table[:, _classes_in(table.shape[1]).index(k)]
                used = np.flatnonzero(own.sum(axis=(0, 2)))
    return finest, used


def _possible_outputs(
    grids: Sequence[int], used: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], ...]:
    """Called class and bins that some probabilities have: the called one is the largest, and they sum to 1."""
    called, *bins = (each.reshape(-1) for each in np.meshgrid(np.arange(K), *used, indexing="ij"))
    low = np.array([each / grid for each, grid in zip(bins, grids, strict=True)])
    high = np.array([(each + 1) / grid for each, grid in zip(bins, grids, strict=True)])
    best = np.arange(K)[:, None] == called
    ceiling = np.minimum(high[K], high[:K][called, np.arange(called.size)])
    floor = np.maximum(low[K], low[:K].max(axis=0))
    most = np.minimum(high[:K], ceiling)
    least = np.where(best, floor, low[:K])
    possible = floor <= ceiling + SUM_TOLERANCE
    possible &= (least.sum(axis=0) <= 1 + SUM_TOLERANCE) & (most.sum(axis=0) >= 1 - SUM_TOLERANCE)
    return (called[possible], *(each[possible] for each in bins))
