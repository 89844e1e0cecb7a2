"""When each site was last heard of, and how much came and went: `state/seen.json`, at most once a second."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from f2b_server.settings import StudyFolder

NAME = "seen.json"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The last that the edge saw of a site."""

    at: float
    """Seconds since 1970 when bytes of it last came or went."""
    path: str
    """What it last asked for."""
    bytes_in: int
    """From it, since the SuperLink was started."""
    bytes_out: int
    """To it, since the SuperLink was started."""
    in_flight: int
    """Requests of it that are being received or answered now."""


@dataclass
class Traffic:
    """The same, while it happens."""

    at: float = 0.0
    path: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    in_flight: int = 0

    def received(self, size: int) -> None:
        """Count bytes from the site."""
        self.at = time.time()
        self.bytes_in += size

    def sent(self, size: int) -> None:
        """Count bytes to the site."""
        self.at = time.time()
        self.bytes_out += size

    @contextmanager
    def request(self, path: str) -> Iterator[None]:
        """Count a request as in flight while it is."""
        self.at, self.path = time.time(), path
        self.in_flight += 1
        try:
            yield
        finally:  # that a dead transfer was given up is no sign of life
            self.in_flight -= 1


class SeenBook:
    """Every site's traffic, written down when it changed."""

    def __init__(self, folder: StudyFolder) -> None:
        self._path = folder.state / NAME
        self._sites: dict[str, Traffic] = {}
        self._written: dict[str, Seen] = {}

    def of(self, site: str) -> Traffic:
        """A site's traffic."""
        return self._sites.setdefault(site, Traffic())

    def write_changes(self) -> None:
        """Write what changed since the last call. Not synced to disk: after a crash it is old anyway."""
        now = {site: Seen(**vars(traffic)) for site, traffic in self._sites.items()}
        if now == self._written:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps({site: asdict(seen) for site, seen in now.items()}), encoding="utf-8")
        beside.replace(self._path)
        self._written = now


def read_seen(folder: StudyFolder) -> dict[str, Seen]:
    """What the edge wrote last, by site; empty where it has written nothing that can be read."""
    try:
        written = json.loads((folder.state / NAME).read_text(encoding="utf-8"))
        return {site: Seen(**entry) for site, entry in written.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
