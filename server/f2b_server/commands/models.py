"""Commands about the registry: each round's model, who is in it, and its signed releases."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from f2b_server.commands.options import Folder, Json
from f2b_server.settings import StudyFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

if TYPE_CHECKING:
    from f2b_server.registry.catalogue import RoundModel
    from face2bone_model.metrics.summary import ValidationSummary

COMMANDS = typer.Typer()
MODELS = typer.Typer(help="Each round's model, who is in it, and its signed releases.", no_args_is_help=True)
COMMANDS.add_typer(MODELS, name="models")

Round = Annotated[int, typer.Argument(metavar="N", help="The round.")]
HEADLINE = ("auc:osteoporosis", "auc:macro", "accuracy", "recall:osteoporosis", "ece:top_label", "brier")


@MODELS.command("list", epilog=EXIT_STATUS)
def list_models(folder: Folder, as_json: Json = False) -> None:
    """List the model of each finished round: its digest, who is in it, what it scored on validation patients.

    Example: `f2b-server models list study`
    """
    from f2b_server.registry.catalogue import models, validation_of

    study = StudyFolder(folder)
    found = [(one, validation_of(study, one.round)) for one in models(study)]
    if as_json:
        print_json([_summary(*one) for one in found])
        return
    Console(highlight=False).print(_table(found) if found else "No round is finished yet.")


@MODELS.command(epilog=EXIT_STATUS)
def show(folder: Folder, number: Round, as_json: Json = False) -> None:
    """Show one round's model: what each hospital sent for it, who is missing and why, what it scored.

    The reply's digest is what the hospital's own signed receipt carries: `f2b-client egress list` shows it there.

    Example: `f2b-server models show study 7`
    """
    from f2b_server.registry.catalogue import evaluation_of, model, validation_of
    from face2bone_model.contract.payload import digest
    from face2bone_model.report.formats import plain_estimate
    from face2bone_model.report.render import plain

    study = StudyFolder(folder)
    one, validation = model(study, number), validation_of(study, number)
    evaluation = evaluation_of(study, number)
    figures = evaluation.groups["all"].metrics if evaluation else {}
    releases = {path.name: digest(path.read_bytes()) for path in one.released}
    if as_json:
        details = {
            "contributions": one.contributions,
            "missing": one.missing,
            "notes": one.notes,
            "bytes_sent": one.bytes_sent,
        }
        told = {
            **_summary(one, validation),
            **plain(details),
            "evaluation": plain(figures),
            "releases": releases,
        }
        print_json(told)
        return
    console = Console(highlight=False)
    console.print(
        f"Round {one.round}{', the chosen one' if one.chosen else ''}: {one.digest}", soft_wrap=True
    )
    console.print(_contributions(one))
    for site, why in (*one.missing.items(), *one.notes.items()):
        console.print(f"! {site}: {why}", style="yellow", markup=False)
    if validation:
        console.print(f"Validation: AUC {plain_estimate(validation.auc)}", markup=False)
        console.print(f"            loss {plain_estimate(validation.loss)}", markup=False)
    for name in HEADLINE if figures else ():
        console.print(f"Held out:   {name} {plain_estimate(figures[name])}", markup=False)
    for name, sha256 in releases.items():
        console.print(f"Released:   {name}, SHA-256 {sha256}", soft_wrap=True)


@MODELS.command(epilog=EXIT_STATUS)
def release(
    folder: Folder,
    number: Round,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write a copy here, to give away.")
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Say on the card that the faces were drawn by a program.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Release a round's model: one signed archive with the model, its card, who is in it, and the study.

    It is kept under models/. Asked again, the same archive is given again. A round that was not chosen can be released
    too; its card says so.

    Example: `f2b-server models release study 7 --out bones-007.release.zip`
    """
    from f2b_server.registry.contents import mark_synthetic
    from f2b_server.registry.release import release_model
    from face2bone_model.system.files import write_atomic

    study = StudyFolder(folder)
    if synthetic:
        mark_synthetic(study)
    kept = release_model(study, number)
    if out is not None:
        write_atomic(out, kept.release.archive)
    result = {
        "file": str(out or kept.path),
        "kept": str(kept.path),
        "sha256": kept.sha256,
        "digest": kept.release.digest,
        "signed_at": kept.release.signed_at.isoformat(),
        "standing": kept.release.card["standing"],
    }
    if as_json:
        print_json(result)
        return
    console = Console(highlight=False)
    console.print(result["standing"])
    console.print(f"Released as {result['file']}", soft_wrap=True)
    console.print(
        f"Digest: {result['digest']}. Hospitals run `f2b-client model install FILE`.", soft_wrap=True
    )


def _table(found: "Sequence[tuple[RoundModel, ValidationSummary | None]]") -> Table:
    from face2bone_model.report.formats import plain_estimate

    table = Table("round", "digest", "hospitals", "AUC, validation", "loss, validation", "")
    for one, validation in found:
        auc = plain_estimate(validation.auc) if validation else "not measured"
        loss = plain_estimate(validation.loss) if validation else "not measured"
        marks = [word for word, applies in (("chosen", one.chosen), ("released", one.released)) if applies]
        answered, missing = set(one.contributions), set(one.missing)  # one left out is in both
        sites = f"{len(answered - missing)} of {len(answered | missing)}"
        table.add_row(str(one.round), one.digest[:12], sites, auc, loss, ", ".join(marks))
    return table


def _contributions(one: "RoundModel") -> Table:
    table = Table("hospital", "patients", "epsilon", "bytes", "seconds", "SHA-256 of its reply")
    for site, given in one.contributions.items():
        spent = f"{given.epsilon:.2f}" if given.noise_multiplier else "off"
        numbers = (str(given.num_patients), spent, str(given.bytes_received), f"{given.seconds:.1f}")
        table.add_row(site, *numbers, given.payload_digest)
    return table


def _summary(one: "RoundModel", validation: "ValidationSummary | None") -> dict[str, Any]:
    from face2bone_model.report.render import plain

    return {
        "round": one.round,
        "digest": one.digest,
        "contributors": sorted(one.contributions),
        "auc": plain(validation.auc) if validation else None,
        "loss": plain(validation.loss) if validation else None,
        "chosen": one.chosen,
        "released": [path.name for path in one.released],
    }
