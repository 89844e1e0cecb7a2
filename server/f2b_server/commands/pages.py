"""Commands that write or serve the centre's pages."""

import contextlib
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from f2b_server.commands.options import Folder, Json
from f2b_server.settings import StudyFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

if TYPE_CHECKING:
    from f2b_server.web.server import Served

COMMANDS = typer.Typer()
REFRESH_SECONDS = 60.0


@COMMANDS.command(epilog=EXIT_STATUS)
def report(
    folder: Folder,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Say on the page that the faces are rendered.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the study's page again from what the hospitals released.

    Example: `f2b-server report study`
    """
    from f2b_server.study_report import write_study_report

    page = write_study_report(StudyFolder(folder), synthetic=synthetic)
    if as_json:
        print_json({"page": str(page)})
    else:
        Console().print(f"Open {page} in a browser.")


@COMMANDS.command(epilog=EXIT_STATUS)
def web(
    folder: Folder,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; elsewhere than on this machine, TLS and a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port; 0 takes a free one.")] = 0,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file", metavar="F", help="Demand the token in this file; none is demanded on 127.0.0.1."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the study live until Ctrl-C: hospitals, learning curves, calibration, privacy, faults, models, reports.

    The page can only be read. It answers on this machine only; `ssh -L 8080:127.0.0.1:8080` and `--port 8080` bring it
    to another computer's browser. With another --host it is served over TLS with the centre's own certificate and
    demands a token, which is made and kept in state/web.token where no file is given. It works while nothing runs.

    Example: `f2b-server web study --port 8080`
    """
    from f2b_server.web.server import live_page

    with live_page(StudyFolder(folder), host=host, port=port, token_file=token_file) as page:
        if as_json:
            print_json({"url": page.url, "token_file": str(page.token_file) if page.token_file else None})
        else:
            console = Console(highlight=False, soft_wrap=True)
            console.print(f"Open {page.url} in a browser. Ctrl-C ends it.", markup=False)
            if page.token_file:
                console.print(f"Its token lies in {page.token_file}.", markup=False)
        sys.stdout.flush()
        _until_interrupted(page)


def _until_interrupted(page: "Served") -> None:
    """Ctrl-C, or systemd's SIGTERM, ends it; a renewed certificate is taken up meanwhile."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with contextlib.suppress(KeyboardInterrupt):
        while not over.wait(REFRESH_SECONDS):
            page.refresh()
