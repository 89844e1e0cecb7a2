"""`f2b-server`: what the coordinating centre runs."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from f2b_server.progress import Progress
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import UsageError
from face2bone_model.system.command import EXIT_STATUS, print_json, run_command

app = typer.Typer(
    name="f2b-server",
    help="Coordinate a Face2Bone study across hospitals: photos stay there, reviewed numbers come here.\n\n"
    "To see everything at once: `f2b-server demo`. For a study of your own, in this order: study new, enrol, admit, "
    "train, report. Every failure is a sentence with its mend and a number; docs/exit-codes explains each number.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
study_app = typer.Typer(help="The study: its text, its hash, its starting model.", no_args_is_help=True)
app.add_typer(study_app, name="study")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The study's folder at the centre.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole trace of an unexpected failure.")]


@app.callback()
def options(debug: Debug = False) -> None:
    """Common options."""


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


@app.command(epilog=EXIT_STATUS)
def enrol(
    folder: Folder,
    site: Annotated[str, typer.Argument(metavar="SITE", help="The hospital's name as study.toml has it.")],
    address: Annotated[str, typer.Option(help="host:port at which hospitals reach this centre.")],
    out: Annotated[Path, typer.Option("--out", metavar="KIT", help="The kit to write.")],
    as_json: Json = False,
) -> None:
    """Write a hospital's kit: address, CA certificate and study. It holds no secret, so any channel will do.

    Example: `f2b-server enrol study north --address fl.example.org:8443 --out north.kit.zip`
    """
    from f2b_server.enrolment import write_kit

    path = write_kit(StudyFolder(folder), site, address, out)
    if as_json:
        print_json({"kit": str(path)})
    else:
        Console().print(
            f"Send {path} to {site}. They run `f2b-client join {path.name}` and send back keys/node.pub."
        )


@app.command(epilog=EXIT_STATUS)
def admit(
    folder: Folder,
    site: Annotated[str, typer.Argument(metavar="SITE", help="The hospital's name as study.toml has it.")],
    public_key: Annotated[
        Path, typer.Argument(metavar="NODE_PUB", help="The file keys/node.pub the hospital sent.")
    ],
    as_json: Json = False,
) -> None:
    """Put a hospital's public key on the roster. Compare the fingerprint with the hospital by phone.

    Example: `f2b-server admit study north node.pub`
    """
    from f2b_server.enrolment import admit as admit_site
    from face2bone_model.contract.fingerprint import fingerprint

    if not public_key.exists():
        raise UsageError(f"{public_key} does not exist.", "Check the path.")
    entry = admit_site(StudyFolder(folder), site, public_key.read_bytes())
    if as_json:
        print_json({"site": entry.site, "fingerprint": fingerprint(entry.public_key)})
    else:
        Console(highlight=False).print(
            f"{entry.site} is on the roster: [bold]{fingerprint(entry.public_key)}[/]"
        )


@app.command(epilog=EXIT_STATUS)
def roster(folder: Folder, as_json: Json = False) -> None:
    """List the admitted hospitals and the fingerprints of their keys.

    Example: `f2b-server roster study --json`
    """
    from f2b_server.enrolment import roster as admitted
    from face2bone_model.contract.fingerprint import fingerprint

    entries = admitted(StudyFolder(folder))
    if as_json:
        print_json([{**vars(entry), "fingerprint": fingerprint(entry.public_key)} for entry in entries])
        return
    table = Table("hospital", "fingerprint", "admitted")
    for entry in entries:
        table.add_row(entry.site, fingerprint(entry.public_key), entry.enrolled_at)
    Console().print(table)


@app.command(epilog=EXIT_STATUS)
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


@app.command(epilog=EXIT_STATUS)
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


@app.command(epilog=EXIT_STATUS)
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Everything goes in here.")] = Path(
        "demo"
    ),
    sites: Annotated[
        list[str] | None,
        typer.Option("--site", metavar="NAME=DIR", help="A hospital's own folder; give it once for each."),
    ] = None,
    patients: Annotated[int, typer.Option(min=20, help="Patients of each rendered hospital.")] = 150,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 10,
    seed: Annotated[int, typer.Option(help="The same seed renders the same faces.")] = 0,
    private_site: Annotated[
        str, typer.Option(help="Rendered hospital that trains with differential privacy, or none.")
    ] = "hilltop",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove an earlier demo in that folder first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a whole federation on this machine, with real parts: three hospitals, TLS, keys, training, reports.

    Renders three hospitals' synthetic cohorts (or takes folders with --site), enrols them, starts a SuperLink and
    one client process for each, trains, evaluates, writes every report, and stops what it started. One of the
    rendered hospitals trains with differential privacy. Interrupted, the same command goes on where it stopped.

    A folder given with --site holds photos, a DXA export and a site.toml that maps its columns
    (docs/hospital-guide.md); the client puts its keys and cache beside them. Small cells stay there.

    Example: `f2b-server demo --out demo`, or
    `f2b-server demo --out mine --site north=/data/north --site south=/data/south`
    """
    from f2b_server.demo import DemoOptions, run_demo
    from f2b_server.demo_screen import DemoScreen
    from f2b_server.demo_summary import print_summary

    folders = dict(_name_and_folder(text) for text in sites or [])
    result = run_demo(
        DemoOptions(
            out=out,
            patients=patients,
            rounds=rounds,
            seed=seed,
            sites=folders,
            private_site=private_site,
            fresh=fresh,
        ),
        DemoScreen(),
    )
    if as_json:
        print_json(result.as_json())
    else:
        print_summary(result, StudyFolder(out / "study"))


def _name_and_folder(text: str) -> tuple[str, Path]:
    name, found, folder = text.partition("=")
    if not found or not name or not Path(folder).is_dir():
        raise UsageError(
            f"--site {text} is not NAME=DIR with a folder that exists.", "Such as --site north=/data/north."
        )
    return name, Path(folder)


def main() -> None:
    """Entry point."""
    run_command(app)


if __name__ == "__main__":
    main()
