"""What `f2b-client status` says: each process and until when, the link, the last release, the budget, the page."""

import time
from dataclasses import dataclass, replace

from f2b_client.link import PROCESS as LINK
from f2b_client.link import read_link
from f2b_client.receipts import Receipt, read_receipts
from f2b_client.settings import SiteFolder, load_joined, load_policy
from f2b_client.site_lock import running_pid
from f2b_client.state import State, has_crashed, read_state
from face2bone_model.contract.errors import EnrolmentError, RecordsError, SettingsError

PROCESSES = ("supervisor", "prepare", "executor")
ENDED = "ended without a word"
LOGS = {"supervisor": "the output of `f2b-client start`", LINK: "log/supernode.log"}


@dataclass(frozen=True, kw_only=True)
class Status:
    """A site's client at one moment."""

    running: bool
    """Whether `start` runs, by the lock only it can hold."""
    states: dict[str, State | None]
    """By process: `supervisor`, `prepare`, `executor`, and `link`. Of a process that died: that it died."""
    last_sent: Receipt | None
    receipts: int
    budget: str
    fault: str
    """What is wrong with receipts or ledger, and how to mend it; empty where nothing is."""
    page: str
    """Address of the live page; empty while it is not served."""


def read_status(folder: SiteFolder) -> Status:
    """Look at a site's client. Reading changes nothing and never fails for a client that never ran."""
    states = {name: _honest(name, read_state(folder, name)) for name in PROCESSES}
    states[LINK] = _honest(LINK, read_link(folder))
    receipts: tuple[Receipt, ...] = ()
    budget = fault = ""
    try:
        receipts, budget = read_receipts(folder.receipts), _budget(folder)
    except RecordsError as error:
        fault = str(error)
    return Status(
        running=running_pid(folder) is not None,
        states=states,
        last_sent=receipts[-1] if receipts else None,
        receipts=len(receipts),
        budget=budget,
        fault=fault,
        page=_page(folder),
    )


def _honest(name: str, state: State | None) -> State | None:
    """A state as it is, unless the process that wrote it is gone: a finished preparation is done, all else crashed."""
    if state is None or not has_crashed(state):
        return state
    if name == "prepare" and 0 < state.total <= state.done:
        return replace(state, doing="done")
    log = LOGS.get(name, f"log/{name}.log")
    return replace(state, doing=ENDED, detail=f"was {state.doing}; see {log}", deadline=0.0)


def _budget(folder: SiteFolder) -> str:
    """Epsilon spent of this hospital's limit, in one line."""
    try:
        policy, site = load_policy(folder).privacy, load_joined(folder).site
    except (EnrolmentError, SettingsError):
        return ""
    spent = 0.0
    if folder.ledger.exists():
        from f2b_client.ledger import Ledger

        spent = Ledger(folder.ledger, site).spent(policy.delta_limit)
    return f"epsilon {spent:.2f} of {policy.epsilon_limit:g} spent at delta {policy.delta_limit:g}"


def _page(folder: SiteFolder) -> str:
    try:
        return (folder.state / "page.url").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, PermissionError):
        return ""


def cells(state: State | None, now: float) -> tuple[str, str, str, str]:
    """A table's cells: what it does, since when, until when, and a detail."""
    if state is None:
        return "not yet", "", "", ""
    amount = f"{state.done} of {state.total}" if state.total else ""
    until = _clock(state.deadline)
    if 0 < state.deadline < now:
        until = f"{until}, passed"
    return state.doing, _clock(state.since), until, f"{state.detail} {amount}".strip()


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if seconds else ""
