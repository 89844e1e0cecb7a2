"""A model card from Markdown to HTML: the headings, tables, lists, bold and code that our cards are written in.

Every letter of the text is escaped; whatever else Markdown knows, such as links and pictures, stays plain text.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from markupsafe import Markup, escape

_INLINE = re.compile(r"\\(?P<sign>[\\`*_<>\[\]|#])|\*\*(?P<bold>[^*]+)\*\*|`(?P<code>[^`]+)`")
_RULE = re.compile(r"\|(\s*:?-+:?\s*\|)+")


def to_html(text: str) -> Markup:
    """The card; headings begin at the third level, below those of the page."""
    return Markup("\n").join(_blocks(text))


def _blocks(text: str) -> Iterator[Markup]:
    for kind, group in groupby(text.splitlines(), key=_kind):
        lines = [line.strip() for line in group]
        if kind == "heading":
            yield from (_heading(line) for line in lines)
        elif kind == "table":
            yield _table(lines)
        elif kind == "list":
            items = [Markup("<li>{}</li>").format(_inline(line[2:])) for line in lines]
            yield Markup("<ul>{}</ul>").format(Markup().join(items))
        elif kind == "text":
            yield Markup("<p>{}</p>").format(_inline(" ".join(lines)))


def _kind(line: str) -> str:
    stripped = line.strip()
    if not stripped:
        return ""
    if stripped.startswith("#"):
        return "heading"
    if stripped.startswith("|"):
        return "table"
    return "list" if stripped.startswith("- ") else "text"


def _heading(line: str) -> Markup:
    level = len(line) - len(line.lstrip("#"))
    frame = Markup("<h3>{}</h3>") if level <= 2 else Markup("<h4>{}</h4>")  # noqa: PLR2004  # title and sections
    return frame.format(_inline(line.lstrip("# ")))


def _table(lines: list[str]) -> Markup:
    rows = [_cells(line) for line in lines if not _RULE.fullmatch(line)]
    has_head = len(lines) > 1 and bool(_RULE.fullmatch(lines[1]))
    head, body = (rows[0], rows[1:]) if has_head else ([], rows)
    top = Markup()
    if any(head):
        names = Markup().join(Markup('<th scope="col">{}</th>').format(_inline(cell)) for cell in head)
        top = Markup("<thead><tr>{}</tr></thead>").format(names)
    made = Markup().join(_row(row) for row in body)
    return Markup('<div class="table"><table>{}<tbody>{}</tbody></table></div>').format(top, made)


def _row(cells: list[str]) -> Markup:
    first, *others = cells
    rest = Markup().join(Markup("<td>{}</td>").format(_inline(cell)) for cell in others)
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(_inline(first), rest)


def _cells(line: str) -> list[str]:
    """Cells between bars; a bar within a cell is written with a backslash before it."""
    inner = line.removeprefix("|").removesuffix("|")
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", inner)]


def _inline(text: str) -> Markup:
    made, end = Markup(), 0
    for found in _INLINE.finditer(text):
        made += escape(text[end : found.start()])
        if found["sign"]:
            made += escape(found["sign"])
        elif found["bold"]:
            made += Markup("<strong>{}</strong>").format(found["bold"])
        else:
            made += Markup("<code>{}</code>").format(found["code"])
        end = found.end()
    return made + escape(text[end:])
