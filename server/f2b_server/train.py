"""Run a study on a running SuperLink and follow it to its end."""

import json
import time
from collections.abc import Callable

from f2b_server.flower_control import FlowerControl, RunStatus
from f2b_server.progress import Progress, read_progress
from f2b_server.settings import StudyFolder
from f2b_server.superlink import SuperLink
from face2bone_model.contract.errors import DeadlineError, Face2BoneError, ProcessError, error_types
from face2bone_model.contract.study import Study, load_study

POLL_SECONDS = 0.5
SLACK_SECONDS = 300.0


def train(
    folder: StudyFolder, superlink: SuperLink, *, on_progress: Callable[[Progress | None], None]
) -> None:
    """Start a run (or resume the study in a new one) and wait until it has finished.

    Args:
        folder: the study.
        superlink: where to run it.
        on_progress: called about twice a second; may raise to end the run.

    Raises:
        Face2BoneError: the run failed; the number is that of the cause.
        DeadlineError: it took longer than all deadlines of the study together.
    """
    study = load_study(folder.study)
    config = {"study-folder": str(folder.path.resolve()), "nodes": json.dumps(superlink.nodes)}
    (folder.log / "progress.json").unlink(missing_ok=True)
    end = time.time() + longest_seconds(study)
    with FlowerControl(superlink.address, superlink.ca) as control:
        run_id = control.start_run(config)
        try:
            while not (status := control.status(run_id)).finished:
                superlink.check()
                on_progress(read_progress(folder))
                _check_time(end)
                time.sleep(POLL_SECONDS)
        except BaseException:
            control.stop_run(run_id)
            raise
    progress = read_progress(folder)
    on_progress(progress)
    _raise_failure(progress, status, folder)


def longest_seconds(study: Study) -> float:
    """Sum of all deadlines, each phase asked twice, and some slack: no run can last longer."""
    deadlines = study.deadlines
    rounds = study.training.rounds * deadlines.train_seconds
    return 2 * (2 * deadlines.describe_seconds + rounds + 2 * deadlines.evaluate_seconds) + SLACK_SECONDS


def _check_time(end: float) -> None:
    if time.time() > end:
        raise DeadlineError("The study took longer than all its deadlines together.", "See the folder log.")


def _raise_failure(progress: Progress | None, status: RunStatus, folder: StudyFolder) -> None:
    if progress and progress.phase == "finished" and status.completed:
        return
    if progress and progress.code:
        kind: type[Face2BoneError] = error_types().get(progress.code, ProcessError)
        raise kind(progress.sentence)
    raise ProcessError(f"The run ended early: {status.detail}.", f"See {folder.log / 'serverapp.log'}.")
