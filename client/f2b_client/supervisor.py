"""`f2b-client start`: prepares the cohort, then keeps SuperNode and executor running until told to stop."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from f2b_client import link
from f2b_client.evidence import refuse_broken_records
from f2b_client.health import HealthServer, listening_address
from f2b_client.health_checks import SLOW_CHECK_SECONDS, disk_serves, every, records_serve
from f2b_client.kept import Kept
from f2b_client.settings import Joined, SiteFolder, load_compute_settings, load_joined, load_policy
from f2b_client.site_lock import only_one, running_pid
from f2b_client.state import State, is_alive, read_state, write_state
from f2b_client.web.server import ADDRESS_FILE, live_pages
from face2bone_model.contract.errors import Face2BoneError, NotApprovedError, ProcessError
from face2bone_model.system.processes import Child, start, stop

PROCESSES = ("supervisor", "prepare", "executor", link.PROCESS)
WATCH_SECONDS = 1.0
PREPARE_WATCH_SECONDS = 0.2
CLOSING_SECONDS = 45.0
"""The executor finishes the step it is in and writes the site's page."""
STALLED_SECONDS = 60.0
"""How long a stalled SuperNode gets to recover by itself."""
IDLE = frozenset({"starting", "waiting", "stopped", "failed"})


@dataclass
class Supervisor:
    """Runs one site until SIGTERM or SIGINT."""

    folder: SiteFolder
    say: Callable[[str], None]
    health: str = ""
    """Where to serve the gRPC health service; empty: nowhere."""
    page_port: int = 0
    """Where to serve the live page on 127.0.0.1; 0: any free port."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _kept: dict[str, Kept] = field(default_factory=dict)
    _tell: Callable[[], None] = lambda: None

    def run(self) -> None:
        """Prepare, connect, and stay until stopped.

        Raises:
            UsageError: a client of this site is running already, or the health address cannot be used.
            EnrolmentError: the site has not joined.
            NotApprovedError: no study was approved.
            ProcessError: preparation failed.
            RecordsError: receipts and ledger do not agree; nothing could be released.
        """
        joined = load_joined(self.folder)
        load_policy(self.folder)
        address = listening_address(self.health) if self.health else ""
        if not any(self.folder.approved.glob("*.toml")):
            raise NotApprovedError(
                "No study is approved here.", "Read it and run `f2b-client approve STUDY`."
            )
        refuse_broken_records(self.folder)
        with only_one(self.folder):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stop.set())
            for old in PROCESSES:
                (self.folder.state / f"{old}.json").unlink(missing_ok=True)
            with self._served_health(address), self._served_page():
                self._run(joined)

    @contextmanager
    def _served_health(self, address: str) -> Iterator[None]:
        """Serve the health of the parts from before the preparation to the end, if an address was given."""
        if not address:
            yield
            return
        server = HealthServer(
            address,
            {
                "link": lambda: self._is_running("SuperNode") and link.is_up(self.folder),
                "executor": lambda: self._is_running("executor"),
                "ledger": every(SLOW_CHECK_SECONDS, lambda: records_serve(self.folder)),
                "disk": every(SLOW_CHECK_SECONDS, lambda: disk_serves(self.folder)),
            },
        )
        self._tell = server.update
        try:
            yield
        finally:
            server.close()

    @contextmanager
    def _served_page(self) -> Iterator[None]:
        """Serve the live page. Its address lets in whoever reads it, so no log gets it. Work goes on without it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(live_pages(self.folder, self.page_port))
                self.say(f"The live page's address is in {self.folder.state / ADDRESS_FILE}.")
            except (Face2BoneError, OSError) as error:
                self.say(f"Without the live page: {error}")
            yield

    def _is_running(self, name: str) -> bool:
        return name in self._kept and self._kept[name].is_running()

    def _run(self, joined: Joined) -> None:
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
        while child.process.poll() is None and not self._stop.wait(PREPARE_WATCH_SECONDS):
            self._tell()
        if self._stop.is_set():
            stop([child])
        elif child.process.returncode != 0:
            child.check()

    def _keep_running(self, joined: Joined) -> None:
        supernode = Kept("SuperNode", lambda: self._start_supernode(joined))
        executor = Kept("executor", self._start_executor)
        self._kept = {kept.name: kept for kept in (supernode, executor)}
        self.say(f"Connecting to {joined.address} as {joined.site}.")
        try:
            while not self._stop.is_set():
                self._tend(joined)
                self._tell()
                self._stop.wait(WATCH_SECONDS)
        finally:
            children = [kept.child for kept in self._kept.values() if kept.child is not None]
            stop(children, seconds=CLOSING_SECONDS)
            link.write_link(self.folder, "disconnected", "the client was stopped")

    def _tend(self, joined: Joined) -> None:
        sentences = [kept.tend() for kept in self._kept.values()]
        sentences.append(self._watch_link(self._kept["SuperNode"]))
        for sentence in filter(None, sentences):
            self.say(sentence)
        paused = [kept.sentence for kept in self._kept.values() if kept.child is None]
        self._state("restarting" if paused else "connected", "; ".join(paused) or joined.address)

    def _watch_link(self, supernode: Kept) -> str:
        """Keep the link's state true where the SuperNode cannot; restart one that does not recover."""
        found = link.read_link(self.folder)
        if supernode.child is None:
            if found is None or found.doing != "disconnected":
                link.write_link(self.folder, "disconnected", supernode.sentence)
            return ""
        if found is None or found.doing != "stalled":
            return ""
        link.write_link(self.folder, "stalled")
        if time.time() - found.since < STALLED_SECONDS or self._is_busy():
            return ""
        return supernode.restart("gave no sign of life")

    def _is_busy(self) -> bool:
        """Whether the executor works on a task: its reply has to leave through the SuperNode that brought it."""
        state = read_state(self.folder, "executor")
        return state is not None and state.doing not in IDLE and is_alive(state)

    def _start_supernode(self, joined: Joined) -> Child:
        command = [
            *(sys.executable, "-m", "f2b_client.supernode", str(self.folder.path)),
            *("--superlink", joined.address, "--root-certificates", str(joined.ca)),
            *("--auth-supernode-private-key", str(self.folder.keys / "node")),
        ]
        link.write_link(self.folder, "connecting")
        return start(
            "SuperNode", command, log=self.folder.log / "supernode.log", environment=self._environment()
        )

    def _start_executor(self) -> Child:
        command = [sys.executable, "-m", "f2b_client.cli", "execute", "--site", str(self.folder.path)]
        return start(
            "executor", command, log=self.folder.log / "executor.log", environment=self._environment()
        )

    def _environment(self) -> dict[str, str]:
        threads = str(load_compute_settings(self.folder).threads)
        scratch = (self.folder.state / "scratch").resolve()
        return {
            "FLWR_HOME": str((self.folder.path / "flower").resolve()),
            "MPLCONFIGDIR": str(
                scratch / "matplotlib"
            ),  # libraries that would keep files at home, if there is one
            "NUMBA_CACHE_DIR": str(scratch / "numba"),
            "TORCHINDUCTOR_CACHE_DIR": str(scratch / "torch"),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            **_loopback_without_proxy(),
        }

    def _state(self, doing: str, detail: str) -> None:
        before = read_state(self.folder, "supervisor")
        if before is None or (before.doing, before.detail) != (doing, detail):
            write_state(self.folder, "supervisor", State(doing=doing, detail=detail, since=time.time()))


def stop_running(folder: SiteFolder, *, seconds: float) -> bool:
    """Ask a running client of the site to stop and wait until it has.

    Only the process that holds the site's lock is asked, so a number left behind by a crash harms nobody.

    Returns:
        Whether one was running.

    Raises:
        ProcessError: it is still running after `seconds`.
    """
    pid = running_pid(folder)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    end = time.time() + seconds
    while running_pid(folder) == pid:
        if time.time() > end:
            raise ProcessError(
                f"The client of {folder.path} (process {pid}) is still running after {seconds:.0f} s.",
                "Look at log/executor.log; it may be in the middle of a step.",
            )
        time.sleep(0.2)
    return True


def _loopback_without_proxy() -> dict[str, str]:
    """A hospital's proxy must not be asked for the way to a centre on this machine, as in the demo."""
    before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    exempt = ",".join(filter(None, (before, "127.0.0.1", "localhost")))
    return {"NO_PROXY": exempt, "no_proxy": exempt}
