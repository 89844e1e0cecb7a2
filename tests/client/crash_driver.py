"""A site that is killed with SIGKILL while it answers, and asked again in a fresh process; run by test_exactly_once.py.

Training is a light stub; gate, ledger, receipts and reply store are the real ones. The parent imports everything and
forks, so that each life is a process of its own without paying for the imports again.

    crash_driver.py FOLDER SEED LIVES      prints one JSON object: what came of each life
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from subjects import measured, subject_of

import f2b_client
import face2bone_model.system.files
from f2b_client.egress import Gate
from f2b_client.keys import make_keys
from f2b_client.settings import SiteFolder
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.payload import digest
from face2bone_model.contract.policy import Policy, ReleasePolicy
from face2bone_model.contract.request import Request
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import EvaluationSettings, PrivacySettings, Study
from face2bone_model.contract.update import ModelSignature, Update
from face2bone_model.metrics.description import describe_update
from face2bone_model.metrics.evaluation import validation_update
from face2bone_model.training.privacy import DpSegment, epsilon_of

TRACED = (str(Path(f2b_client.__file__).parent), face2bone_model.system.files.__file__)
EVALUATION = EvaluationSettings(score_bins=20, calibration_bins=5, min_cell=1)
STUDY = replace(
    Study(name="Bones", question="?", sites=("harbour",), trunk_name="random", trunk_digest="t"),
    evaluation=EVALUATION,
    privacy=PrivacySettings(required=True, epsilon=50.0),
)
SIGNATURE = ModelSignature((("weight", (4, 2)),), "t")
SEGMENT = DpSegment(noise_multiplier=2.0, sample_rate=0.2, steps=4)
LABELS = np.arange(60) % 3
PROBABILITIES = np.full((60, 3), 0.2) + 0.4 * np.eye(3)[LABELS]
POLICY = Policy(release=ReleasePolicy(min_cell=1))
ASKED = ((Phase.DESCRIBE, 0), (Phase.TRAIN, 1), (Phase.TRAIN, 2), (Phase.TRAIN, 1))
"""The last is asked a second time."""


def request_of(phase: Phase, number: int) -> Request:
    vector = None if phase is Phase.DESCRIBE else np.full(8, number, np.float32)
    return Request(
        study_hash=STUDY.hash(),
        phase=phase,
        round=number,
        signature_digest=SIGNATURE.digest(),
        vector=vector,
    )


def note(path: Path, line: str) -> None:
    """Append a line the parent reads; one write, so that a kill leaves it whole or not at all."""
    with path.open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def trained() -> Update:
    """Another update each time, as noise from the operating system makes it."""
    return Update(
        vector=np.frombuffer(os.urandom(8), np.uint8).astype(np.float32) / 255,
        num_patients=48,
        train_loss=0.0,
        epsilon=0.0,
        delta=0.0,
        noise_multiplier=2.0,
        validation=validation_update(EVALUATION, PROBABILITIES, LABELS),
    )


def described() -> SiteStatistics:
    return describe_update(
        EVALUATION,
        labels=LABELS,
        splits=np.full(60, "train"),
        female=np.ones(60, bool),
        ages=np.full(60, 65),
        excluded_patients=0,
        quarantined_photos=0,
    )


def answer(gate: Gate, request: Request, work: Path) -> bytes:
    release = gate.again(request)
    if release is not None:
        return release.payload
    note(work, request.key)
    if request.phase is Phase.DESCRIBE:
        return gate.release_statistics(request, measured(described(), LABELS), study=STUDY).payload
    return gate.release_update(
        request,
        trained(),
        subject=subject_of(LABELS, "validation"),
        study=STUDY,
        signature=SIGNATURE,
        segment=SEGMENT,
    ).payload


def life(folder: SiteFolder) -> None:
    """Answer everything that is asked, as one process does; what was sent is noted after it left the gate."""
    gate = Gate(folder, "harbour", POLICY, "centre.example:9092")
    for phase, number in ASKED:
        request = request_of(phase, number)
        payload = answer(gate, request, folder.path / "trained.txt")
        note(folder.path / "sent.txt", f"{request.key} {digest(payload)}")


def counted(folder: SiteFolder, kill_at: int) -> int:
    """Live, counting the lines of the client and of what writes its files; die at one of them (0: at none)."""
    seen = 0

    def trace(frame, event, _argument):
        nonlocal seen
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    life(folder)
    sys.settrace(None)
    return seen


def forked(work, kill_after: float | None = None) -> bool:
    """Run `work` in a process of its own; True when it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        raise RuntimeError("a life failed; its trace is above")
    return os.WIFSIGNALED(status)


def new_site(path: Path) -> SiteFolder:
    folder = SiteFolder(path)
    make_keys(folder)
    return folder


def killed_life(folder: SiteFolder, number: int, draw: random.Random, lines: int, seconds: float) -> bool:
    """One site: killed, mostly killed again while it mends that, then left to answer; whether the first kill hit."""
    if number % 4 == 3:  # at a moment, which may lie inside a write, rather than at a line
        killed = forked(lambda: life(folder), kill_after=draw.uniform(0, seconds))
    else:
        first = draw.randint(1, lines)
        second = draw.randint(1, first)
        killed = forked(lambda: counted(folder, first))
        forked(lambda: counted(folder, second))
    forked(lambda: life(folder))
    return killed


def main() -> None:
    root, seed, lives = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    epsilon_of((SEGMENT,), 1e-5)  # the accountant is imported before anyone forks
    measure, timed = new_site(root / "whole"), new_site(root / "timed")
    forked(lambda: note(measure.path / "lines.txt", str(counted(measure, 0))))
    lines = int((measure.path / "lines.txt").read_text())
    began = time.monotonic()
    forked(lambda: life(timed))
    seconds = time.monotonic() - began
    draw = random.Random(seed)  # noqa: S311  # no secret: the seed names the points
    killed = sum(
        killed_life(new_site(root / f"site-{number:03d}"), number, draw, lines, seconds)
        for number in range(lives)
    )
    sys.stdout.write(json.dumps({"lines": lines, "killed": killed}))


if __name__ == "__main__":
    main()
