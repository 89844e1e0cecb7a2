"""Sums and counts a site may release, and the schema that says which.

A table is an integer or float array whose meaning is fixed by its `TableSpec`. Two sites' statistics merge by
addition; nothing per patient fits into a table that its schema has checked.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import EgressError


@dataclass(frozen=True, kw_only=True)
class TableSpec:
    """Name, shape, dtype and permitted range of one table."""

    name: str
    shape: tuple[int, ...]
    dtype: Literal["int64", "float64"] = "int64"
    low: float = 0.0
    high: float = float(2**31)


@dataclass(frozen=True, kw_only=True)
class SiteStatistics:
    """Named tables of sums and counts."""

    tables: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.tables[name]

    def __add__(self, other: "SiteStatistics") -> "SiteStatistics":
        if self.tables.keys() != other.tables.keys():
            raise ValueError("statistics of different schemas cannot be merged")
        return SiteStatistics(
            tables={name: table + other.tables[name] for name, table in self.tables.items()}
        )


def schema_digest(schema: Sequence[TableSpec]) -> str:
    """SHA-256 over names, shapes, dtypes and ranges of the tables, in any order."""
    tables = sorted(json.dumps(asdict(spec), sort_keys=True, separators=(",", ":")) for spec in schema)
    return hashlib.sha256("\n".join(tables).encode()).hexdigest()


def check_statistics(statistics: SiteStatistics, schema: Sequence[TableSpec]) -> None:
    """Refuse statistics that are not exactly what the schema declares.

    Raises:
        EgressError: a table is missing, undeclared, of another shape or dtype, not finite or out of range.
    """
    declared = {spec.name for spec in schema}
    if set(statistics.tables) != declared:
        odd = sorted(set(statistics.tables) ^ declared)
        raise EgressError(f"Statistics are not what the study declares: {', '.join(odd)}.")
    for spec in schema:
        table = statistics.tables[spec.name]
        if table.shape != spec.shape or table.dtype != np.dtype(spec.dtype):
            raise EgressError(
                f"Table '{spec.name}' is {table.dtype}{table.shape}, declared {spec.dtype}{spec.shape}."
            )
        if not np.isfinite(table).all() or (table < spec.low).any() or (table > spec.high).any():
            raise EgressError(f"Table '{spec.name}' has a value outside [{spec.low:g}, {spec.high:g}].")
