"""The executor process: the site's work behind the pinned ClientApp, until told to stop."""

import signal
import time
from collections.abc import Callable

import torch

from f2b_client.app import SiteApp
from f2b_client.approval import approved_studies
from f2b_client.executor import execute
from f2b_client.handover import FILE
from f2b_client.settings import ComputeSettings, SiteFolder, load_joined
from f2b_client.site_report import write_site_report
from f2b_client.state import State, write_state
from f2b_client.work import SiteWork
from face2bone_model.contract.errors import Face2BoneError

PHASES = {"training": "train", "evaluating": "evaluate", "describing": "describe"}
"""What the executor is doing, and the phase whose deadline counts for it."""


def run_executor(folder: SiteFolder, compute: ComputeSettings) -> None:
    """Answer requests until SIGTERM."""
    torch.set_num_threads(compute.threads)
    stopping = [False]
    signal.signal(signal.SIGTERM, lambda *_: stopping.__setitem__(0, True))
    last = State(doing="")

    def say(what: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        nonlocal last
        last = next_state(last, what, done, total, detail, lambda: waiting_seconds(folder, what))
        write_state(folder, "executor", last)

    def on_idle() -> None:
        if last.doing == "evaluating":
            write_site_report(folder)  # while everything it needs is loaded
        if last.doing != "waiting":
            say("waiting", detail="for the coordinator's next request")

    say("starting")
    work = SiteWork(folder, say)
    execute(folder.state / FILE, SiteApp(work.answer), should_stop=lambda: stopping[0], on_idle=on_idle)
    on_idle()
    say("stopped")


def next_state(
    last: State, doing: str, done: int, total: int, detail: str, seconds: Callable[[], float]
) -> State:
    """The state after `last`: a step begins when something else is done, or the same from its start again.

    Args:
        last: the state before.
        doing: what is being done.
        done: how much of it is done.
        total: of how much.
        detail: in words.
        seconds: gives how long the coordinator waits for this step; asked when it begins; 0 for ever.
    """
    if doing == last.doing and done >= last.done:
        since, deadline = last.since, last.deadline
    else:
        since, wait = time.time(), seconds()
        deadline = since + wait if wait else 0.0
    return State(doing=doing, detail=detail, done=done, total=total, since=since, deadline=deadline)


def waiting_seconds(folder: SiteFolder, doing: str) -> float:
    """How long the coordinator of the approved study this site joined waits for a phase; 0 where it does not."""
    phase = PHASES.get(doing)
    if phase is None:
        return 0.0
    try:
        name = load_joined(folder).study
        studies = approved_studies(folder)
    except Face2BoneError:
        return 0.0
    waits = [float(getattr(s.deadlines, f"{phase}_seconds")) for s in studies if s.name == name]
    return max(waits, default=0.0)
