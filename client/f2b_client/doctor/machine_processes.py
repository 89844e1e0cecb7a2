"""Other clients of this site: one at most, and none left over."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.settings import SiteFolder
from f2b_client.site_lock import running_pid
from f2b_client.state import has_crashed, read_state

KEY_OPTION = "--auth-supernode-private-key"


def check_one_client(folder: SiteFolder) -> Iterator[Finding]:
    """Two SuperNodes with one key push each other out; one left over keeps a new one from connecting."""
    state, running, where = read_state(folder, "supervisor"), running_pid(folder), str(folder.path)
    strangers = [node for node in _nodes_of(folder) if running is None or not _belongs_to(node, running)]
    for node in strangers:
        said = (
            "A second client with this site's key runs"
            if running is not None
            else "A SuperNode of an earlier client is left over"
        )
        yield failed(
            "one-client",
            f"{said} (process {node.pid}).",
            where,
            f"If it is a copy of this site folder, end that client; otherwise `kill {node.pid}` and wait a minute.",
        )
    if strangers:
        return
    if running is not None:
        yield passed("one-client", f"A client of this site is running (process {running}).", where)
    elif state is not None and has_crashed(state):
        yield warned(
            "one-client",
            f"The last client of this site ended without saying so, while {state.doing}.",
            where,
            "A power cut or a kill: nothing is lost, `f2b-client start` goes on. Otherwise look at the logs in log/.",
        )
    else:
        yield passed("one-client", "No other client of this site is running.", where)


def _nodes_of(folder: SiteFolder) -> list[psutil.Process]:
    """Processes on this machine that were started with a copy of this site's node key."""
    try:
        key = (folder.keys / "node").read_bytes()
    except OSError:
        return []
    return [process for process in psutil.process_iter() if _key_of(process) == key]


def _key_of(process: psutil.Process) -> bytes | None:
    try:
        words = process.cmdline()
        if KEY_OPTION not in words[:-1]:
            return None
        return (Path(process.cwd()) / words[words.index(KEY_OPTION) + 1]).read_bytes()
    except (psutil.Error, OSError):
        return None


def _belongs_to(process: psutil.Process, supervisor: int) -> bool:
    try:
        return supervisor in {process.pid, *(parent.pid for parent in process.parents())}
    except psutil.Error:
        return True  # it has just ended
