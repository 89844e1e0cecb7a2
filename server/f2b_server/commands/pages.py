"""Commands that write or serve the centre's pages."""

from typing import Annotated

import typer
from rich.console import Console

from f2b_server.commands.options import Folder, Json
from f2b_server.settings import StudyFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()


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
