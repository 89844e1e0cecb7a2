"""Commands about the running client: start, stop, status."""

import logging
import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.settings import SiteFolder, load_compute_settings
from f2b_client.state import State, read_state
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()


@COMMANDS.command(epilog=EXIT_STATUS)
def start(site: Site = HERE) -> None:
    """Prepare what is new, connect to the coordinating centre, and answer the approved study until stopped.

    Makes outgoing connections only. Ctrl-C or `f2b-client stop` ends it; nothing is lost, replies that were made
    are kept. deploy/f2b-client.service runs it under systemd.

    Example: `f2b-client start --site /srv/face2bone/site`
    """
    from f2b_client.supervisor import Supervisor

    console = Console(highlight=False)
    Supervisor(
        SiteFolder(site), lambda line: console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)
    ).run()


@COMMANDS.command(hidden=True)
def execute(
    supernode: Annotated[str, typer.Option(help="Runtime address of the SuperNode.")], site: Site = HERE
) -> None:
    """Answer requests that the SuperNode received; started by `start`."""
    from f2b_client.run_executor import run_executor

    logging.getLogger("f2b_client").setLevel(logging.INFO)
    run_executor(SiteFolder(site), supernode, load_compute_settings(SiteFolder(site)))


@COMMANDS.command(epilog=EXIT_STATUS)
def stop(
    site: Site = HERE,
    seconds: Annotated[float, typer.Option(help="How long to wait for it to end.")] = 60.0,
) -> None:
    """Stop a running client of this site and wait until it has ended.

    Example: `f2b-client stop --site /srv/face2bone/site`
    """
    from f2b_client.supervisor import stop_running

    state = read_state(SiteFolder(site), "supervisor")
    if state is None or state.doing == "stopped":
        Console().print("It is not running.")
        return
    stop_running(SiteFolder(site), state.pid, seconds=seconds)
    Console().print("Stopped.")


@COMMANDS.command(epilog=EXIT_STATUS)
def status(site: Site = HERE, as_json: Json = False) -> None:
    """Say what the client is doing, since when, and what was last sent.

    Example: `f2b-client status --json`
    """
    from f2b_client.receipts import read_receipts

    folder = SiteFolder(site)
    states = {name: read_state(folder, name) for name in ("supervisor", "prepare", "executor")}
    receipts = read_receipts(folder.receipts)
    if as_json:
        last = vars(receipts[-1]) if receipts else None
        print_json({**{name: vars(s) if s else None for name, s in states.items()}, "last_sent": last})
        return
    table = Table("process", "doing", "since", "detail")
    for name, state in states.items():
        table.add_row(name, *_state_cells(state))
    Console().print(table)
    if receipts:
        last_sent = receipts[-1]
        Console(highlight=False).print(
            f"Last sent: {last_sent.kind} of {last_sent.phase} {last_sent.round}, {last_sent.size_bytes:,} bytes, "
            f"at {last_sent.at}; {len(receipts)} receipts in all."
        )


def _state_cells(state: State | None) -> tuple[str, str, str]:
    if state is None:
        return "not yet", "", ""
    amount = f"{state.done} of {state.total}" if state.total else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.since)) if state.since else ""
    return state.doing, since, f"{state.detail} {amount}".strip()
