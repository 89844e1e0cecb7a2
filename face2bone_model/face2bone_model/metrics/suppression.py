"""Small cells stay at the site: a family of tables leaves whole or not at all.

The rule. If any count of a family, in any of its groups, is 1 to min_cell - 1, the whole family is zeroed and its
`released` flag is 0. Zero is allowed (CMS cell-size policy, ResDAC 2024). Since a family of groups is a partition
(both sexes, every age band) and leaves whole, no group follows from the others. Since a family lists complements
(wrong beside right, others beside the class), no count follows from a total. Since all grids nest, no cell follows
from two of them. Real-valued sums leave only beside the count of patients they run over.

What the rule does not do, and later work must:

- two families of one site may still give a cross-tabulation neither holds (patients called osteoporotic, from
  `confusion`, minus those with a probability above 8/15, from `calibration_15`), and margins may bound a withheld cell;
- one patient more or fewer between two evaluations, or two rounds, shows in the difference;
- real-valued sums over `min_cell` patients are not noise: enough different ones could be solved for the patients. Only
  secure aggregation or differential privacy stops that;
- that a family was withheld says that it has a small cell.
"""

from collections.abc import Mapping
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
    unsafe = {
        _family(name) for name, table in statistics.tables.items() if _has_small_cell(name, table, min_cell)
    }
    tables: Mapping[str, NDArray[Any]] = {
        name: np.zeros_like(table) if _family(name) in unsafe else table
        for name, table in statistics.tables.items()
    }
    return SiteStatistics(tables=tables)


def withheld_families(statistics: SiteStatistics) -> tuple[str, ...]:
    """Families, such as ``sex/confusion``, that at least one of the sites behind these sums did not release."""
    sites = int(statistics[SITES][0])
    return tuple(
        _family(name)
        for name, table in statistics.tables.items()
        if name.endswith(f"/{RELEASED}") and int(table[0]) < sites
    )


def _family(name: str) -> str:
    return name.rpartition("/")[0]


def _has_small_cell(name: str, table: NDArray[Any], min_cell: int) -> bool:
    if name in SITE_FACTS or name.endswith(f"/{RELEASED}") or not np.issubdtype(table.dtype, np.integer):
        return False
    return bool(((table > 0) & (table < min_cell)).any())
