"""State files: small, whole, and never in the way."""

import os
import subprocess
import sys
import time

import pytest

from f2b_client.settings import SiteFolder
from f2b_client.state import State, has_crashed, is_alive, progress_writer, read_state, write_state


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


def test_the_process_that_wrote_a_state_is_alive_and_one_that_got_its_number_later_is_not(folder):
    write_state(folder, "executor", State(doing="training"))
    state = read_state(folder, "executor")
    assert is_alive(state)
    before_we_started = State(doing="training", at=state.at - 7 * 86_400, pid=os.getpid())
    assert not is_alive(before_we_started)
    assert has_crashed(before_we_started)


def test_a_process_that_ended_is_not_alive_even_before_its_parent_took_notice(folder):
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # ended, and still in the table of processes
    state = State(doing="training", at=time.time(), pid=child.pid)
    assert not is_alive(state)
    child.wait()
    assert not is_alive(state)


@pytest.mark.parametrize("doing", ["stopped", "failed"])
def test_who_said_good_bye_has_not_crashed(doing):
    assert not has_crashed(State(doing=doing, pid=2**22 + 1, at=time.time()))


def test_a_state_without_a_process_is_not_alive():
    assert not is_alive(State(doing="waiting", pid=-1))
