"""Commands that show what left and what it cost: egress, privacy."""

import typer

COMMANDS = typer.Typer()
