"""Commands about the study itself: its text, its hash, its starting model."""

from typing import Annotated

import typer
from rich.console import Console

from f2b_server.commands.options import Folder, Json
from f2b_server.settings import StudyFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()
REGISTRY_TRUNK_NAME = "facenet-casia-webface"
REGISTRY_TRUNK_DIGEST = "44ad3e2c82e3f43407087aaa4f4cd70e82909be6406456a011c62a43f3b3b45a"
"""The trunk that `f2b-client weights add --from-registry` stores."""

study_app = typer.Typer(help="The study: its text, its hash, its starting model.", no_args_is_help=True)
COMMANDS.add_typer(study_app, name="study")


@study_app.command("new", epilog=EXIT_STATUS)
def study_new(
    folder: Folder,
    name: Annotated[str, typer.Option(help="What the study is called; the folder's name if not given.")] = "",
    question: Annotated[
        str, typer.Option(help="What it asks, in one sentence.")
    ] = "Does Face2Bone, trained across these hospitals, tell osteoporosis at each of them?",
    sites: Annotated[
        list[str] | None, typer.Option("--site", help="A hospital; give it once for each.")
    ] = None,
    trunk_name: Annotated[
        str, typer.Option(help="As `f2b-client weights show` prints it.")
    ] = REGISTRY_TRUNK_NAME,
    trunk_digest: Annotated[
        str,
        typer.Option(help="As `f2b-client weights show` prints it; of the registry's weights if not given."),
    ] = REGISTRY_TRUNK_DIGEST,
    as_json: Json = False,
) -> None:
    """Write a commented study.toml to edit. Then `study check` completes it.

    Without options it is a study of two hospitals called north and south: edit the file. An existing study.toml is
    kept: a changed study is another study.

    Example: `f2b-server study new study --name Bones --question "Does it hold elsewhere?" --site north --site south`
    """
    from f2b_server.study_files import NewStudy, write_study

    new = NewStudy(
        name=name or folder.resolve().name,
        question=question,
        sites=sites or ["north", "south"],
        trunk_name=trunk_name,
        trunk_digest=trunk_digest,
    )
    study = write_study(StudyFolder(folder), new)
    if as_json:
        print_json({"study": str(StudyFolder(folder).study), "hash": study.hash()})
    else:
        Console(highlight=False).print(
            f"Wrote {StudyFolder(folder).study}. Edit it, then run `f2b-server study check {folder}`."
        )


@study_app.command("check", epilog=EXIT_STATUS)
def study_check(folder: Folder, as_json: Json = False) -> None:
    """Check study.toml, make the CA and the starting model where missing; print it in plain words, and its hash.

    Hospitals approve exactly this hash. `f2b-client approve` shows each the same words, with its own policy.

    Example: `f2b-server study check study`
    """
    from f2b_server.study_files import complete_study
    from face2bone_model.contract.policy import Policy
    from face2bone_model.report.study_words import against_policy, plain_words

    study, policy = complete_study(StudyFolder(folder)), Policy()
    words, warnings = plain_words(study, policy), against_policy(study, policy)
    if as_json:
        print_json(
            {
                "name": study.name,
                "hash": study.hash(),
                "sites": study.sites,
                "words": words,
                "refused_by_default_policy": warnings,
            }
        )
        return
    console = Console(highlight=False)
    console.print("A hospital with the default policy.toml will be shown:\n")
    for sentence in words:
        console.print(f"• {sentence}", markup=False)
    for warning in warnings:
        console.print(f"! {warning}", style="yellow", markup=False)
    console.print(f"\n'{study.name}' is complete. Hash: {study.hash()}")
