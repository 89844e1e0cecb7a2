"""The executor process: the site's work behind the pinned ClientApp, until told to stop."""

import signal
import time

import torch

from f2b_client.app import make_app
from f2b_client.executor import execute
from f2b_client.settings import ComputeSettings, SiteFolder
from f2b_client.site_report import write_site_report
from f2b_client.state import State, write_state
from f2b_client.work import SiteWork


def run_executor(folder: SiteFolder, supernode: str, compute: ComputeSettings) -> None:
    """Answer requests until SIGTERM."""
    torch.set_num_threads(compute.threads)
    stopping = [False]
    signal.signal(signal.SIGTERM, lambda *_: stopping.__setitem__(0, True))
    last = State(doing="starting")

    def say(what: str, done: int = 0, total: int = 0, detail: str = "") -> None:
        nonlocal last
        since = last.since if what == last.doing else time.time()
        last = State(doing=what, detail=detail, done=done, total=total, since=since)
        write_state(folder, "executor", last)

    def on_idle() -> None:
        if last.doing == "evaluating":
            write_site_report(folder)  # while everything it needs is loaded
        if last.doing != "waiting":
            say("waiting", detail="for the coordinator's next request")

    work = SiteWork(folder, say)
    secret = (folder.keys / "executor.secret").read_bytes()
    execute(supernode, secret, make_app(work.answer), should_stop=lambda: stopping[0], on_idle=on_idle)
    on_idle()
    say("stopped")
