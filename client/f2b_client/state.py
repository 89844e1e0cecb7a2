"""What the client is doing now: one small file that `status`, the pages and the demo read."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from f2b_client.settings import SiteFolder
from face2bone_model.system.files import write_atomic

SHORTEST_INTERVAL_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class State:
    """One line of status."""

    doing: str
    """`preparing`, `waiting`, `training`, `evaluating`, `stopped` or `failed`."""
    detail: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0
    """When this began, seconds since 1970."""
    at: float = 0.0
    pid: int = 0


def write_state(folder: SiteFolder, process: str, state: State) -> None:
    """Record what a process (`supervisor`, `prepare`, `executor`) is doing."""
    content = {**asdict(state), "at": time.time(), "pid": os.getpid()}
    write_atomic(folder.state / f"{process}.json", json.dumps(content).encode())


def read_state(folder: SiteFolder, process: str) -> State | None:
    """What a process last said it was doing; None where it never said."""
    try:
        return State(**json.loads((folder.state / f"{process}.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


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
