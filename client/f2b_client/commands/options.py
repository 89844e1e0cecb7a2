"""Options and texts that several commands share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Site = Annotated[
    Path,
    typer.Option(
        "--site", metavar="DIR", help="The hospital's folder, which holds site.toml.", show_default=True
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

HERE = Path()


def progress_bar(title: str, *, quiet: bool) -> Progress:
    """A bar with a count and the time left, on stderr."""
    return Progress(
        TextColumn(title),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
