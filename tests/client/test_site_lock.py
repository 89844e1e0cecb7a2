"""One client a site, and `stop` never ends a stranger."""

import os
import subprocess
import sys
import threading
import time

import pytest

from f2b_client.settings import SiteFolder
from f2b_client.site_lock import only_one, running_pid
from face2bone_model.contract.errors import UsageError

HOLD = """
import sys, time
from pathlib import Path
from f2b_client.settings import SiteFolder
from f2b_client.site_lock import only_one
with only_one(SiteFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()


def test_the_lock_names_its_holder_while_it_is_held_and_nobody_afterwards(folder, holder):
    assert running_pid(folder) == holder.pid
    with pytest.raises(UsageError, match="running already"), only_one(folder):
        pytest.fail("two clients on one site")
    holder.kill()
    holder.wait()
    assert (folder.state / "running.lock").read_text() == str(holder.pid)  # what a crash leaves behind
    assert running_pid(folder) is None
    with only_one(folder):
        assert (folder.state / "running.lock").read_text() == str(os.getpid())
    assert running_pid(folder) is None


def test_a_site_that_never_ran_has_no_client(folder):
    assert running_pid(folder) is None


def test_whoever_looks_at_the_lock_does_not_keep_a_client_from_starting(folder):
    with only_one(folder):
        pass
    looking = threading.Event()

    def look():
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            running_pid(folder)
        looking.set()

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(5):
        with only_one(folder):
            time.sleep(0.01)
    thread.join()
    assert looking.is_set()
