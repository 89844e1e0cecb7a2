"""Commands about taking part: join, approve."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.settings import SiteFolder, load_policy
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()


@COMMANDS.command(epilog=EXIT_STATUS)
def join(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The file the coordinating centre sent.")],
    site: Site = HERE,
    as_json: Json = False,
) -> None:
    """Join a study: unpack the kit, make this site's keys, write site.toml and policy.toml where missing.

    The kit holds the centre's address, its CA certificate and the study; no secret. The keys are made here and
    stay here. Read the fingerprint out to the centre by phone and send it keys/node.pub.

    Example: `f2b-client join harbour.kit.zip --site /srv/face2bone/site`
    """
    from f2b_client.join import join as join_study

    result = join_study(SiteFolder(site), kit)
    if as_json:
        print_json(vars(result))
        return
    console = Console(highlight=False)
    console.print(f"Joined '{result.study}' as {result.site}.")
    console.print(
        f"Send {result.public_key} to the coordinating centre and read out: [bold]{result.fingerprint}[/]"
    )
    console.print(
        "Next: look through site.toml and policy.toml, then `f2b-client approve joined/study.toml`."
    )


@COMMANDS.command(epilog=EXIT_STATUS)
def approve(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="The study.toml, such as joined/study.toml.")
    ],
    site: Site = HERE,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take the approval back.")] = False,
    as_json: Json = False,
) -> None:
    """Say in plain words what a study computes here and what leaves, and record the approval of exactly that.

    Requests of any other study, or of this one with a single setting changed, are refused. A changed study is shown
    with what changed since the version approved last; it is refused until it is approved again.

    Example: `f2b-client approve joined/study.toml`; to take it back, the same with `--revoke`
    """
    from f2b_client import approval
    from face2bone_model.contract.study import load_study

    folder = SiteFolder(site)
    if revoke:
        study_hash = load_study(study).hash()
        approval.revoke(folder, study_hash)
        Console().print(f"Approval of {study_hash[:12]}… taken back.")
        return
    approved = approval.approve(folder, study, load_policy(folder))
    if as_json:
        print_json(
            {
                "study": approved.study.name,
                "hash": approved.study_hash,
                "sentences": approved.sentences,
                "warnings": approved.warnings,
                "changes": approved.changes,
            }
        )
        return
    console = Console(highlight=False)
    for sentence in approved.sentences:
        console.print(f"• {sentence}", markup=False)
    for warning in approved.warnings:
        console.print(f"! {warning}", style="yellow", markup=False)
    if approved.changes:
        console.print("\nSince the version of this study that you approved last:")
    for change in approved.changes:
        console.print(f"• {change}", markup=False)
    console.print(f"\nApproved: {approved.study_hash}")
