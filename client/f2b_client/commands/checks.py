"""Commands that look for trouble before it happens: doctor."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from f2b_client.commands.options import HERE, Json, Site
from f2b_client.doctor.finding import Verdict
from f2b_client.doctor.run import Examined, Group, Progress, changes, examine, sentence, worst
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import DoctorFailureError, DoctorWarningError, Face2BoneError, UsageError
from face2bone_model.system.command import EXIT_STATUS, print_json

if TYPE_CHECKING:
    from rich.live import Live

COMMANDS = typer.Typer()
DEFAULT_PAUSE_SECONDS = 10.0


@COMMANDS.command(epilog=EXIT_STATUS)
def doctor(
    site: Site = HERE,
    only: Annotated[
        list[Group] | None, typer.Option("--only", help="Look at this group only; may be given again.")
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="List what passed, too.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again until Ctrl-C, and say what changed.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=1.0, help="Seconds between two looks of --watch.")
    ] = DEFAULT_PAUSE_SECONDS,
    as_json: Json = False,
) -> None:
    """Look for everything that would stop the study here, or let it rest on wrong data, and say how to mend it.

    Looks at the way to the coordinating centre, this machine, the photos and the DXA export, and the approved study.
    Changes nothing, and sends nothing about patients: the centre sees questions it refuses, one of them signed.

    Example: `f2b-client doctor --site /srv/face2bone/site`; while mending, `f2b-client doctor --watch --only network`
    """
    folder, groups = SiteFolder(site), tuple(dict.fromkeys(only or Group))
    if watch and as_json:
        raise UsageError("--watch and --json were both given.", "Use one of the two.")
    if not site.is_dir():
        raise UsageError(f"{site} is not a folder.", "Name the hospital's folder with --site.")
    if watch:
        found = _watch(folder, groups, show_all=show_all, pause=every)
    else:
        found = _look(folder, groups, quiet=as_json)
        if not as_json:
            _print(found, show_all=show_all)
    error = _error_of(found)
    if as_json:
        _print_json(found, error)
    elif error is not None:
        raise error
    else:
        Console(highlight=False).print(sentence(found))


def _look(folder: SiteFolder, groups: Sequence[Group], *, quiet: bool) -> tuple[Examined, ...]:
    from f2b_client.doctor.table import progress_line

    if quiet:
        return examine(folder, groups, lambda *_: None)
    with Console(stderr=True).status("looking …") as status:
        return examine(folder, groups, lambda group, check: status.update(progress_line(group, check)))


def _print(found: Sequence[Examined], *, show_all: bool) -> None:
    from f2b_client.doctor.table import findings_table

    Console(highlight=False).print(findings_table(found, show_all=show_all))


def _print_json(found: Sequence[Examined], error: Face2BoneError | None) -> None:
    findings = [{"group": one.group.value, **vars(one.finding)} for one in found]
    number = error.code if error else 0
    print_json({"verdict": worst(found), "what": sentence(found), "exit": number, "findings": findings})
    if number:
        raise typer.Exit(number)  # not the error itself, which would print a second JSON document


def _error_of(found: Sequence[Examined]) -> Face2BoneError | None:
    said = sentence(found)
    match worst(found):
        case Verdict.FAIL:
            return DoctorFailureError(said, "Mend what failed, then run `f2b-client doctor` again.")
        case Verdict.WARN:
            return DoctorWarningError(said, "Look at the warnings above; the client can be started.")
        case Verdict.PASS:
            return None


def _watch(
    folder: SiteFolder, groups: Sequence[Group], *, show_all: bool, pause: float
) -> tuple[Examined, ...]:
    """Look again and again; what the last whole look found, once Ctrl-C is pressed."""
    from rich.live import Live

    found: tuple[Examined, ...] = ()
    changed: list[str] = []
    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="visible") as live:
        try:
            while True:
                before, found = (
                    found,
                    examine(folder, groups, _shower(live, found, changed, show_all=show_all)),
                )
                if before and (new := changes(before, found)):
                    changed = [f"{time.strftime('%H:%M:%S')} {line}" for line in new]
                _show(live, found, changed, f"{sentence(found)} Ctrl-C ends.", show_all=show_all)
                time.sleep(pause)
        except KeyboardInterrupt:
            return found


def _shower(live: "Live", found: Sequence[Examined], changed: Sequence[str], *, show_all: bool) -> Progress:
    from f2b_client.doctor.table import progress_line

    return lambda group, check: _show(live, found, changed, progress_line(group, check), show_all=show_all)


def _show(
    live: "Live", found: Sequence[Examined], changed: Sequence[str], line: str, *, show_all: bool
) -> None:
    from f2b_client.doctor.table import findings_table, watch_view

    table = findings_table(found, show_all=show_all) if found else None
    live.update(watch_view(table, changed, line), refresh=True)
