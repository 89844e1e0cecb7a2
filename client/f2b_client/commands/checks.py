"""Commands that look for trouble before it happens: doctor."""

import typer

COMMANDS = typer.Typer()
