"""How both commands fail: a sentence, its mend, and a number that is the exit code."""

import json
import sys
from typing import Any

import typer
from rich.console import Console

from face2bone_model.contract.errors import Face2BoneError, UnexpectedError

INTERRUPTED = 130


EXIT_STATUS = "Exit status: 0 when done; otherwise the number of the error, explained in docs/exit-codes."
"""Closes the manual page of every command."""


def run_command(app: typer.Typer) -> None:
    """Run a command line; turn every failure into a numbered sentence on standard error.

    Exits with the error's number, which `docs/exit-codes/NN.md` explains.
    """
    try:
        app()
    except Face2BoneError as error:
        _fail(error)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # what Typer makes of Ctrl-C
            Console(stderr=True).print("Stopped. Run the same command again to go on where it was.")
        raise
    except Exception as error:  # the last line of defence of a command
        if "--debug" in sys.argv:
            raise
        _fail(UnexpectedError(f"{type(error).__name__}: {error}", "Please report this; --debug shows more."))


def _fail(error: Face2BoneError) -> None:
    if "--json" in sys.argv:
        print_json({"error": error.code, "what": error.what, "mend": error.mend})
    console = Console(stderr=True, highlight=False)
    console.print(f"[bold red]error {error.code}[/]", end=" ")
    console.print(error.what, markup=False, soft_wrap=True)
    if error.mend:
        console.print(error.mend, markup=False, soft_wrap=True)
    sys.exit(error.code)


def print_json(content: Any) -> None:
    """Print a result for programs."""
    sys.stdout.write(json.dumps(content, indent=1, sort_keys=True, default=str) + "\n")
