"""`f2b-client start`: prepares the cohort, then keeps SuperNode and executor running until told to stop."""

import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from f2b_client.settings import Joined, SiteFolder, load_compute_settings, load_joined, load_policy
from f2b_client.state import State, write_state
from face2bone_model.contract.errors import NotApprovedError, ProcessError, UsageError
from face2bone_model.system.processes import Child, start, stop

PROCESSES = ("supervisor", "prepare", "executor")
WATCH_SECONDS = 1.0
CLOSING_SECONDS = 45.0
"""The executor finishes the step it is in and writes the site's page."""
SHORTEST_PAUSE_SECONDS = 65.0
"""A killed SuperNode cannot connect again before its lease of 60 s ends."""
LONGEST_PAUSE_SECONDS = 900.0
HEALTHY_SECONDS = 3600.0
"""A process that ran this long ended for a new reason: its pauses start over."""


@dataclass
class Kept:
    """A process that is started again, after a growing pause, whenever it ends."""

    name: str
    launch: Callable[[], Child]
    child: Child | None = None
    failures: int = 0
    not_before: float = 0.0
    started: float = 0.0

    def tend(self) -> str:
        """Start it if it should run; return a sentence when it ended."""
        if self.child is None and time.time() >= self.not_before:
            self.child, self.started = self.launch(), time.time()
        if self.child is None or self.child.process.poll() is None:
            return ""
        code = self.child.process.returncode
        self.failures = 1 if time.time() - self.started > HEALTHY_SECONDS else self.failures + 1
        pause = min(SHORTEST_PAUSE_SECONDS * 2 ** (self.failures - 1), LONGEST_PAUSE_SECONDS)
        self.child, self.not_before = None, time.time() + pause
        return f"{self.name} ended with code {code}; starting it again in {pause:.0f} s"


@dataclass
class Supervisor:
    """Runs one site until SIGTERM or SIGINT."""

    folder: SiteFolder
    say: Callable[[str], None]
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Prepare, connect, and stay until stopped.

        Raises:
            UsageError: a client of this site is running already.
            EnrolmentError: the site has not joined.
            NotApprovedError: no study was approved.
            ProcessError: preparation failed.
        """
        joined = load_joined(self.folder)
        load_policy(self.folder)
        if not any(self.folder.approved.glob("*.toml")):
            raise NotApprovedError(
                "No study is approved here.", "Read it and run `f2b-client approve STUDY`."
            )
        with _only_one(self.folder):
            self._run(joined)

    def _run(self, joined: Joined) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        for old in self.folder.state.glob("*.json"):
            if old.stem in PROCESSES:
                old.unlink()
        try:
            self._prepare()
            if not self._stop.is_set():
                self._keep_running(joined)
        finally:
            self._state("stopped", "")

    def _prepare(self) -> None:
        self.say("Preparing photos that are new or changed.")
        self._state("preparing", "")
        child = start(
            "prepare",
            [sys.executable, "-m", "f2b_client.cli", "prepare", "--site", str(self.folder.path), "--quiet"],
            log=self.folder.log / "prepare.log",
            environment=self._environment(),
        )
        while child.process.poll() is None and not self._stop.wait(0.2):
            pass
        if self._stop.is_set():
            stop([child])
        elif child.process.returncode != 0:
            child.check()

    def _keep_running(self, joined: Joined) -> None:
        port = _free_port()
        kept = [
            Kept("SuperNode", lambda: self._start_supernode(joined, port)),
            Kept("executor", lambda: self._start_executor(port)),
        ]
        self.say(f"Connecting to {joined.address} as {joined.site}.")
        self._state("connected", joined.address)
        try:
            while not self._stop.is_set():
                for process in kept:
                    if sentence := process.tend():
                        self.say(sentence)
                        self._state("restarting", sentence)
                self._stop.wait(WATCH_SECONDS)
        finally:
            stop([process.child for process in kept if process.child is not None], seconds=CLOSING_SECONDS)

    def _start_supernode(self, joined: Joined, port: int) -> Child:
        keys = self.folder.keys
        command = [
            str(Path(sys.executable).parent / "flower-supernode"),
            *("--superlink", joined.address, "--root-certificates", str(joined.ca)),
            *("--auth-supernode-private-key", str(keys / "node")),
            *("--isolation", "process", "--superexec-auth-secret-file", str(keys / "executor.secret")),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        return start(
            "SuperNode", command, log=self.folder.log / "supernode.log", environment=self._environment()
        )

    def _start_executor(self, port: int) -> Child:
        command: Sequence[str] = [
            *(sys.executable, "-m", "f2b_client.cli", "execute"),
            *("--site", str(self.folder.path), "--supernode", f"127.0.0.1:{port}"),
        ]
        return start(
            "executor", command, log=self.folder.log / "executor.log", environment=self._environment()
        )

    def _environment(self) -> dict[str, str]:
        threads = str(load_compute_settings(self.folder).threads)
        return {
            "FLWR_HOME": str((self.folder.path / "flower").resolve()),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }

    def _state(self, doing: str, detail: str) -> None:
        write_state(self.folder, "supervisor", State(doing=doing, detail=detail, since=time.time()))


@contextmanager
def _only_one(folder: SiteFolder) -> Iterator[None]:
    """Hold the site's lock; the kernel gives it back however this process ends."""
    folder.state.mkdir(parents=True, exist_ok=True)
    with (folder.state / "running.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"A client of {folder.path} is running already.",
                f"`f2b-client stop --site {folder.path}` ends it.",
            ) from error
        yield


def stop_running(folder: SiteFolder, pid: int, *, seconds: float) -> None:
    """Ask a running supervisor to stop and wait until it has.

    Raises:
        ProcessError: it is still running after `seconds`.
    """
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    end = time.time() + seconds
    while time.time() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    raise ProcessError(
        f"The client of {folder.path} (process {pid}) is still running after {seconds:.0f} s.",
        "Look at log/executor.log; it may be in the middle of a step.",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
