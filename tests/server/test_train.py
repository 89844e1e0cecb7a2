"""How the end of a run becomes an exit code, and how long it may take at most."""

import pytest

from f2b_server.flower_control import RunStatus
from f2b_server.progress import Progress
from f2b_server.settings import StudyFolder
from f2b_server.train import _raise_failure, longest_seconds
from face2bone_model.contract.errors import BudgetError, ProcessError
from face2bone_model.contract.study import DeadlineSettings, Study, TrainingSettings

GOOD = RunStatus(finished=True, completed=True, detail="finished completed")
BAD = RunStatus(finished=True, completed=False, detail="finished failed")


def test_a_finished_and_completed_run_is_no_failure(tmp_path):
    _raise_failure(Progress(phase="finished"), GOOD, StudyFolder(tmp_path))


def test_a_failed_run_has_the_number_of_its_cause(tmp_path):
    with pytest.raises(BudgetError, match="Too much."):
        _raise_failure(Progress(phase="failed", code=31, sentence="Too much."), BAD, StudyFolder(tmp_path))


@pytest.mark.parametrize(
    ("progress", "status"),
    [
        (None, GOOD),
        (Progress(phase="train"), GOOD),  # Flower calls a run completed whose rounds never finished
        (Progress(phase="finished"), BAD),
        (Progress(phase="failed", code=77, sentence="?"), BAD),
    ],
)
def test_a_run_that_ended_any_other_way_is_a_failure(tmp_path, progress, status):
    with pytest.raises(ProcessError):
        _raise_failure(progress, status, StudyFolder(tmp_path))


def test_a_run_may_last_as_long_as_every_phase_asked_twice():
    study = Study(
        name="Bones",
        question="?",
        sites=("a",),
        trunk_name="random",
        trunk_digest="0",
        training=TrainingSettings(rounds=3),
        deadlines=DeadlineSettings(describe_seconds=1, train_seconds=10, evaluate_seconds=100),
    )
    asked_once = 1 + 3 * 10 + 2 * 100
    assert longest_seconds(study) >= 2 * asked_once
