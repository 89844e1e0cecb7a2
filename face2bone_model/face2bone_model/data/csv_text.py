"""Open a hospital's CSV: decode it, find its headings and rows, and say what to set where the settings do not fit."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from face2bone_model.contract.errors import InputError
from face2bone_model.data.problem import Problem
from face2bone_model.data.site_settings import DxaSettings

_DELIMITERS = {",": ",", ";": ";", "\t": "\\t", "|": "|"}
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_WORKBOOK_MARKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


@dataclass(frozen=True, kw_only=True)
class CsvRow:
    """Cells by our name."""

    where: str
    """``dxa_export.csv row 12``: the heading is row 1, as a spreadsheet shows it."""
    cells: Mapping[str, str]

    def get(self, name: str) -> str:
        """The cell, or an empty text where the column is not mapped."""
        return self.cells.get(name, "")


def open_csv(
    path: Path, dxa: DxaSettings, columns: Mapping[str, str], problems: list[Problem]
) -> Iterator[CsvRow]:
    """Rows of `path` with the mapped `columns` (our name = their heading). Rows of the wrong length become problems.

    Raises:
        InputError: encoding, delimiter or headings do not fit; the sentence says what was found and what to set.
    """
    text = _decode(path, dxa.encoding)
    lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=dxa.delimiter))[dxa.skip_rows :]
    if not any(map(any, lines)):
        raise InputError(f"{path.name} is empty.", "Export it again.")
    headings = [cell.strip() for cell in lines[0]]
    _check_headings(path.name, text, headings, dxa, columns)
    position = {ours: headings.index(theirs) for ours, theirs in columns.items()}
    return _rows(path.name, lines[1:], dxa.skip_rows + 2, (len(headings), position), problems)


def _rows(
    name: str,
    lines: list[list[str]],
    first: int,
    shape: tuple[int, Mapping[str, int]],
    problems: list[Problem],
) -> Iterator[CsvRow]:
    width, position = shape
    for number, line in enumerate(lines, start=first):
        where = f"{name} row {number}"
        if not any(cell.strip() for cell in line):
            continue
        if len(line) < width or any(cell.strip() for cell in line[width:]):
            problems.append(
                Problem(
                    where,
                    f"The row has {len(line)} cells, the heading has {width}; the row is not used.",
                    "Look for a cut-off line or an unquoted separator.",
                )
            )
            continue
        yield CsvRow(where=where, cells={ours: line[index] for ours, index in position.items()})


def _decode(path: Path, encoding: str) -> str:
    raw = path.read_bytes()
    if raw.startswith(_WORKBOOK_MARKS):
        raise InputError(f"{path.name} is an Excel workbook, not a CSV file.", "Save it as CSV (UTF-8).")
    if raw.startswith(_UTF16_MARKS) and not encoding.lower().startswith("utf-16"):
        raise InputError(f"{path.name} is written in UTF-16.", 'Set [dxa] encoding = "utf-16".')
    # utf-8-sig also reads files without the byte-order mark that spreadsheets put first
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as error:
        row = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path.name} row {row} is not written in {encoding}.",
            f'Set [dxa] encoding = "{_guess(raw)}", or export as UTF-8.',
        ) from error


def _guess(raw: bytes) -> str:
    """The likeliest other encoding: cp1252 decodes nearly all bytes, so Chinese is tried first."""
    for encoding in ("utf-8", "gb18030"):
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        foreign = [letter for letter in text if not letter.isascii()]
        if encoding == "utf-8" or all(
            "\u3000" <= letter <= "\u9fff" or letter > "\uff00" for letter in foreign
        ):
            return encoding
    return "cp1252"


def _check_headings(
    name: str, text: str, headings: list[str], dxa: DxaSettings, columns: Mapping[str, str]
) -> None:
    missing = {ours: theirs for ours, theirs in columns.items() if theirs not in headings}
    if not missing:
        repeated = sorted({theirs for theirs in columns.values() if headings.count(theirs) > 1})
        if repeated:
            raise InputError(
                f"{name} has two columns headed '{repeated[0]}'.", "Rename one of them in the export."
            )
        return
    heading_line = text.splitlines()[dxa.skip_rows]
    for other, written in _DELIMITERS.items():
        cells = next(csv.reader([heading_line], delimiter=other))
        if set(columns.values()) <= {cell.strip() for cell in cells}:
            raise InputError(
                f"The columns of {name} are separated by '{written}', but site.toml says '{dxa.delimiter}'.",
                f'Set [dxa] delimiter = "{written}".',
            )
    ours, theirs = next(iter(missing.items()))
    raise InputError(
        f"{name} has no column '{theirs}', which [dxa.columns] names for {ours}.",
        f"Its columns are: {', '.join(filter(None, headings))}.",
    )
