"""A kept process is started again with patience."""

import sys
import time

import pytest

from f2b_client import kept as kept_module
from f2b_client.kept import Kept
from face2bone_model.system.processes import start


def kept(tmp_path, code):
    return Kept(
        "trial", lambda: start("trial", [sys.executable, "-c", code], log=tmp_path / "log", environment={})
    )


@pytest.fixture
def sleeper(tmp_path):
    process = kept(tmp_path, "import time; time.sleep(60)")
    yield process
    if process.child is not None:
        process.child.process.kill()
        process.child.process.wait()


def test_a_process_that_ends_is_started_again_after_a_pause_that_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_module, "SHORTEST_PAUSE_SECONDS", 0.4)
    monkeypatch.setattr(kept_module, "LONGEST_PAUSE_SECONDS", 1.0)
    process = kept(tmp_path, "raise SystemExit(3)")
    pauses = []
    for _ in range(3):
        while process.child is None:
            process.tend()
            time.sleep(0.01)
        process.child.process.wait(timeout=20)
        assert not process.is_running()
        assert "trial ended with code 3; starting it again" in process.tend()
        assert "code 3" in process.sentence
        pauses.append(process.not_before - time.time())
        assert process.tend() == ""  # not before the pause is over
        assert process.child is None
    assert pauses == pytest.approx([0.4, 0.8, 1.0], abs=0.05)


def test_a_process_that_ran_long_starts_its_pauses_over(tmp_path):
    process = kept(tmp_path, "raise SystemExit(3)")
    process.failures = 5
    process.tend()
    process.child.process.wait(timeout=20)
    process.started -= kept_module.HEALTHY_SECONDS + 1
    assert "again in 1 s" in process.tend()


def test_the_pauses_grow_from_a_second_to_a_quarter_of_an_hour(tmp_path):
    process, pauses = kept(tmp_path, ""), []
    for _ in range(12):
        process.started = time.time()
        process.restart("was told to")
        pauses.append(round(process.not_before - time.time()))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]


def test_a_running_process_is_left_alone(sleeper):
    assert sleeper.tend() == ""
    child = sleeper.child
    assert sleeper.tend() == ""
    assert sleeper.child is child
    assert sleeper.is_running()


def test_a_restart_ends_the_process_and_says_why(sleeper):
    sleeper.tend()
    process = sleeper.child.process
    assert sleeper.restart("gave no sign of life") == "trial gave no sign of life; starting it again in 1 s"
    assert process.poll() is not None
    assert not sleeper.is_running()
    assert sleeper.tend() == ""
