"""Child processes are watched, and stopped with whatever they started."""

import subprocess
import sys
import time

import psutil
import pytest

from face2bone_model.contract.errors import ProcessError
from face2bone_model.system.processes import QUIET_FLOWER, start, stop

FAMILY = """
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(grandchild.pid, flush=True)
time.sleep(60)
"""
STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


def launch(tmp_path, code, **environment):
    return start(
        "trial", [sys.executable, "-c", code], log=tmp_path / "log" / "trial.log", environment=environment
    )


def first_line(child):
    end = time.time() + 20
    while time.time() < end:
        if lines := child.log.read_text(encoding="utf-8").splitlines():
            return lines[0]
        time.sleep(0.02)
    raise AssertionError("the child said nothing")


def test_output_goes_to_the_log_and_the_environment_reaches_the_child(tmp_path):
    code = "import os; print(os.environ['TRIAL'], os.environ['FLWR_TELEMETRY_ENABLED'])"
    for _ in range(2):
        launch(tmp_path, code, TRIAL="one").process.wait(timeout=20)
    text = (tmp_path / "log" / "trial.log").read_text(encoding="utf-8")
    assert text == f"one {QUIET_FLOWER['FLWR_TELEMETRY_ENABLED']}\n" * 2  # appended, never cut


def test_a_child_that_ended_is_reported_with_its_code_and_last_words(tmp_path):
    child = launch(tmp_path, "import sys; print('disk full'); sys.exit(3)")
    child.process.wait(timeout=20)
    with pytest.raises(ProcessError, match=r"(?s)trial ended with code 3.*disk full.*trial.log") as caught:
        child.check()
    assert caught.value.code == 43


def test_a_running_child_is_no_fault_and_stopping_ends_it(tmp_path):
    child = launch(tmp_path, "print('ready', flush=True); import time; time.sleep(60)")
    first_line(child)
    child.check()
    stop([child])
    assert child.process.poll() is not None


def test_stopping_ends_what_the_child_started_too(tmp_path):
    child = launch(tmp_path, FAMILY)
    grandchild = psutil.Process(int(first_line(child)))
    stop([child])
    grandchild.wait(timeout=20)
    assert not grandchild.is_running()


def test_a_child_that_does_not_listen_is_ended_at_the_deadline(tmp_path):
    child = launch(tmp_path, STUBBORN)
    first_line(child)
    began = time.monotonic()
    stop([child], seconds=0.5)
    assert child.process.returncode == -9
    assert time.monotonic() - began < 10


def test_stopping_twice_or_after_the_end_is_no_fault(tmp_path):
    child = launch(tmp_path, "pass")
    child.process.wait(timeout=20)
    stop([child])
    stop([child, child])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent ended")
def test_a_child_whose_parent_ended_before_it_could_ask_for_the_signal_does_not_run_on():
    code = "from face2bone_model.system.processes import _end_with; _end_with(-1); print('ran on')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, b"")
