"""Tables as records: columns, rows of finished cells, and a note. The templates set them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

Cell = str | Markup


@dataclass(frozen=True)
class Column:
    """A column's heading and how its cells are set."""

    label: str
    kind: Literal["text", "number", "digest"] = "text"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns, rows (the first cell of each names the row) and what a reader must know about them."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    caption: str = ""
    note: str = ""
    notes: Sequence[tuple[str, str]] = ()
    """Footnotes: letter and reason."""
    totals: int = 0
    """How many of the last rows are totals."""
    wide: bool = False
    """True: on a phone each row becomes a record, one line for each column."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError("every row of a table has one cell for each column")
