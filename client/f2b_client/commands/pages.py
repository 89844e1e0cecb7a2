"""Commands about the hospital's own pages."""

import contextlib
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import Face2BoneError
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()


@COMMANDS.command(epilog=EXIT_STATUS)
def report(
    site: Site = HERE,
    serve: Annotated[
        bool, typer.Option("--serve", help="Also show the live pages on 127.0.0.1 until Ctrl-C.")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", metavar="N", help="Port of the live pages; 0 takes a free one.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Write this hospital's own pages: cohort, preparation, training, the model on its patients, what left.

    With --serve, the live pages show what the client does now, every receipt with the very numbers that left, and the
    privacy budget. They answer on this machine only, to whoever holds the printed address. From another computer,
    `ssh -L 8080:127.0.0.1:8080` and `--port 8080` bring them to its browser.

    Example: `f2b-client report --serve --port 8080 --site /srv/face2bone/site`
    """
    folder = SiteFolder(site)
    if serve:
        _serve(folder, port, as_json=as_json)
        return
    page = _write(folder)
    if as_json:
        print_json({"page": str(page)})
    else:
        Console().print(f"Open {page} in a browser. It holds this hospital's own figures: keep it inside.")


def _write(folder: SiteFolder) -> Path:
    from f2b_client.site_report import write_site_report

    return write_site_report(folder)


def _serve(folder: SiteFolder, port: int, *, as_json: bool) -> None:
    """Print the address at once; the written page, which takes longer, appears on the live one when it is done."""
    from f2b_client.web.server import live_pages

    with live_pages(folder, port) as address:
        if as_json:
            print_json({"url": address})
        else:
            console = Console(highlight=False, soft_wrap=True)
            console.print(f"Open {address} in a browser on this machine. Ctrl-C ends it.", markup=False)
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            _write_if_possible(folder)
            threading.Event().wait()


def _write_if_possible(folder: SiteFolder) -> None:
    try:
        _write(folder)
    except Face2BoneError as error:  # too early for one: the live page says what is there
        Console(stderr=True, highlight=False).print(f"No written page yet: {error}", markup=False)
