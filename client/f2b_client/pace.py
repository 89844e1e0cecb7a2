"""How long to wait: between two questions to the coordinating centre, and after a failed one."""

import random

SHORTEST_PAUSE_SECONDS = 0.2
SHARE_OF_QUIET = 0.02
LONGEST_PAUSE_SECONDS = 5.0
HEARTBEAT_SECONDS = 20.0
"""A node counts as gone 60 s after its last sign of life. Idle: 12 questions and 3 signs of life a minute."""
FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0
SPREAD = 0.2
"""Hospitals that lost the centre at the same moment do not come back at the same moment."""


def pause_after(quiet: float) -> float:
    """Seconds until the next question, when the last message is so many seconds ago.

    A fiftieth of the time waited already: short while a round is open, and never more than that is lost by it.
    """
    return min(max(SHORTEST_PAUSE_SECONDS, quiet * SHARE_OF_QUIET), LONGEST_PAUSE_SECONDS)


def retry_pause(failures: int, rng: random.Random | None = None) -> float:
    """Seconds until the next try after so many failed ones, at least one."""
    longest = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 30), LONGEST_RETRY_SECONDS)
    return longest * (1 - SPREAD * (rng or random).random())
