"""State files: small, whole, and never in the way."""

import os
import time

import pytest

from f2b_client.settings import SiteFolder
from f2b_client.state import State, progress_writer, read_state, write_state


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


def test_what_a_process_says_is_read_with_its_time_and_pid(folder):
    write_state(folder, "executor", State(doing="training", detail="round 1", done=2, total=5, since=1.0))
    state = read_state(folder, "executor")
    assert state is not None
    assert (state.doing, state.detail, state.done, state.total, state.since) == (
        "training",
        "round 1",
        2,
        5,
        1.0,
    )
    assert state.pid == os.getpid()
    assert abs(state.at - time.time()) < 60


@pytest.mark.parametrize("content", ["", "{", '{"doing": "x", "more": 1}', "{}", "[]"])
def test_a_missing_or_damaged_state_is_no_state(folder, content):
    assert read_state(folder, "prepare") is None
    folder.state.mkdir()
    (folder.state / "prepare.json").write_text(content, encoding="utf-8")
    assert read_state(folder, "prepare") is None


def test_progress_is_written_now_and_then_but_always_at_the_end(folder):
    record = progress_writer(folder, "prepare", "preparing")
    record(0, 1000, "first")
    written = []
    for done in range(1, 1000):
        record(done, 1000)
        written.append(read_state(folder, "prepare").done)
    assert len(set(written)) < 100
    record(1000, 1000, "last")
    state = read_state(folder, "prepare")
    assert (state.done, state.total, state.detail) == (1000, 1000, "last")
