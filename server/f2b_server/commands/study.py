"""Commands about the study itself: its text, its hash, its starting model."""

from typing import Annotated

import typer
from rich.console import Console

from f2b_server.commands.options import Folder, Json
from f2b_server.settings import StudyFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()
study_app = typer.Typer(help="The study: its text, its hash, its starting model.", no_args_is_help=True)
COMMANDS.add_typer(study_app, name="study")


@study_app.command("new", epilog=EXIT_STATUS)
def study_new(
    folder: Folder,
    name: Annotated[str, typer.Option(help="What the study is called.")],
    question: Annotated[str, typer.Option(help="What it asks, in one sentence.")],
    sites: Annotated[list[str], typer.Option("--site", help="A hospital; give it once for each.")],
    trunk_name: Annotated[str, typer.Option(help="As `f2b-client weights show` prints it.")],
    trunk_digest: Annotated[str, typer.Option(help="As `f2b-client weights show` prints it.")],
    as_json: Json = False,
) -> None:
    """Write a commented study.toml to edit. Then `study check` completes it.

    An existing study.toml is kept: a changed study is another study.

    Example: `f2b-server study new study --name Bones --question "Does it hold elsewhere?" --site north --site south
    --trunk-name facenet-casia-webface --trunk-digest 44ad3e2c…`
    """
    from f2b_server.study_files import NewStudy, write_study

    new = NewStudy(
        name=name, question=question, sites=sites, trunk_name=trunk_name, trunk_digest=trunk_digest
    )
    study = write_study(StudyFolder(folder), new)
    if as_json:
        print_json({"study": str(StudyFolder(folder).study), "hash": study.hash()})
    else:
        Console().print(
            f"Wrote {StudyFolder(folder).study}. Edit it, then run `f2b-server study check {folder}`."
        )


@study_app.command("check", epilog=EXIT_STATUS)
def study_check(folder: Folder, as_json: Json = False) -> None:
    """Check study.toml, make the CA and the starting model where missing, and print the study's hash.

    Hospitals approve exactly this hash; `f2b-client approve` shows them the study in plain words.

    Example: `f2b-server study check study`
    """
    from f2b_server.study_files import complete_study

    study = complete_study(StudyFolder(folder))
    if as_json:
        print_json({"name": study.name, "hash": study.hash(), "sites": study.sites})
    else:
        Console(highlight=False).print(f"'{study.name}' is complete. Hash: {study.hash()}")
