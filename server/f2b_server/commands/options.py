"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder at the centre.")]
Site = Annotated[str, typer.Argument(metavar="SITE", help="The hospital's name as study.toml has it.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
