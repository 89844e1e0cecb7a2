"""Commands about the running client: start, stop, status."""

import json
import logging
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.settings import SiteFolder, load_compute_settings
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()


@COMMANDS.command(epilog=EXIT_STATUS)
def start(
    site: Site = HERE,
    health: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Serve the gRPC health service there: a port for this machine alone, or host:port.",
        ),
    ] = "",
    page_port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the live page on 127.0.0.1; 0: any free one.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what happens as JSON, a line each.")] = False,
) -> None:
    """Prepare what is new, connect to the coordinating centre, and answer the approved study until stopped.

    Makes outgoing connections only. Ctrl-C or `f2b-client stop` ends it; nothing is lost, replies that were made
    are kept. deploy/f2b-client.service runs it under systemd. With --health, probes see each part by its name: link,
    executor, ledger, disk, and all of them under the empty name. The live page shows what is done and what left, on
    this machine only; `f2b-client status` prints its address.

    Example: `f2b-client start --site /srv/face2bone/site --health 9464`
    """
    from f2b_client.supervisor import Supervisor

    console = Console(highlight=False)

    def say(line: str) -> None:
        if as_json:
            typer.echo(json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "what": line}))
        else:
            console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)

    Supervisor(SiteFolder(site), say, health, page_port).run()


@COMMANDS.command(hidden=True)
def execute(site: Site = HERE) -> None:
    """Answer requests that the SuperNode received; started by `start`."""
    from f2b_client.run_executor import run_executor

    logging.getLogger("f2b_client").setLevel(logging.INFO)
    run_executor(SiteFolder(site), load_compute_settings(SiteFolder(site)))


@COMMANDS.command(epilog=EXIT_STATUS)
def stop(
    site: Site = HERE,
    seconds: Annotated[float, typer.Option(help="How long to wait for it to end.")] = 60.0,
    as_json: Json = False,
) -> None:
    """Stop a running client of this site and wait until it has ended.

    Example: `f2b-client stop --site /srv/face2bone/site`
    """
    from f2b_client.supervisor import stop_running

    stopped = stop_running(SiteFolder(site), seconds=seconds)
    if as_json:
        print_json({"stopped": stopped})
    else:
        Console().print("Stopped." if stopped else "It is not running.")


@COMMANDS.command(epilog=EXIT_STATUS)
def status(site: Site = HERE, as_json: Json = False) -> None:
    """Say what the client is doing, since when and until which deadline, how the link stands, and what was last sent.

    A process that died is named, whatever it said last. Reading changes nothing.

    Example: `f2b-client status --json`
    """
    from f2b_client.status import cells, read_status

    found = read_status(SiteFolder(site))
    if as_json:
        print_json(
            {
                **{name: vars(state) if state else None for name, state in found.states.items()},
                "running": found.running,
                "last_sent": vars(found.last_sent) if found.last_sent else None,
                "receipts": found.receipts,
                "budget": found.budget,
                "fault": found.fault,
                "page": found.page,
            }
        )
        return
    console = Console(highlight=False)
    console.print("The client is running." if found.running else "The client is not running.")
    table = Table("process", "doing", "since", "until", "detail")
    for name, state in found.states.items():
        table.add_row(name, *cells(state, time.time()))
    console.print(table)
    for title, line in (("Records", found.fault), ("Budget", found.budget), ("Page", found.page)):
        if line:
            console.print(f"{title}: {line}", soft_wrap=True)
    if sent := found.last_sent:
        console.print(
            f"Last sent: {sent.kind} of {sent.phase} {sent.round}, {sent.size_bytes:,} bytes, at {sent.at}; "
            f"{found.receipts} receipts in all."
        )
        console.print(f"Receipt {sent.number}: {sent.digest()}", soft_wrap=True)
