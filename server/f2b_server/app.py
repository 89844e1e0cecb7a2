"""The ServerApp: gives the rounds a federation that speaks Flower's Message API."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from f2b_server.federation import Answer, OnWait
from f2b_server.progress import Progress, log_event, write_progress
from f2b_server.rounds import run_study
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import Face2BoneError, UnexpectedError

PAYLOAD = "payload"
POLL_SECONDS = 0.5

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study whose folder the run's configuration names."""
    folder = StudyFolder(Path(str(context.run_config["study-folder"])))
    nodes: dict[str, int] = json.loads(str(context.run_config["nodes"]))
    try:
        run_study(folder, GridFederation(grid, nodes))
    except Face2BoneError as error:
        _record_failure(folder, error)
        raise
    except Exception as error:
        _record_failure(folder, UnexpectedError(f"{type(error).__name__}: {error}", "See log/serverapp.log."))
        raise


def _record_failure(folder: StudyFolder, error: Face2BoneError) -> None:
    log_event(folder, "failed", code=error.code, sentence=str(error))
    write_progress(folder, Progress(phase="failed", code=error.code, sentence=str(error)))


class GridFederation:
    """The roster's sites behind a Flower grid. Each reply is matched to a site by the message it answers."""

    def __init__(self, grid: Grid, nodes: Mapping[str, int]) -> None:
        self._grid = grid
        self._nodes = dict(nodes)

    def online(self) -> frozenset[str]:
        """Sites whose node the SuperLink counts as connected."""
        present = set(self._grid.get_node_ids())
        return frozenset(site for site, node in self._nodes.items() if node in present)

    def ask(
        self, requests: Mapping[str, bytes], *, label: str, deadline_seconds: float, on_wait: OnWait
    ) -> dict[str, Answer]:
        """Send each site its request and collect replies until all are in or the deadline has passed."""
        start = time.time()
        sites = sorted(requests)
        messages = [_message(requests[site], self._nodes[site], label, deadline_seconds) for site in sites]
        waiting = dict(zip(self._grid.push_messages(messages), sites, strict=True))
        answers: dict[str, Answer] = {}
        while waiting and time.time() - start < deadline_seconds:
            for reply in self._grid.pull_messages(list(waiting)):
                site = waiting.pop(reply.metadata.reply_to_message_id)
                answers[site] = _answer(reply, time.time() - start)
            on_wait(tuple(sorted(answers)), tuple(sorted(waiting.values())), start + deadline_seconds)
            if waiting:
                time.sleep(POLL_SECONDS)
        missed = f"no reply within {deadline_seconds:.0f} s"
        return answers | {site: Answer(fault=missed, seconds=deadline_seconds) for site in waiting.values()}


def _message(payload: bytes, node: int, label: str, deadline_seconds: float) -> Message:
    array = Array("uint8", (len(payload),), "raw", payload)
    content = RecordDict({PAYLOAD: ArrayRecord({PAYLOAD: array})})
    return Message(content, node, "query", group_id=label, ttl=deadline_seconds + 60)


def _answer(reply: Message, seconds: float) -> Answer:
    if reply.has_error():
        return Answer(fault=_fault(reply), seconds=seconds)
    record = reply.content.array_records.get(PAYLOAD)
    if record is None or set(record) != {PAYLOAD}:
        return Answer(fault="the reply is not in our form", seconds=seconds)
    return Answer(payload=record[PAYLOAD].data, seconds=seconds)


def _fault(reply: Message) -> str:
    """Flower's error code; our own number beside it where the site's executor gave one."""
    reason = str(reply.error.reason)
    number = f", number {reason}" if reason.isdigit() else ""
    return f"Flower error {reply.error.code}{number}"
