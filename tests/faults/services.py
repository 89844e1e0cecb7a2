"""What systemd does, as far as the units in `deploy/` ask for it: keeps commands running, and counts how they end.

It is less kind than systemd: what a killed command had started is left to itself, and the pause is a second.
"""

import configparser
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from face2bone_model.system.processes import QUIET_FLOWER

UNITS = Path(__file__).parents[2] / "deploy"
RESTART_SECONDS = 1.0
LOOK_SECONDS = 0.05
END_SECONDS = 90.0


@dataclass
class Service:
    """One command that is kept running."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    final: frozenset[int]
    """Exit codes after which the unit is not started again: a person has to mend something."""
    starts: int = 0
    ends: list[int] = field(default_factory=list)
    """How it ended, each time."""
    process: subprocess.Popen[bytes] | None = None
    _ended: float = 0.0

    @property
    def pid(self) -> int | None:
        """The running process; None while there is none."""
        process = self.process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def has_given_up(self) -> bool:
        """Whether a person would have to start it again."""
        return bool(self.ends) and self.ends[-1] in self.final

    def tend(self) -> None:
        """Start it if it should run."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            self.ends.append(self.process.returncode)
            self.process, self._ended = None, time.monotonic()
        if self.has_given_up or time.monotonic() < self._ended + RESTART_SECONDS:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, **QUIET_FLOWER},
                start_new_session=True,
            )
        self.starts += 1

    def end(self) -> None:
        """Stop it as `systemctl stop` does."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.ends.append(self.process.wait())
        self.process = None


@contextmanager
def kept_up(services: Sequence[Service]) -> Iterator[None]:
    """Keep commands running, until the context ends; then they are told to end, one after the other."""
    stopping = threading.Event()

    def tend() -> None:
        while not stopping.wait(LOOK_SECONDS):
            for service in services:
                service.tend()

    tending = threading.Thread(target=tend, name="systemd", daemon=True)
    tending.start()
    try:
        yield
    finally:
        stopping.set()
        tending.join()
        for service in services:
            service.end()


def final_codes(unit: str) -> frozenset[int]:
    """`RestartPreventExitStatus` of a unit in `deploy/`."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names are in capitals
    parser.read(UNITS / unit)
    return frozenset(int(word) for word in parser["Service"]["RestartPreventExitStatus"].split())
