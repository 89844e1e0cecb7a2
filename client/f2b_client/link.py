"""Whether this hospital still hears from the coordinating centre, judged by what the SuperNode does.

That a process is there says nothing: it may hang. So the link counts as up only while answers keep coming: messages are
asked for every 5 s at least, and a sign of life goes out every 20 s, also during a task. `link` states: `connecting`,
`polling`, `disconnected` (trying, without a good answer), `stalled` (not even trying).
"""

import threading
import time
from dataclasses import replace

from f2b_client.settings import SiteFolder
from f2b_client.state import State, is_alive, read_state, write_state

PROCESS = "link"
FRESH_SECONDS = {"polling": 45.0, "connecting": 60.0, "disconnected": 100.0}
"""How long each state may go without being written again: two lost signs of life; a start on a slow disk; the longest
time-out and pause between two tries."""
SHORTEST_INTERVAL_SECONDS = 2.0
SENTENCES = {
    "connecting": "connecting to the coordinating centre",
    "polling": "asking for messages",
    "disconnected": "trying to reach the coordinating centre, without an answer",
    "stalled": "no sign of life from the SuperNode",
}


def read_link(folder: SiteFolder) -> State | None:
    """How the link stands; `at` is the centre's last answer, or the start where it never gave one.

    None before the first connection.
    """
    state = read_state(folder, PROCESS)
    try:
        written = (folder.state / f"{PROCESS}.json").stat().st_mtime
    except FileNotFoundError:
        return None
    return judge(state, written, time.time()) if state else None


def judge(state: State, written: float, now: float) -> State:
    """A state that has not been written again for too long is `stalled`, whatever it says.

    Args:
        state: what the file says.
        written: when it was written, seconds since 1970.
        now: seconds since 1970.
    """
    limit = FRESH_SECONDS.get(state.doing)
    if limit is None or now - written <= limit:
        return state
    return replace(state, doing="stalled", detail=SENTENCES["stalled"], since=written)


def is_up(folder: SiteFolder) -> bool:
    """Whether answers of the coordinating centre keep coming in."""
    link = read_link(folder)
    return link is not None and link.doing == "polling" and is_alive(link)


def write_link(folder: SiteFolder, doing: str, detail: str = "") -> None:
    """Record how the link stands. Only `polling` and `connecting` move the time of the last answer."""
    now, before = time.time(), read_state(folder, PROCESS)
    since = before.since if before and before.doing == doing else now
    at = before.at if before and doing in {"disconnected", "stalled"} else now
    write_state(folder, PROCESS, State(doing=doing, detail=detail or SENTENCES[doing], since=since, at=at))


class LinkNotes:
    """What the SuperNode learns of the link with every answer and every failed try. May be used by several threads."""

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._last = ("", "", 0.0)

    def answered(self) -> None:
        """The coordinating centre answered."""
        self._note("polling", "")

    def failed(self, why: str) -> None:
        """It did not, or not as it should."""
        self._note("disconnected", why)

    def _note(self, doing: str, detail: str) -> None:
        with self._lock:
            *before, at = self._last
            if before == [doing, detail] and time.monotonic() - at < SHORTEST_INTERVAL_SECONDS:
                return
            self._last = (doing, detail, time.monotonic())
            write_link(self._folder, doing, detail)
