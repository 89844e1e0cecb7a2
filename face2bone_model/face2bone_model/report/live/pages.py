"""Templates and static files of live pages: the same look, frame and script on both sides."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from face2bone_model.report.render import TEMPLATES

HERE = Path(__file__).parent
STATIC: Mapping[str, tuple[Path, str]] = {
    "page.css": (TEMPLATES / "page.css", "text/css"),
    "live.css": (HERE / "static" / "live.css", "text/css"),
    "live.js": (HERE / "static" / "live.js", "text/javascript"),
    "icon.svg": (HERE / "static" / "icon.svg", "image/svg+xml"),
}
"""By name: the file and its media type."""


def live_environment(templates: Path) -> Environment:
    """Templates of one side's pages, the shared frame, and those of the written reports for their macros.

    Every value is escaped. The filter `commands` sets what stands in backticks as code.
    """
    folders = (templates, HERE / "templates", TEMPLATES)
    environment = Environment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["commands"] = commands
    return environment


def commands(sentence: str) -> Markup:
    """A sentence with what stands in backticks set as code."""
    parts = (
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part)
        for index, part in enumerate(sentence.split("`"))
    )
    return Markup().join(parts)
