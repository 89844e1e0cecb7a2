"""Commands about released models: verify, install, list, check."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.settings import SiteFolder
from face2bone_model.system.command import EXIT_STATUS, print_json

if TYPE_CHECKING:
    from face2bone_model.contract.release import ModelRelease

COMMANDS = typer.Typer()
MODEL = typer.Typer(
    help="Models the coordinating centre released: verified before use.", no_args_is_help=True
)
COMMANDS.add_typer(MODEL, name="model")

File = Annotated[Path, typer.Argument(metavar="FILE", help="The release, such as 007.release.zip.")]
FIGURES = (
    "auc:osteoporosis",
    "auc_within_site:osteoporosis",
    "accuracy",
    "recall:osteoporosis",
    "ece:top_label",
)


@MODEL.command(epilog=EXIT_STATUS)
def verify(
    file: File,
    site: Site = HERE,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="The study's CA certificate; joined/ca.pem if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that a release is the centre's and that not a byte of it was changed. Installs nothing.

    Example: `f2b-client model verify 007.release.zip`
    """
    from f2b_client.models import verify_release
    from face2bone_model.contract.release import verified_release

    release = verified_release(file, ca) if ca else verify_release(SiteFolder(site), file)
    if as_json:
        print_json(_facts(release))
    else:
        _print_facts(release, "Verified: every file is what the study's centre signed.")


@MODEL.command(epilog=EXIT_STATUS)
def install(file: File, site: Site = HERE, as_json: Json = False) -> None:
    """Verify a release of a study this hospital approved, and keep it under models/.

    Example: `f2b-client model install 007.release.zip`
    """
    from f2b_client.models import install_release

    path, release = install_release(SiteFolder(site), file)
    if as_json:
        print_json({**_facts(release), "path": str(path)})
    else:
        _print_facts(release, f"Installed. Next: `f2b-client model check {release.name}`.")


@MODEL.command("list", epilog=EXIT_STATUS)
def list_models(site: Site = HERE, as_json: Json = False) -> None:
    """List the installed models; each is verified again.

    Example: `f2b-client model list`
    """
    from f2b_client.models import installed_releases

    found = installed_releases(SiteFolder(site))
    if as_json:
        print_json(
            [
                {"name": one.name, "fault": one.fault, **(_facts(one.release) if one.release else {})}
                for one in found
            ]
        )
        return
    table = Table("model", "study", "round", "signed", "")
    for one in found:
        about = one.release
        words = (
            (about.manifest.study, str(about.manifest.round), f"{about.signed_at:%Y-%m-%d}")
            if about
            else ("",) * 3
        )
        table.add_row(one.name, *words, one.fault or "verified", style="red" if one.fault else None)
    Console(highlight=False).print(table if found else "No model is installed.")


@MODEL.command(epilog=EXIT_STATUS)
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `f2b-client model list` prints it.")],
    site: Site = HERE,
    as_json: Json = False,
) -> None:
    """Verify an installed model again, build its network, compare it with this site's weights and receipts.

    It also shows the card's pooled figures and the model's limitations. Nothing is sent, and no patient's data is read.

    Example: `f2b-client model check round-007-1a2b3c4d5e6f`
    """
    from f2b_client.models import installed_release, own_share
    from f2b_client.release_check import check_release

    folder = SiteFolder(site)
    release = installed_release(folder, name)
    share = own_share(folder, release)
    found = check_release(folder, release)
    figures = _figures(release)
    if as_json:
        print_json({**_facts(release), **vars(found), "own_share": vars(share), "figures": figures})
        return
    _print_facts(release, f"{name} is whole, and its network works here with the trunk {found.trunk}.")
    console = Console(highlight=False)
    console.print(share.words(), style="yellow" if share.unknown else None)
    for key, figure in figures.items():
        console.print(f"{key}: {_estimate(figure)}", markup=False)
    for limitation in release.card["limitations"]:
        console.print(f"! {limitation}", style="yellow", markup=False)


def _facts(release: "ModelRelease") -> dict[str, Any]:
    return {
        "name": release.name,
        "study": release.manifest.study,
        "study_hash": release.manifest.study_hash,
        "round": release.manifest.round,
        "digest": release.digest,
        "checkpoint": release.manifest.checkpoint,
        "signed_at": release.signed_at.isoformat(),
        "signed_by": release.signed_by,
        "standing": release.card["standing"],
    }


def _print_facts(release: "ModelRelease", first: str) -> None:
    console = Console(highlight=False)
    console.print(first, soft_wrap=True)
    console.print(f"'{release.manifest.study}'. {release.card['standing']}", markup=False)
    console.print(f"Signed {release.signed_at:%Y-%m-%d %H:%M} UTC. Digest: {release.digest}", soft_wrap=True)


def _figures(release: "ModelRelease") -> dict[str, Any]:
    """Pooled figures of the card on held-out patients; of a round that was not chosen, on validation patients."""
    card = release.card
    if card["evaluation"]:
        every = card["evaluation"]["groups"]["all"]["figures"]
        return {f"held out, {name}": every[name] for name in FIGURES if name in every}
    validation = card["validation"] or {}
    return {f"validation, {name}": validation[name] for name in ("auc", "loss") if name in validation}


def _estimate(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return f"not given ({figure['reason']})" if figure["reason"] else "not given"
    limits = f" ({figure['low']:.2f} to {figure['high']:.2f})" if figure["low"] is not None else ""
    return f"{figure['value']:.2f}{limits}"
