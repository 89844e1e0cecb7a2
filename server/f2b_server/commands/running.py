"""Commands that run the federation."""

from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from f2b_server.commands.options import Folder, Json
from f2b_server.progress import Progress
from f2b_server.settings import StudyFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()


@COMMANDS.command(epilog=EXIT_STATUS)
def train(
    folder: Folder,
    address: Annotated[str, typer.Option(help="host:port to listen on; the one the kits name.")],
    as_json: Json = False,
) -> None:
    """Open the SuperLink, run the study (or resume it where it stopped), write its report, close the SuperLink.

    Interrupt it at any time: finished rounds are kept, and hospitals answer repeated questions from their store.

    Example: `f2b-server train study --address fl.example.org:8443`
    """
    from f2b_server.study_report import write_study_report
    from f2b_server.superlink import running_superlink
    from f2b_server.train import train as run_training

    study_folder = StudyFolder(folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        running_superlink(study_folder, address) as superlink,
        Bar(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("starting", total=None)
        run_training(
            study_folder,
            superlink,
            on_progress=lambda p: bar.update(
                task, description=_line(p), completed=p.round if p else 0, total=p.rounds if p else None
            ),
        )
    page = write_study_report(study_folder, synthetic=False)
    if as_json:
        print_json({"page": str(page)})
    else:
        Console().print(f"Finished. Open {page} in a browser.")


def _line(progress: Progress | None) -> str:
    if progress is None:
        return "starting"
    waiting = f", waiting for {', '.join(progress.waiting_for)}" if progress.waiting_for else ""
    return f"{progress.phase}{waiting}"
