"""The supervisor's parts: restarted with patience, stopped for certain. The whole runs in tests/federation."""

import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from f2b_client import supervisor
from f2b_client.settings import SiteFolder
from f2b_client.supervisor import Kept, Supervisor, stop_running
from face2bone_model.contract.errors import EnrolmentError, NotApprovedError, ProcessError, SettingsError
from face2bone_model.system.processes import start


def kept(tmp_path, code):
    return Kept(
        "trial", lambda: start("trial", [sys.executable, "-c", code], log=tmp_path / "log", environment={})
    )


def test_a_process_that_ends_is_started_again_after_a_pause_that_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "SHORTEST_PAUSE_SECONDS", 0.4)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_SECONDS", 1.0)
    process = kept(tmp_path, "raise SystemExit(3)")
    pauses = []
    for _ in range(3):
        while process.child is None:
            process.tend()
            time.sleep(0.01)
        process.child.process.wait(timeout=20)
        assert "trial ended with code 3; starting it again" in process.tend()
        pauses.append(process.not_before - time.time())
        assert process.tend() == ""  # not before the pause is over
        assert process.child is None
    assert pauses == pytest.approx([0.4, 0.8, 1.0], abs=0.05)


def test_a_running_process_is_left_alone(tmp_path):
    process = kept(tmp_path, "import time; time.sleep(60)")
    try:
        assert process.tend() == ""
        child = process.child
        assert process.tend() == ""
        assert process.child is child
    finally:
        process.child.process.kill()
        process.child.process.wait()


def reaped(code):
    """A process whose end is noticed at once, as a supervisor's is by its service manager."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def test_stopping_waits_until_the_process_has_ended(tmp_path):
    process = reaped("print('ready', flush=True); import time; time.sleep(60)")
    stop_running(SiteFolder(tmp_path), process.pid, seconds=20)
    assert process.wait(timeout=5) == -signal.SIGTERM


def test_a_process_that_does_not_stop_is_named(tmp_path):
    process = reaped(
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('', flush=True); time.sleep(60)"
    )
    try:
        with pytest.raises(ProcessError, match=f"process {process.pid}.*still running"):
            stop_running(SiteFolder(tmp_path), process.pid, seconds=0.5)
    finally:
        process.kill()


def test_stopping_what_has_ended_is_no_fault(tmp_path):
    process = reaped("print('')")
    process.wait(timeout=20)
    stop_running(SiteFolder(tmp_path), process.pid, seconds=1)


def test_a_site_that_is_not_ready_is_told_why_before_anything_starts(tmp_path):
    folder = SiteFolder(tmp_path)
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


def test_the_port_between_supernode_and_executor_is_free_on_loopback():
    port = supervisor._free_port()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
