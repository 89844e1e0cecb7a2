"""The supervisor's parts: what it tells, restarts and stops. The whole runs in tests/federation."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from f2b_client import link, supervisor
from f2b_client.kept import Kept
from f2b_client.settings import Joined, SiteFolder
from f2b_client.state import State, read_state, write_state
from f2b_client.supervisor import Supervisor, stop_running
from face2bone_model.contract.errors import EnrolmentError, NotApprovedError, ProcessError, SettingsError
from face2bone_model.system.processes import start

HOLD = """
import signal, sys, time
from pathlib import Path
from f2b_client.settings import SiteFolder
from f2b_client.site_lock import only_one
signal.signal(signal.SIGTERM, {handler})
with only_one(SiteFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


@pytest.fixture
def held(tmp_path):
    """Start a process that holds the site's lock; its end is noticed at once, as by a service manager."""
    processes = []

    def hold(handler):
        command = [sys.executable, "-c", HOLD.format(handler=handler), str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"held\n"
        threading.Thread(target=process.wait, daemon=True).start()
        processes.append(process)
        return process

    yield hold
    for process in processes:
        process.kill()
        process.wait(timeout=20)


def test_stopping_waits_until_the_client_has_ended(folder, held):
    process = held("signal.SIG_DFL")
    assert stop_running(folder, seconds=20)
    assert process.wait(timeout=5) == -signal.SIGTERM


def test_a_client_that_does_not_stop_is_named(folder, held):
    process = held("signal.SIG_IGN")
    with pytest.raises(ProcessError, match=f"process {process.pid}.*still running"):
        stop_running(folder, seconds=0.5)


def test_stopping_never_touches_a_stranger_that_got_the_number_of_a_crashed_client(folder, held):
    crashed = held("signal.SIG_DFL")
    crashed.kill()
    crashed.wait(timeout=20)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (folder.state / "running.lock").write_text(str(stranger.pid))  # as if the number had been given again
        write_state(folder, "supervisor", State(doing="connected"))
        assert not stop_running(folder, seconds=1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_stopping_a_client_that_never_ran_is_no_fault(folder):
    assert not stop_running(folder, seconds=1)


def test_a_site_that_is_not_ready_is_told_why_before_anything_starts(folder):
    client = Supervisor(folder, lambda _: pytest.fail("nothing was to be said"))
    with pytest.raises(EnrolmentError, match="has not joined"):
        client.run()
    folder.joined.mkdir()
    (folder.joined / "kit.json").write_text('{"site": "a", "study": "s", "address": "h:1"}', encoding="utf-8")
    with pytest.raises(SettingsError, match=r"policy.toml"):
        client.run()
    folder.policy.write_text("", encoding="utf-8")
    with pytest.raises(NotApprovedError, match="No study is approved"):
        client.run()
    assert not folder.log.exists()


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_a_hospitals_proxy_is_never_asked_for_this_machine(monkeypatch, name):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert supervisor._loopback_without_proxy()["no_proxy"] == "127.0.0.1,localhost"
    monkeypatch.setenv(name, "intranet.example.org")
    given = supervisor._loopback_without_proxy()
    assert set(given.values()) == {"intranet.example.org,127.0.0.1,localhost"}


# --- what the supervisor makes of a link -------------------------------------------------------------------------


@pytest.fixture
def watched(tmp_path, folder):
    """A supervisor with a SuperNode that runs and says nothing by itself."""
    folder.settings.write_text('[site]\nname = "north"\n')
    client = Supervisor(folder, lambda _: None)
    quiet = [sys.executable, "-c", "import time; time.sleep(60)"]
    node = Kept("SuperNode", lambda: start("SuperNode", quiet, log=tmp_path / "log", environment={}))
    node.tend()
    client._kept = {"SuperNode": node}
    yield client, node
    if node.child is not None:
        node.child.process.kill()
        node.child.process.wait()


def age(folder, seconds):
    """Make the link's file, and what it says, so much older."""
    state, path = read_state(folder, "link"), folder.state / "link.json"
    old = replace(state, at=state.at - seconds, since=state.since - seconds)
    path.write_text(json.dumps(vars(old)))
    os.utime(path, (time.time() - seconds,) * 2)


def test_a_link_that_polls_is_left_alone(folder, watched):
    client, node = watched
    link.write_link(folder, "polling")
    assert client._watch_link(node) == ""
    assert read_state(folder, "link").doing == "polling"
    assert node.is_running()


def test_a_silent_supernode_is_called_stalled_and_gets_time_to_recover(folder, watched):
    client, node = watched
    link.write_link(folder, "polling")
    age(folder, 50)
    answered = read_state(folder, "link").at
    assert client._watch_link(node) == ""
    assert (read_state(folder, "link").doing, read_state(folder, "link").at) == ("stalled", answered)
    assert node.is_running()


def test_a_supernode_that_stays_silent_is_started_again_in_one_sentence(folder, watched):
    client, node = watched
    link.write_link(folder, "stalled")
    age(folder, 61)
    assert client._watch_link(node) == "SuperNode gave no sign of life; starting it again in 1 s"
    assert not node.is_running()
    assert client._watch_link(node) == ""
    assert read_state(folder, "link").detail == node.sentence


def test_a_supernode_is_not_restarted_under_a_task_whose_reply_it_has_to_send(folder, watched):
    client, node = watched
    link.write_link(folder, "stalled")
    age(folder, 600)
    write_state(folder, "executor", State(doing="training"))
    assert client._watch_link(node) == ""
    assert node.is_running()
    write_state(folder, "executor", State(doing="waiting"))
    assert "no sign of life" in client._watch_link(node)


def test_a_process_that_is_paused_shows_in_the_state_until_it_runs_again(folder, watched):
    client, node = watched
    joined = Joined("north", "s", "centre:1", folder.path / "ca.pem")
    said = []
    client.say = said.append
    link.write_link(folder, "polling")
    client._tend(joined)
    assert read_state(folder, "supervisor").doing == "connected"
    node.child.process.kill()
    node.child.process.wait()
    client._tend(joined)
    assert said == ["SuperNode ended with code -9; starting it again in 1 s"]
    assert (read_state(folder, "supervisor").doing, read_state(folder, "supervisor").detail) == (
        "restarting",
        said[0],
    )
    assert read_state(folder, "link").doing == "disconnected"
    node.not_before = 0.0
    client._tend(joined)
    assert read_state(folder, "supervisor").doing == "connected"
