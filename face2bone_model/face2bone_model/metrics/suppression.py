"""Small cells stay at the site: a family of tables leaves whole or not at all.

The primary rule. If any count of a family, in any of its groups, is 1 to min_cell - 1, the whole family is zeroed and
its `released` flag is 0. Zero is allowed (CMS cell-size policy, ResDAC 2024). Since a family of groups is a partition
(both sexes, every age band) and leaves whole, no group follows from the others. Since a family lists complements
(wrong beside right, others beside the class), no count follows from a total. Since all grids nest, no cell follows
from two of them. Real-valued sums leave only beside the count of patients they run over.

What this rule does not see, because it looks at one table at a time: `reply_audit` withholds more where families of
one reply give a small cell away together, `population_audit` where replies about overlapping patients do.

What neither does: real-valued sums over `min_cell` patients are not noise, and enough different ones could be solved
for the patients (only secure aggregation or differential privacy stops that); that a family was withheld says that it
has, or would give away, a small cell.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.metrics.family import RELEASED, SITE_FACTS, SITES


def suppress(statistics: SiteStatistics, *, min_cell: int) -> SiteStatistics:
    """Zero every family that has a cell of 1 to min_cell - 1, and its `released` flag.

    Args:
        statistics: of one site, from any `…_update` of this package.
        min_cell: the larger of the study's and the hospital's; 1 withholds nothing.
    """
    return withhold(statistics, small_families(statistics, min_cell=min_cell))


def small_families(statistics: SiteStatistics, *, min_cell: int) -> frozenset[str]:
    """Families, such as ``sex/confusion``, that have a cell of 1 to min_cell - 1."""
    return frozenset(
        family_of(name)
        for name, table in statistics.tables.items()
        if is_count(name, table) and ((table > 0) & (table < min_cell)).any()
    )


def withhold(statistics: SiteStatistics, families: Collection[str]) -> SiteStatistics:
    """Zero some families and their `released` flags."""
    tables: Mapping[str, NDArray[Any]] = {
        name: np.zeros_like(table) if family_of(name) in families else table
        for name, table in statistics.tables.items()
    }
    return SiteStatistics(tables=tables)


def families_by_use(statistics: SiteStatistics) -> tuple[str, ...]:
    """The families of one site that are not withheld, the most useful first.

    All patients come before groups, since every figure rests on them; coarse tables before fine ones, since a
    coarse table gives the headline figure and a fine one the detail of it.
    """
    cells: dict[str, int] = {}
    for name, table in statistics.tables.items():
        if is_count(name, table):
            cells[family_of(name)] = cells.get(family_of(name), 0) + table.size
    released = [family for family in cells if statistics[f"{family}/{RELEASED}"][0]]
    return tuple(sorted(released, key=lambda family: (not family.startswith("all/"), cells[family], family)))


def withheld_families(statistics: SiteStatistics) -> tuple[str, ...]:
    """Families, such as ``sex/confusion``, that at least one of the sites behind these sums did not release."""
    sites = int(statistics[SITES][0])
    return tuple(
        family_of(name)
        for name, table in statistics.tables.items()
        if name.endswith(f"/{RELEASED}") and int(table[0]) < sites
    )


def family_of(name: str) -> str:
    """The family of a table: ``sex/confusion`` of ``sex/confusion/counts``."""
    return name.rpartition("/")[0]


def is_count(name: str, table: NDArray[Any]) -> bool:
    """Whether a table counts patients: neither a flag, nor a fact of the site, nor sums of real numbers."""
    counts = np.issubdtype(table.dtype, np.integer)
    return bool(counts) and name not in SITE_FACTS and not name.endswith(f"/{RELEASED}")
