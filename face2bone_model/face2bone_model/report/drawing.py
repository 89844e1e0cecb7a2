"""Inline SVG, element by element. Built as a tree, so a hostile label cannot break out of it.

Drawings are 360 units wide: one unit is about a CSS pixel on a phone, so 12-unit text stays readable there.
Colours come from the page's style sheet through class names; no drawing names a colour.
"""

from collections.abc import Iterable
from xml.etree import ElementTree as Tree

from markupsafe import Markup

WIDTH = 360.0
Point = tuple[float, float]


class Drawing:
    """One figure: shapes in drawing order, with a title and a description for readers who cannot see it."""

    def __init__(self, name: str, title: str, description: str, height: float) -> None:
        self.root = Tree.Element(
            "svg",
            {
                "viewBox": f"0 0 {WIDTH:g} {height:g}",
                "role": "img",
                "aria-labelledby": f"{name}-title {name}-desc",
                "class": "figure",
            },
        )
        Tree.SubElement(self.root, "title", {"id": f"{name}-title"}).text = title
        Tree.SubElement(self.root, "desc", {"id": f"{name}-desc"}).text = description

    def line(self, start: Point, stop: Point, style: str) -> None:
        """A straight line."""
        (x1, y1), (x2, y2) = start, stop
        self._add("line", style, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(self, corner: Point, size: Point, style: str) -> None:
        """A rectangle from its upper left corner."""
        self._add("rect", style, x=corner[0], y=corner[1], width=size[0], height=size[1])

    def dot(self, centre: Point, radius: float, style: str) -> None:
        """A filled circle."""
        self._add("circle", style, cx=centre[0], cy=centre[1], r=radius)

    def path(self, points: Iterable[Point], style: str) -> None:
        """A line through the points; nothing where there are fewer than two."""
        data = _path(points)
        if " " in data:
            self._add("path", style, d=f"M{data}")

    def area(self, upper: Iterable[Point], lower: Iterable[Point], style: str) -> None:
        """The surface between two lines that run in the same direction."""
        data = _path([*upper, *reversed(list(lower))])
        if " " in data:
            self._add("path", style, d=f"M{data}Z")

    def text(self, at: Point, words: str, style: str = "", *, anchor: str = "start") -> None:
        """One line of text; `anchor` is start, middle or end."""
        element = self._add("text", style, x=at[0], y=at[1])
        element.set("text-anchor", anchor)
        element.text = words

    def vertical_text(self, at: Point, words: str, style: str = "") -> None:
        """One line of text that reads upwards, centred on `at`."""
        element = self._add("text", style)
        element.set("text-anchor", "middle")
        element.set("transform", f"translate({_number(at[0])} {_number(at[1])}) rotate(-90)")
        element.text = words

    def markup(self) -> Markup:
        """The finished element."""
        return Markup(Tree.tostring(self.root, encoding="unicode"))  # noqa: S704  # the tree has escaped every text

    def _add(self, tag: str, style: str, **attributes: float | str) -> Tree.Element:
        given = {
            key: value if isinstance(value, str) else _number(value) for key, value in attributes.items()
        }
        if style:
            given["class"] = style
        return Tree.SubElement(self.root, tag, given)


def _path(points: Iterable[Point]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
