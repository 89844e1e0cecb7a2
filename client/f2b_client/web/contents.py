"""What exactly left with one receipt: the stored bytes, decoded into numbers and tables a person can look through."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2b_client.web.figures import value_histogram
from f2b_client.web.table_words import table_words
from face2bone_model.contract.payload import Scalar, decode
from face2bone_model.contract.reply import TABLE_PREFIX
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.family import RELEASED
from face2bone_model.metrics.subgroup import group_families
from face2bone_model.report.evaluation_tables import group_name
from face2bone_model.report.figure import Figure
from face2bone_model.report.formats import count

FEW = 64
"""Cells of a table that is shown at once; larger ones unfold."""
FIRST_NUMBERS = 200
"""Of the trained numbers, as many are listed; the stored bytes hold all."""
MEANINGS: Mapping[str, str] = {
    "kind": "What kind of reply this is",
    "request": "SHA-256 of the question it answers",
    "num_patients": "Training patients: the weight in the average",
    "train_loss": "Mean training loss; 0 where training was private",
    "epsilon": "Privacy spent in all, this release included; 0 without differential privacy",
    "delta": "Delta of that epsilon",
    "noise_multiplier": "Noise of private training; 0 without it",
    "code": "Number of the refusal",
}
GROUP_ORDER = ("sites", "ellipse_only", "all", "sex", "age")
"""All patients first, then sex, then age."""


@dataclass(frozen=True, kw_only=True)
class ShownTable:
    """One table of sums and counts."""

    name: str
    meaning: str
    shape: str
    withheld: bool
    """Held back because of small cells: every number in it is 0, and none is listed."""
    columns: Sequence[str]
    """Names of the columns of `rows`, where they have any."""
    rows: Sequence[tuple[str, Sequence[str]]]
    """Name and numbers of each row of a small table."""
    text: str
    """The numbers of a large table, a line for all but its longest axis; empty for a small one."""


@dataclass(frozen=True, kw_only=True)
class ShownVector:
    """The trained numbers: how many, how large, how spread."""

    facts: Sequence[tuple[str, str]]
    figure: Figure
    first: str


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A reply, taken apart."""

    header: Sequence[tuple[str, str, str]]
    """Name, value, meaning."""
    vector: ShownVector | None
    tables: Sequence[ShownTable]


def contents_of(payload: bytes, settings: EvaluationSettings) -> Contents:
    """Everything in a reply.

    Args:
        payload: the stored bytes.
        settings: of the study, for the names of the groups.

    Raises:
        RequestError: the bytes are no reply.
    """
    tensors, header = decode(payload)
    tables = {name.removeprefix(TABLE_PREFIX): t for name, t in tensors.items() if name != "vector"}
    vector = tensors.get("vector")
    groups = group_families(settings)
    return Contents(
        header=[(name, _scalar(value), MEANINGS.get(name, "")) for name, value in header.items()],
        vector=None if vector is None else _vector(vector),
        tables=[
            _table(name, table, withheld=_withheld(name, tables), groups=groups)
            for name, table in sorted(tables.items(), key=lambda item: _order(item[0]))
            if not name.endswith(f"/{RELEASED}")
        ],
    )


def _vector(vector: NDArray[Any]) -> ShownVector:
    values = vector.astype(np.float64).reshape(-1)
    facts = (
        ("Numbers", f"{count(values.size)}, {vector.dtype}"),
        ("Length (L2 norm)", f"{np.linalg.norm(values):.6g}"),
        ("Mean", f"{values.mean() if values.size else 0.0:.3g}"),
        ("Smallest", f"{values.min(initial=0.0):.4g}"),
        ("Largest", f"{values.max(initial=0.0):.4g}"),
    )
    first = "  ".join(f"{value:.6g}" for value in values[:FIRST_NUMBERS])
    return ShownVector(facts=facts, figure=value_histogram("vector", values), first=first)


def _table(
    name: str, table: NDArray[Any], *, withheld: bool, groups: Mapping[str, tuple[str, ...]]
) -> ShownTable:
    words = table_words(name)
    withheld = withheld and not table.any()
    few = table.size <= FEW
    return ShownTable(
        name=name,
        meaning=words.meaning,
        shape=" × ".join(map(str, table.shape)) if table.size > 1 else "",
        withheld=withheld,
        columns=words.columns if few and table.shape[-1] == len(words.columns) else (),
        rows=_rows(table, groups.get(name.partition("/")[0], ()), words.rows) if few else (),
        text="" if few else _text(table),
    )


def _rows(
    table: NDArray[Any], group_names: Sequence[str], inner: Sequence[str]
) -> list[tuple[str, list[str]]]:
    """A small table line by line; the first axis is the group, `inner` names what lies between group and columns."""
    lines = table.reshape(-1, table.shape[-1]) if table.ndim > 1 else table.reshape(-1, 1)
    each = len(lines) // len(group_names) if group_names and len(lines) % len(group_names) == 0 else 0
    named = []
    for index, line in enumerate(lines.tolist()):
        group = group_name(group_names[index // each]) if each else ""
        place = _place(index % each, each, inner) if each > 1 else ""
        named.append((", ".join(filter(None, (group, place))), [_number(value) for value in line]))
    return named


def _place(index: int, each: int, inner: Sequence[str]) -> str:
    return inner[index] if len(inner) == each else str(index + 1)


def _text(table: NDArray[Any]) -> str:
    longest = int(np.argmax(table.shape))
    lines = np.moveaxis(table, longest, -1).reshape(-1, table.shape[longest])
    return "\n".join(" ".join(_number(value) for value in line) for line in lines.tolist())


def _withheld(name: str, tables: Mapping[str, NDArray[Any]]) -> bool:
    flag = tables.get(f"{name.rpartition('/')[0]}/{RELEASED}")
    return flag is not None and not flag.any()


def _order(name: str) -> tuple[int, str]:
    first = name.partition("/")[0]
    return (GROUP_ORDER.index(first) if first in GROUP_ORDER else len(GROUP_ORDER), name)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _scalar(value: Scalar) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
