"""Commands about taking part: join, approve, policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.settings import SiteFolder, load_joined, load_policy, read_policy
from face2bone_model.contract.errors import UsageError
from face2bone_model.system.command import EXIT_STATUS, print_json

if TYPE_CHECKING:
    from f2b_client.policy_trial import Trial

COMMANDS = typer.Typer()
POLICY = typer.Typer(help="What this hospital permits: try it before it is in force.", no_args_is_help=True)
COMMANDS.add_typer(POLICY, name="policy")


@COMMANDS.command(epilog=EXIT_STATUS)
def join(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The file the coordinating centre sent.")],
    site: Site = HERE,
    ask_token: Annotated[
        bool, typer.Option("--token", help="Ask for the one-time token the centre said by phone.")
    ] = False,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Read the one-time token from a file instead.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Join a study: unpack the kit, make this site's keys, write site.toml and policy.toml where missing.

    The kit holds the centre's address, its CA certificate and the study; no secret. The keys are made here and
    stay here. The public key reaches the centre as the file keys/node.pub, or, with a one-time token, by itself over
    TLS that trusts the kit's CA only. Either way, read the fingerprint out to the centre by phone.

    Example: `f2b-client join harbour.kit.zip --site /srv/face2bone/site --token`
    """
    from f2b_client.join import join as join_study

    result = join_study(SiteFolder(site), kit)
    token = _token(ask_token, token_file)
    if token:
        from f2b_client.enrol import enrol

        enrol(SiteFolder(site), token)
    if as_json:
        print_json({**vars(result), "admitted": bool(token)})
        return
    console = Console(highlight=False)
    console.print(f"Joined '{result.study}' as {result.site}.")
    if token:
        console.print(f"The centre admitted this site. Read out to it: [bold]{result.fingerprint}[/]")
    else:
        console.print(
            f"Send {result.public_key} to the coordinating centre and read out: [bold]{result.fingerprint}[/]"
        )
    console.print(
        "Next: look through site.toml and policy.toml, then `f2b-client approve joined/study.toml`."
    )


def _token(ask: bool, file: Path | None) -> str:
    """The token, never from the command line itself: the list of processes shows that to everybody."""
    if file is None:
        return str(typer.prompt("Token (the centre says it by phone)", err=True)) if ask else ""
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{file} cannot be read as a token.", "Give a text file with the token in it."
        ) from error


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
        if as_json:
            print_json({"revoked": study_hash})
        else:
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


@POLICY.command("check", epilog=EXIT_STATUS)
def policy_check(
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE", help="Another policy to try; the site's own if not given."),
    ] = None,
    site: Site = HERE,
    as_json: Json = False,
) -> None:
    """Try a policy against every request this site ever got: what it would have refused, and why.

    Also says where an approved study asks for more than the policy permits. Changes nothing. Copy policy.toml, edit
    the copy, and try it here before it takes the place of the first.

    Example: `f2b-client policy check --policy stricter.toml`
    """
    from f2b_client.approval import approved_studies
    from f2b_client.policy_trial import try_policy
    from face2bone_model.report.study_words import against_policy

    folder = SiteFolder(site)
    tried = read_policy(policy or folder.policy)
    trials = try_policy(folder, tried, cohort=load_joined(folder).site)
    ahead = [line for study in approved_studies(folder) for line in against_policy(study, tried)]
    if as_json:
        print_json(
            {"requests": [{**vars(one), "request": vars(one.request)} for one in trials], "ahead": ahead}
        )
        return
    console = Console(highlight=False)
    console.print(_trial_table(trials) if trials else "Nothing was asked of this site yet.")
    refused = sum(one.code != 0 for one in trials)
    console.print(f"{refused} of {len(trials)} requests would be refused.")
    for line in ahead:
        console.print(f"! {line}", style="yellow", markup=False)


def _trial_table(trials: "Sequence[Trial]") -> Table:
    table = Table("asked", "study", "phase", "round", "verdict", "why")
    for one in trials:
        verdict = f"refused, {one.code}" if one.code else "passes"
        table.add_row(
            one.request.at,
            one.request.study_hash[:8],
            one.request.phase,
            str(one.request.round),
            verdict,
            escape(one.sentence),
            style="red" if one.code else "yellow" if one.sentence else None,
        )
    return table
