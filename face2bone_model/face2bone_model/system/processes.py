"""Child processes: started with a log each, watched, and stopped together with whatever they started."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from face2bone_model.contract.errors import ProcessError

STOP_SECONDS = 15.0

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1

QUIET_FLOWER = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}
"""No telemetry, no update check, no installation at run time."""


@dataclass
class Child:
    """A process we started and must stop."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise if the process ended by itself.

        Raises:
            ProcessError: it ended; the message holds the last lines of its log.
        """
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:])
            raise ProcessError(
                f"{self.name} ended with code {self.process.returncode}. Its last words:\n{tail}\n",
                f"The whole log is {self.log}.",
            )


def start(name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str]) -> Child:
    """Start a process in a group of its own, its output appended to `log`.

    On Linux the kernel tells it to end when we end, however we end, so that a killed command leaves nothing running.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603  # our own command lines
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **QUIET_FLOWER, "PATH": _path(), **environment},
            start_new_session=True,
            preexec_fn=partial(_end_with, os.getpid()),  # noqa: PLW1509  # two system calls, loaded before the fork
        )
    return Child(name, process, log)


def _end_with(parent: int) -> None:
    """Ask the kernel for a signal at the parent's end; of one that has ended already it would say nothing."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _path() -> str:
    """PATH with this environment's commands first: Flower starts its own by bare name."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


def stop(children: Sequence[Child], *, seconds: float = STOP_SECONDS) -> None:
    """Ask all to end, wait, then end them and everything they started."""
    families = {child.name: _family(child.process.pid) for child in children}
    for child in children:
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
    end = time.time() + seconds
    for child in children:
        try:
            child.process.wait(timeout=max(0.1, end - time.time()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
    for member in (member for family in families.values() for member in family):
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
