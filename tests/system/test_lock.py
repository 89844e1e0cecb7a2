"""One process a folder: a second is refused, and a crash gives the lock back."""

import os
import signal
import subprocess
import sys
import time

import pytest

from face2bone_model.contract.errors import UsageError
from face2bone_model.system import lock
from face2bone_model.system.lock import holder, only_one
from face2bone_model.system.ports import free_port

HOLD = """
import sys, time
from pathlib import Path
from face2bone_model.contract.errors import UsageError
from face2bone_model.system.lock import only_one
with only_one(Path(sys.argv[1]), UsageError("no")):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_holder_and_refuses_a_second(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "TRY_SECONDS", 0.1)
    path = tmp_path / "state" / "it.lock"
    assert holder(path) is None
    with only_one(path, UsageError("first")):
        assert holder(path) == os.getpid()
        with pytest.raises(UsageError, match="taken"), only_one(path, UsageError("taken")):
            pass
    assert holder(path) is None


def test_a_killed_holder_gives_the_lock_back(tmp_path):
    path = tmp_path / "it.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert holder(path) == process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert holder(path) is None
    with only_one(path, UsageError("free again")):
        assert holder(path) == os.getpid()


def test_a_lock_touched_for_an_instant_is_waited_for(tmp_path):
    path = tmp_path / "it.lock"
    began = time.monotonic()
    with only_one(path, UsageError("one")):
        pass
    with only_one(path, UsageError("two")):
        assert time.monotonic() - began < 1.0


def test_a_free_port_can_be_listened_on():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
