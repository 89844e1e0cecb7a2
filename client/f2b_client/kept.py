"""A process that is kept running: started again, after a growing pause, whenever it ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from face2bone_model.system.processes import Child, stop

SHORTEST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 900.0
HEALTHY_SECONDS = 60.0
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
    sentence: str = ""
    """Why it is not running, while it is not."""

    def is_running(self) -> bool:
        """Whether it runs now."""
        return self.child is not None and self.child.process.poll() is None

    def tend(self) -> str:
        """Start it if it should run; return a sentence when it ended."""
        if self.child is None and time.time() >= self.not_before:
            self.child, self.started = self.launch(), time.time()
        if self.child is None or self.child.process.poll() is None:
            return ""
        return self._pause(f"{self.name} ended with code {self.child.process.returncode}")

    def restart(self, why: str) -> str:
        """End it and start it again after a pause; return the sentence that says so."""
        if self.child is not None:
            stop([self.child])
        return self._pause(f"{self.name} {why}")

    def _pause(self, why: str) -> str:
        self.failures = 1 if time.time() - self.started > HEALTHY_SECONDS else self.failures + 1
        pause = min(SHORTEST_PAUSE_SECONDS * 2 ** min(self.failures - 1, 20), LONGEST_PAUSE_SECONDS)
        self.child, self.not_before = None, time.time() + pause
        self.sentence = f"{why}; starting it again in {pause:.0f} s"
        return self.sentence
