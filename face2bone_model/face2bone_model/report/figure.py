"""A figure on a page: the drawing and, for readers who want them exactly or cannot see it, its numbers."""

from dataclasses import dataclass

from markupsafe import Markup

from face2bone_model.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing, what it shows in words, and the table behind it."""

    title: str
    caption: str
    drawing: Markup
    numbers: Table
