"""How often a hospital asks: often while a round is open, seldom when nothing happens, and never all at once."""

import random

from hypothesis import given
from hypothesis import strategies as st

from f2b_client.pace import HEARTBEAT_SECONDS, pause_after, retry_pause


def questions(start, seconds):
    """How often a hospital asks from `start` seconds after its last message, in so many seconds."""
    now, asked = start, 0
    while now < start + seconds:
        asked += 1
        now += pause_after(now)
    return asked


def test_an_idle_hospital_asks_at_most_twenty_times_a_minute_signs_of_life_included():
    assert questions(300, 3600) / 60 + 60 / HEARTBEAT_SECONDS <= 16
    assert questions(0, 60) <= 150


@given(st.floats(0, 1e7))
def test_the_next_message_waits_for_a_fiftieth_of_the_quiet_before_it_at_most(quiet):
    assert 0.2 <= pause_after(quiet) <= max(0.2, min(5.0, quiet / 49.9))


@given(st.integers(1, 10_000), st.integers(0, 100))
def test_pauses_between_tries_double_to_a_minute_and_are_spread(failures, seed):
    pause = retry_pause(failures, random.Random(seed))  # noqa: S311  # no secret
    longest = min(2.0 ** min(failures - 1, 10), 60.0)
    assert 0.8 * longest <= pause <= longest


def test_hospitals_that_lost_the_centre_together_do_not_come_back_together():
    assert len({retry_pause(5, random.Random(seed)) for seed in range(20)}) == 20  # noqa: S311
