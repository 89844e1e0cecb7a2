"""What the edge refuses: told to the asker by a number, written down with its source, and slowed where it goes on."""

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

UNAUTHORIZED = 401
FORBIDDEN = 403
TIMED_OUT = 408
TOO_LARGE = 413
TOO_OFTEN = 429

LOG_NAME = "refused.jsonl"
LOG_BYTES = 10_000_000
"""Where the log is as large as this it is set aside once; the one before it goes."""
PATIENCE = 30
"""Refusals of one source in a window before it is sent away without a look at what it brings."""
WINDOW_SECONDS = 60.0
SOURCES = 10_000
"""Sources remembered; a flood from more of them makes the oldest forgotten, not the memory grow."""


class Refused(Exception):  # noqa: N818  # an outcome, not a failure
    """A request that is not let in."""

    def __init__(self, status: int, reason: str, *, fingerprint: str = "", site: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.fingerprint = fingerprint
        self.site = site


@dataclass
class _Source:
    """What one address was refused in the window that began then."""

    began: float
    count: int = 0


class Refusals:
    """Counts refusals by source and writes them to `log/refused.jsonl`, a line each, one a window for a flood."""

    def __init__(self, log: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log / LOG_NAME
        self._now = now
        self._sources: OrderedDict[str, _Source] = OrderedDict()

    def is_flooding(self, source: str) -> bool:
        """Whether this source was refused too often of late. Who shows an admitted key is not asked this."""
        return self._window(source).count >= PATIENCE

    def note(self, source: str, method: str, path: str, refused: Refused) -> None:
        """Count a refusal and write it down, unless the source is flooding and that was written already."""
        window = self._window(source)
        window.count += 1
        if window.count <= PATIENCE:
            self._write(source, method, path, refused)
        if window.count == PATIENCE:
            flood = Refused(
                TOO_OFTEN, f"refused {PATIENCE} times; not written down for {WINDOW_SECONDS:.0f} s"
            )
            self._write(source, method, path, flood)

    def _window(self, source: str) -> _Source:
        found = self._sources.get(source)
        if found is None or self._now() - found.began > WINDOW_SECONDS:
            found = self._sources[source] = _Source(self._now())
        self._sources.move_to_end(source)
        if len(self._sources) > SOURCES:
            self._sources.popitem(last=False)
        return found

    def _write(self, source: str, method: str, path: str, refused: Refused) -> None:
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "source": source,
            "method": method[:20],
            "path": path[:200],
            "status": refused.status,
            "why": refused.reason,
            "fingerprint": refused.fingerprint,
            "site": refused.site,
        }
        self._log.parent.mkdir(parents=True, exist_ok=True)
        if self._log.exists() and self._log.stat().st_size > LOG_BYTES:
            self._log.replace(self._log.with_suffix(".jsonl.1"))
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
