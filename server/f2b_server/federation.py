"""What the rounds need of the network: ask sites, get bytes or a fault. `app.GridFederation` does it over Flower."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

OnWait = Callable[[tuple[str, ...], tuple[str, ...], float], None]
"""Called while waiting: sites that answered, sites waited for, end of the wait in seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A site's reply to one request, or why there is none."""

    payload: bytes = b""
    fault: str = ""
    seconds: float = 0.0


class Federation(Protocol):
    """Sites that can be asked."""

    def online(self) -> frozenset[str]:
        """Sites that are connected now."""
        ...

    def ask(
        self, requests: Mapping[str, bytes], *, label: str, deadline_seconds: float, on_wait: OnWait
    ) -> dict[str, Answer]:
        """Send each site its request and wait for the replies, at most `deadline_seconds`."""
        ...
