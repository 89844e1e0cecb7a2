"""The link is judged by answers, not by whether a process is there."""

import logging
import os
import subprocess
import sys
import time

import httpx
import pytest

from f2b_client import link
from f2b_client.link import FRESH_SECONDS, LinkRecorder, heard, is_up, judge, read_link, write_link
from f2b_client.settings import SiteFolder
from f2b_client.state import State
from f2b_client.supernode import STOPPED_POLLING


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


@pytest.fixture
def recorder(folder):
    """A recorder that hears this process's HTTP library and Flower's log, and is taken off again."""
    recorder = LinkRecorder(folder)
    level = logging.getLogger("httpx").level
    recorder.listen()
    yield recorder
    for name in ("httpx", "flwr"):
        logging.getLogger(name).removeHandler(recorder)
    logging.getLogger("httpx").setLevel(level)


def ask(code):
    with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(code))) as client:
        client.post("https://centre/v1/fleet/pull-messages")


@pytest.mark.parametrize(
    ("code", "doing"), [(200, "polling"), (204, "polling"), (500, "disconnected"), (429, "disconnected")]
)
def test_every_answer_the_http_library_reports_is_heard(recorder, folder, code, doing):
    ask(code)
    state = read_link(folder)
    assert state.doing == doing
    assert state.pid == os.getpid()
    assert is_up(folder) is (doing == "polling")


def test_a_failed_try_of_flower_is_heard_and_its_other_words_are_not(recorder, folder):
    log = logging.getLogger("flwr")
    log.info("SuperNode ID: %s", 5)
    assert read_link(folder) is None
    log.warning("Connection attempt failed, retrying in %.2f seconds", 1.5)
    assert read_link(folder).doing == "disconnected"


def test_answers_are_written_now_and_then_but_a_change_at_once(recorder, folder, monkeypatch):
    written = []
    monkeypatch.setattr(link, "write_link", lambda folder, doing: written.append(doing))
    for code in (200, 200, 200, 500, 200, 200):
        ask(code)
    assert written == ["polling", "disconnected", "polling"]


def test_a_record_of_another_form_is_no_news():
    assert heard(logging.LogRecord("httpx", logging.INFO, "", 1, "load_verify_locations", (), None)) == ""
    assert heard(logging.LogRecord("httpx", logging.INFO, "", 1, "x %s", ("y",), None)) == ""


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


DEAF = """
import sys, threading, time
from f2b_client import supernode
def polling_ended():  # as Flower leaves it: its command returns, and a thread keeps the process up
    assert sys.argv == ["flower-supernode", "--port", "1"], sys.argv
    threading.Thread(target=time.sleep, args=(600,)).start()
supernode.run_supernode = polling_ended
supernode.main([sys.argv[1], "--port", "1"])
"""


def test_a_supernode_whose_polling_ended_does_not_stay_up(folder):
    done = subprocess.run([sys.executable, "-c", DEAF, str(folder.path)], check=False, timeout=120)
    assert done.returncode == STOPPED_POLLING
    state = read_link(folder)
    assert (state.doing, state.detail) == (
        "disconnected",
        "the SuperNode stopped polling after an error; log/supernode.log",
    )
