"""The link is judged by answers, not by whether a process is there."""

import os
import time

import pytest

from f2b_client import link
from f2b_client.flower_internals import HTTP_SECONDS
from f2b_client.link import FRESH_SECONDS, LinkNotes, is_up, judge, read_link, write_link
from f2b_client.pace import HEARTBEAT_SECONDS, LONGEST_RETRY_SECONDS
from f2b_client.settings import SiteFolder
from f2b_client.state import State


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


def test_every_answer_counts_and_every_failed_try_says_why(folder):
    notes = LinkNotes(folder)
    notes.answered()
    assert (read_link(folder).doing, read_link(folder).pid) == ("polling", os.getpid())
    assert is_up(folder)
    notes.failed("the coordinating centre answers with HTTP 500")
    assert (read_link(folder).doing, read_link(folder).detail) == (
        "disconnected",
        "the coordinating centre answers with HTTP 500",
    )
    assert not is_up(folder)


def test_answers_are_written_now_and_then_but_a_change_at_once(folder, monkeypatch):
    written = []
    monkeypatch.setattr(link, "write_link", lambda folder, doing, detail: written.append((doing, detail)))
    notes = LinkNotes(folder)
    for why in ("", "", "", "500", "500", "429", ""):
        notes.failed(why) if why else notes.answered()
    assert written == [("polling", ""), ("disconnected", "500"), ("disconnected", "429"), ("polling", "")]


def test_a_live_supernode_speaks_more_often_than_a_link_counts_as_stalled():
    assert FRESH_SECONDS["polling"] >= 2 * HEARTBEAT_SECONDS
    assert FRESH_SECONDS["disconnected"] >= LONGEST_RETRY_SECONDS + HTTP_SECONDS


@pytest.mark.parametrize("doing", FRESH_SECONDS)
def test_a_state_that_is_not_written_again_in_time_is_stalled_whatever_it_says(doing):
    state = State(doing=doing, since=1.0, at=1000.0, pid=1)
    written = 1010.0
    assert judge(state, written, written + FRESH_SECONDS[doing]) is state
    late = judge(state, written, written + FRESH_SECONDS[doing] + 1)
    assert (late.doing, late.at, late.since) == ("stalled", 1000.0, written)


def test_a_stalled_link_stays_stalled_until_an_answer_comes(folder):
    assert judge(State(doing="stalled"), 0.0, 1e9).doing == "stalled"
    write_link(folder, "stalled")
    assert not is_up(folder)
    write_link(folder, "polling")
    assert is_up(folder)


def test_only_an_answer_moves_the_time_of_the_last_answer(folder):
    write_link(folder, "polling")
    answered = read_link(folder).at
    for doing in ("disconnected", "stalled"):
        time.sleep(0.02)
        write_link(folder, doing)
        assert read_link(folder).at == answered
        assert read_link(folder).since > answered
    write_link(folder, "polling")
    assert read_link(folder).at > answered


def test_the_link_of_a_dead_supernode_is_not_up(folder):
    folder.state.mkdir()
    (folder.state / "link.json").write_text(f'{{"doing": "polling", "at": {time.time()}, "pid": 0}}')
    assert read_link(folder).doing == "polling"
    assert not is_up(folder)


def test_before_the_first_connection_there_is_no_link(folder):
    assert read_link(folder) is None
    assert not is_up(folder)
