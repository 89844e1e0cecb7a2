"""What somebody who has every released count can work out about a count that was not released.

Patients are sorted into *atoms*: every combination of properties a patient may have. A released count is a sum over
some atoms, and whoever has several knows that the numbers in the atoms are 0 or more and add up to what was released.
The least and the most that another sum can then be is the attacker's problem of cell suppression (Cox, JASA
1980;75:377-385; Fischetti and Salazar, JASA 2000;95:916-928), here a linear programme whose ends are rounded to whole
patients.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

UNKNOWN = -1
"""Stands for the true value of a sum whose patients were not counted."""
PROBES = 8
"""Random corners of the feasible set, looked at first: most sums are seen to be free from these alone."""
SEED = 20_250_101
ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """Released counts: sums over atoms, and what they are."""

    sums: NDArray[np.bool_]
    """Which atoms each count runs over, shape (counts, atoms)."""
    counts: NDArray[np.int64]
    """Shape (counts,)."""


def ambiguity(min_cell: int) -> int:
    """How many of the values 0 … min_cell must remain possible for a small cell: half of them."""
    return (min_cell + 2) // 2


def distinct(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Where each different row stands first, in order; many times faster than sorting rows of thousands."""
    packed = np.packbits(rows, axis=1)
    first: dict[bytes, int] = {}
    for i, row in enumerate(packed):
        first.setdefault(row.tobytes(), i)
    return np.array(list(first.values()), np.int64)


@dataclass
class Attack:
    """What released counts give away of some sums over atoms: the *targets*.

    A sum known to be small (1 to min_cell - 1) is given away when fewer than `ambiguity` of the values 0 … min_cell
    remain possible. A sum nobody counted (`UNKNOWN`) is given away when it must be 1 to min_cell - 1.
    """

    equations: csr_array
    counts: NDArray[np.float64]
    targets: NDArray[np.float64]
    """Shape (T, atoms)."""
    truths: NDArray[np.int64]
    """Shape (T,); a small number of patients, or `UNKNOWN`."""
    min_cell: int
    low: NDArray[np.float64] = field(init=False)
    high: NDArray[np.float64] = field(init=False)
    """The widest range of each target seen so far; every point found widens all of them."""

    def __post_init__(self) -> None:
        self.low = np.full(len(self.targets), np.inf)
        self.high = np.full(len(self.targets), -np.inf)

    @classmethod
    def on(
        cls,
        knowledge: Knowledge,
        targets: NDArray[np.bool_],
        truths: NDArray[np.int64],
        *,
        min_cell: int,
    ) -> "Attack | None":
        """An attack with what was released; None when no numbers of patients fit it, so that nothing can be said."""
        possible = ~knowledge.sums[knowledge.counts == 0].any(axis=0)
        sums = knowledge.sums[:, possible]
        told = distinct(sums)
        told = told[sums[told].any(axis=1)]
        attack = cls(
            equations=csr_array(sums[told].astype(np.float64)),
            counts=knowledge.counts[told].astype(np.float64),
            targets=targets[:, possible].astype(np.float64),
            truths=truths,
            min_cell=min_cell,
        )
        chance = np.random.default_rng(SEED)
        probes = chance.normal(size=(PROBES if len(targets) else 0, int(possible.sum())))
        return attack if all(attack._look(probe) for probe in probes) else None

    def gives_away(self, target: int) -> bool:
        """Whether a target follows, exactly or nearly."""
        for sign in (1.0, -1.0):  # the least it can be, then the most
            if not self._free(target) and not self._look(sign * self.targets[target]):
                return True  # the solver gave up: what cannot be checked stays
        return not self._free(target)

    def _free(self, target: int) -> bool:
        low, high = np.ceil(self.low[target] - ROUNDING), np.floor(self.high[target] + ROUNDING)
        if self.truths[target] == UNKNOWN:
            return bool(low < 1 or high >= self.min_cell)
        return bool(min(high, self.min_cell) - max(low, 0) + 1 >= ambiguity(self.min_cell))

    def _look(self, cost: NDArray[np.float64]) -> bool:
        """Find the point of least cost that fits the counts, and widen all ranges by it; False if there is none."""
        ceiling = 4.0 * max(self.min_cell, self.counts.max(initial=0.0))
        found = linprog(cost, A_eq=self.equations, b_eq=self.counts, bounds=(0.0, ceiling), method="highs")
        if not found.success:
            return False
        values = self.targets @ found.x
        self.low, self.high = np.minimum(self.low, values), np.maximum(self.high, values)
        return True
