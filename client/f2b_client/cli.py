"""`f2b-client`: what a hospital's IT department runs."""

import logging
from typing import Annotated

import typer

from f2b_client.commands import audit, checks, data, models, pages, running, study
from face2bone_model.system.command import run_command

app = typer.Typer(
    name="f2b-client",
    help="Take part in a Face2Bone study: photos stay here, reviewed numbers leave.\n\n"
    "In the order a hospital needs them: weights, join, approve, doctor, start. Every failure is a sentence with "
    "its mend and a number; docs/exit-codes explains each number.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group in (data, study, checks, running, audit, models, pages):
    app.add_typer(group.COMMANDS)

Debug = Annotated[bool, typer.Option("--debug", help="Show the whole trace of an unexpected failure.")]


@app.callback()
def options(debug: Debug = False) -> None:  # read by run_command
    """Common options."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def main() -> None:
    """Entry point."""
    run_command(app)


if __name__ == "__main__":
    main()
