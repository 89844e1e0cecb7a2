"""Families of tables: measured together, released together or not at all, read together.

A table is named ``family of groups/family/table``, such as ``sex/confusion/counts``; its first axis is the
group. Every family has a flag ``…/released``: 1 from a site that released it, so the pooled flag is the number of
sites behind the pooled tables. A family holds every count that follows from it (the wrong beside the right), and a
whole number at the resolution of each real-valued sum, so that `suppression` needs to look at nothing else.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import UnexpectedError
from face2bone_model.contract.keys import CLASSES
from face2bone_model.contract.statistics import SiteStatistics, TableSpec
from face2bone_model.metrics.estimate import NO_INTERVAL, Estimate

RELEASED = "released"
SITES = "sites"
SITES_SPEC = TableSpec(name=SITES, shape=(1,), high=1)
ELLIPSE_ONLY = "ellipse_only"
"""1 where a site had no background network; pooled, the number of such sites."""
SITE_FACTS = frozenset({SITES, ELLIPSE_ONLY})
"""Tables about the site itself, which hold no patient and are never withheld."""
SUM_TOLERANCE = 1e-5
"""How far a row of probabilities may be from summing to 1 (they come from float32 networks)."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What the model said of some patients, and what is so."""

    probabilities: NDArray[np.float64]
    """Shape (P, 3); rows sum to 1."""
    labels: NDArray[np.int64]
    """Class index, shape (P,)."""

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class, shape (P,); the first of equals."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return best

    def of(self, members: NDArray[np.bool_]) -> "Predictions":
        """Those of some patients; `members` has shape (P,)."""
        return Predictions(probabilities=self.probabilities[members], labels=self.labels[members])


def predictions_of(probabilities: NDArray[Any], labels: NDArray[Any]) -> Predictions:
    """Check and clip what a model returned.

    Raises:
        UnexpectedError: the shapes do not fit, a probability is not finite, or a row does not sum to 1.
    """
    scores = np.asarray(probabilities, np.float64)
    truth = np.asarray(labels, np.int64)
    if scores.shape != (len(truth), len(CLASSES)) or ((truth < 0) | (truth >= len(CLASSES))).any():
        raise UnexpectedError(
            f"Probabilities {scores.shape} and labels {truth.shape} do not describe the same patients."
        )
    odd = ~(np.isfinite(scores).all(axis=1) & (np.abs(scores.sum(axis=1) - 1) <= SUM_TOLERANCE))
    odd |= (scores < -SUM_TOLERANCE).any(axis=1)
    if odd.any():
        raise UnexpectedError(
            f"The model gave {int(odd.sum())} of {len(odd)} patients something other than probabilities.",
            "The training may have diverged: lower 'learning_rate'.",
        )
    return Predictions(probabilities=np.clip(scores, 0.0, 1.0), labels=truth)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tables that are measured and released together."""

    name: str
    tables: tuple[TableSpec, ...]
    """Of one group: names without prefix, shapes without the group axis."""
    measure: Callable[[Predictions], Mapping[str, NDArray[Any]]]
    """The tables of one group of patients."""

    def schema(self, group_family: str, num_groups: int) -> tuple[TableSpec, ...]:
        """The tables of a family of groups, and the flag."""
        prefix = f"{group_family}/{self.name}"
        tables = (
            TableSpec(
                name=f"{prefix}/{table.name}",
                shape=(num_groups, *table.shape),
                dtype=table.dtype,
                low=table.low,
                high=table.high,
            )
            for table in self.tables
        )
        return (*tables, TableSpec(name=f"{prefix}/{RELEASED}", shape=(1,), high=1))

    def update(self, group_family: str, of_groups: list[Predictions]) -> dict[str, NDArray[Any]]:
        """The tables of one site, one row per group, unsuppressed."""
        prefix = f"{group_family}/{self.name}"
        rows = [self.measure(predictions) for predictions in of_groups]
        tables = {
            f"{prefix}/{table.name}": np.stack([row[table.name] for row in rows]).astype(table.dtype)
            for table in self.tables
        }
        return tables | {f"{prefix}/{RELEASED}": np.ones(1, np.int64)}


@dataclass(frozen=True, kw_only=True)
class Released:
    """One group's tables of one family, summed over the sites that released them."""

    tables: Mapping[str, NDArray[Any]]
    sites: int
    """How many released them."""
    withheld: int
    """How many did not."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.tables[name]

    @property
    def note(self) -> str:
        """How many sites are missing, or nothing."""
        if not self.withheld:
            return ""
        if not self.sites:
            return f"Withheld at every site ({self.withheld}) because of small cells."
        return f"{self.withheld} of {self.withheld + self.sites} sites withheld this because of small cells."


def read_family(statistics: SiteStatistics, group_family: str, row: int, family: str) -> Released:
    """What one or more sites released about one group."""
    prefix = f"{group_family}/{family}/"
    sites = int(statistics[f"{prefix}{RELEASED}"][0])
    tables = {
        name.removeprefix(prefix): table[row]
        for name, table in statistics.tables.items()
        if name.startswith(prefix) and not name.endswith(f"/{RELEASED}")
    }
    return Released(tables=tables, sites=sites, withheld=int(statistics[SITES][0]) - sites)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a figure is, apart from its value."""

    definition: str
    source: str

    def of(self, released: Released, value: float, interval: tuple[float, float], n: int) -> Estimate:
        """The figure with a value equal to the pooled one."""
        return Estimate(
            value=float(value),
            low=float(interval[0]),
            high=float(interval[1]),
            n=n,
            definition=self.definition,
            source=self.source,
            exact="exact",
            reason=released.note,
            sites=released.sites,
            withheld=released.withheld,
        )

    def unknown(self, released: Released, n: int, reason: str) -> Estimate:
        """The figure without a value; withholding by every site is the reason where it applies."""
        return Estimate(
            value=math.nan,
            low=NO_INTERVAL[0],
            high=NO_INTERVAL[1],
            n=n,
            definition=self.definition,
            source=self.source,
            exact="exact",
            reason=reason if released.sites else released.note or reason,
            sites=released.sites,
            withheld=released.withheld,
        )
