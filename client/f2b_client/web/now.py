"""What the client is doing now, since when, how far it is, and until when the centre waits."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from f2b_client.link import PROCESS as LINK
from f2b_client.link import SENTENCES, read_link
from f2b_client.settings import SiteFolder
from f2b_client.site_lock import running_pid
from f2b_client.state import OVER, State, has_crashed, read_state
from f2b_client.status import ENDED
from face2bone_model.report.live.words import clock, duration, moment_of

NAMES: Mapping[str, str] = {
    "supervisor": "Client",
    LINK: "Connection",
    "prepare": "Preparation",
    "executor": "Study",
}
"""Files in `state/` and what a person calls them."""
HEADLINES: Mapping[str, str] = {
    "starting": "Starting up",
    "preparing": "Preparing photos",
    "connected": "Connecting to the coordinating centre",
    "restarting": "Starting a process again that had ended",
    "waiting": "Waiting for the coordinating centre",
    "describing": "Counting the cohort",
    "training": "Training on our patients",
    "evaluating": "Evaluating the model on our patients",
}
NEVER, STOPPED = "The client has not run here yet", "The client is not running"
NO_LINK = "No answer from the coordinating centre"
DOWN = frozenset({"disconnected", "stalled"})
IDLE = frozenset({"waiting", "connected", "starting"})


@dataclass(frozen=True, kw_only=True)
class Process:
    """One line of the table of processes."""

    name: str
    doing: str
    detail: str
    since: str
    progress: str
    lost: bool
    """It ended without saying so, or reaches nobody."""


@dataclass(frozen=True, kw_only=True)
class Now:
    """What stands at the head of the page."""

    headline: str
    detail: str
    since: str
    deadline: str
    """A sentence, or nothing where nobody waits."""
    done: int
    total: int
    running: bool
    processes: tuple[Process, ...]


def what_happens(folder: SiteFolder) -> Now:
    """Look at the site's processes and say it in words."""
    running = running_pid(folder) is not None
    states = {name: _honest(state) for name in NAMES if (state := _read(folder, name))}
    chief = _chief(states, running=running)
    link = states.get(LINK)
    down = bool(chief and running and chief.doing in IDLE and link and link.doing in DOWN)
    shown = link if down and link else chief or State(doing="stopped")
    return Now(
        headline=NO_LINK if down else _headline(chief, ran=bool(states)),
        detail=shown.detail or (SENTENCES.get(shown.doing, "") if down else ""),
        since=_since(shown),
        deadline=_deadline(shown),
        done=shown.done,
        total=shown.total,
        running=chief is not None,
        processes=tuple(_process(NAMES[name], state) for name, state in states.items()),
    )


def _read(folder: SiteFolder, name: str) -> State | None:
    return read_link(folder) if name == LINK else read_state(folder, name)


def _honest(state: State) -> State:
    """A state as it is, unless the process that wrote it is gone: then it is done, or died."""
    if not has_crashed(state):
        return state
    if 0 < state.total <= state.done and state.doing == "preparing":
        return replace(state, doing="done")
    return replace(state, doing=ENDED, detail=f"it was {state.doing}", deadline=0.0)


def _chief(states: Mapping[str, State], *, running: bool) -> State | None:
    """The state that matters most now; None where nothing runs."""
    active = {name: state for name, state in states.items() if state.doing not in {*OVER, ENDED, "done"}}
    supervisor = active.get("supervisor")
    if not running or supervisor is None:
        return active.get("prepare")
    within = {"connected": "executor", "preparing": "prepare"}.get(supervisor.doing, "")
    return active.get(within, supervisor)


def _headline(chief: State | None, *, ran: bool) -> str:
    if chief is None:
        return STOPPED if ran else NEVER
    return HEADLINES.get(chief.doing, chief.doing.capitalize())


def _process(name: str, state: State) -> Process:
    return Process(
        name=name,
        doing=state.doing,
        detail=state.detail,
        since=_since(state),
        progress=f"{state.done} of {state.total}" if state.total else "",
        lost=state.doing in {ENDED, "failed", *DOWN},
    )


def _since(state: State) -> str:
    if not state.since:
        return ""
    return f"since {clock(moment_of(state.since))}, for {duration(time.time() - state.since)}"


def _deadline(state: State) -> str:
    if not state.deadline:
        return ""
    end, left = clock(moment_of(state.deadline)), state.deadline - time.time()
    if left < 0:
        return f"The centre's deadline passed at {end}; it goes on without this answer."
    return f"The centre waits until {end}, another {duration(left)}."
