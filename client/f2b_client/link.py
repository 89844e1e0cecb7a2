"""Whether this hospital still hears from the coordinating centre, judged by what the SuperNode does.

A SuperNode that got one HTTP 500 while asking for messages stops asking and stays up, healthy to look at. So the link
counts as up only while answers keep coming: messages are asked for every 3 s, and during a task a sign of life goes out
about every 20 s. `link` states: `connecting`, `polling`, `disconnected` (trying, without an answer), `stalled`
(not even trying).
"""

import logging
import time
from dataclasses import replace

from f2b_client.settings import SiteFolder
from f2b_client.state import State, is_alive, read_state, write_state

PROCESS = "link"
FRESH_SECONDS = {"polling": 45.0, "connecting": 60.0, "disconnected": 75.0}
"""How long each state may go without being written again: two lost signs of life; a start on a slow disk; the longest
time-out and pause between two tries."""
SHORTEST_INTERVAL_SECONDS = 2.0
HTTP_ERROR = 400
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


class LinkRecorder(logging.Handler):
    """Hears what the SuperNode's HTTP library logs of each answer, and what Flower logs of each failed try."""

    def __init__(self, folder: SiteFolder) -> None:
        super().__init__(logging.INFO)
        self._folder = folder
        self._last = ("", 0.0)

    def listen(self) -> None:
        """Attach to the two loggers of this process; nothing of them is printed twice."""
        logging.getLogger("httpx").setLevel(logging.INFO)
        for name in ("httpx", "flwr"):
            logging.getLogger(name).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Note an answer or a failed try."""
        if doing := heard(record):
            before, at = self._last
            if doing != before or time.monotonic() - at >= SHORTEST_INTERVAL_SECONDS:
                self._last = (doing, time.monotonic())
                write_link(self._folder, doing)


def heard(record: logging.LogRecord) -> str:
    """The state of the link that a log record speaks of, or nothing."""
    if record.name == "flwr":
        return "disconnected" if str(record.msg).startswith("Connection attempt failed") else ""
    match record.args:
        case (_, _, _, int(code), _):
            return "polling" if code < HTTP_ERROR else "disconnected"
        case _:
            return ""
