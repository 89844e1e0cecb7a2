"""What the client is doing now: one small file a process, which `status`, the pages and the demo read."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import psutil

from f2b_client.settings import SiteFolder
from face2bone_model.system.files import write_atomic

SHORTEST_INTERVAL_SECONDS = 0.3
CLOCK_SECONDS = 5.0
"""How far the clock may have been set back between a process's start and what it wrote."""
OVER = frozenset({"stopped", "failed"})


@dataclass(frozen=True, kw_only=True)
class State:
    """One line of status."""

    doing: str
    """`preparing`, `waiting`, `training`, `evaluating`, `stopped` or `failed`; of the link see `link.py`."""
    detail: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    """When this began, seconds since 1970."""
    deadline: float = 0.0
    """When the coordinator stops waiting for it, seconds since 1970; 0 where nobody waits."""
    at: float = 0.0
    """When this was written; of the link, when the centre last answered."""
    pid: int = 0


def write_state(folder: SiteFolder, process: str, state: State) -> None:
    """Record what a process (`supervisor`, `prepare`, `executor`, `link`) is doing."""
    content = {**asdict(state), "at": state.at or time.time(), "pid": os.getpid()}
    write_atomic(folder.state / f"{process}.json", json.dumps(content).encode())


def read_state(folder: SiteFolder, process: str) -> State | None:
    """What a process last said it was doing; None where it never said."""
    try:
        return State(**json.loads((folder.state / f"{process}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_alive(state: State) -> bool:
    """Whether the process that wrote a state still runs: not another one that was given its number since."""
    try:
        process = psutil.Process(state.pid)
        return process.create_time() <= state.at + CLOCK_SECONDS and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False


def has_crashed(state: State) -> bool:
    """Whether a process ended without saying so."""
    return state.doing not in OVER and not is_alive(state)


def progress_writer(folder: SiteFolder, process: str, doing: str) -> Callable[[int, int, str], None]:
    """A callback (done, total, detail) that records progress a few times a second."""
    since = time.time()
    last = [0.0]

    def record(done: int, total: int, detail: str = "") -> None:
        now = time.time()
        if done < total and now - last[0] < SHORTEST_INTERVAL_SECONDS:
            return
        last[0] = now
        write_state(folder, process, State(doing=doing, detail=detail, done=done, total=total, since=since))

    return record
