"""The SuperNode's process: asks the coordinating centre for messages, hands them to the executor, sends its replies.

Flower's own sleeps for seconds at each step, ends at an HTTP error, and keeps an executor's message for a minute after
its death. This one speaks the same Fleet API, runs nothing itself, and goes on until it is told to stop.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from f2b_client.flower_internals import (
    CentreError,
    Fleet,
    Incoming,
    RefusedError,
    UnreachableError,
    crash_reply,
    pack_task,
    reply_object_ids,
)
from f2b_client.handover import FILE, Door, Way, wait_for
from f2b_client.link import LinkNotes
from f2b_client.pace import LONGEST_PAUSE_SECONDS, pause_after, retry_pause
from f2b_client.presence import Presence
from f2b_client.settings import SiteFolder

log = logging.getLogger(__name__)

CONNECTIONS = 3
"""How many objects of a message are on their way at once: enough to hide the way's length, and kind to its width."""
OBJECT_PAUSES = (0.05, 2.0)
"""Between two questions for an object the SuperLink itself waits for: first and longest, in seconds."""
OBJECT_SECONDS = 600.0
"""How long the centre's own half of a message may take to reach the SuperLink."""
LONGEST_ANSWER_SECONDS = 7 * 86400.0

Answered = TypeVar("Answered")


class SuperNode:
    """Serves one site until the process ends."""

    def __init__(self, folder: SiteFolder, fleet: Fleet, door: Door) -> None:
        self._fleet = fleet
        self._door = door
        self._notes = LinkNotes(folder)
        self._presence = Presence(fleet, folder, answered=self._notes.answered, failed=self._note)
        self._pool = ThreadPoolExecutor(CONNECTIONS)
        self._executor: Way | None = None
        self._run: tuple[int, bytes, bytes] = (0, b"", b"")

    def run(self) -> None:
        """Ask, hand over and send, without end."""
        self._presence.start()
        failures, last_message = 0, time.monotonic()
        while True:
            try:
                if self._serve_once():
                    last_message = time.monotonic()
                failures = 0
            except CentreError as error:
                # An answer that was lost may have been a message. A site seen to come back is asked again.
                self._presence.lose()
                failures += 1
                self._note(error)
                time.sleep(retry_pause(failures))
                continue
            self._rest(pause_after(time.monotonic() - last_message))

    def leave(self) -> None:
        """Tell the coordinating centre that this site goes."""
        self._presence.leave()

    def _serve_once(self) -> bool:
        """Ask once; whether there was a message. Without an executor, messages stay where they are safe."""
        node = self._presence.join()
        if self._executor is None:
            return False
        incoming = self._fleet.pull(node)
        self._notes.answered()
        if incoming is None:
            return False
        self._presence.busy = True
        try:
            self._attend(incoming)
        except RefusedError as error:
            log.warning("A message was given up: %s.", error)
        finally:
            self._presence.busy = False
        return True

    def _attend(self, incoming: Incoming) -> None:
        """Bring a message to the executor, and its reply to the coordinating centre."""
        began = time.monotonic()
        task = self._fetch(incoming)
        log.info("%s received %s.", _name(incoming), _rate(task, time.monotonic() - began))
        began = time.monotonic()
        reply = self._answer(task, _useful_seconds(incoming)) or crash_reply(incoming)
        seconds, began = time.monotonic() - began, time.monotonic()
        self._send(incoming.run_id, reply, seconds)
        log.info("%s answered %s.", _name(incoming), _rate(reply, time.monotonic() - began))

    def _fetch(self, incoming: Incoming) -> list[bytes]:
        node, run_id = self._presence.join(), incoming.run_id
        if self._run[0] != run_id:
            self._run = (run_id, *self._patiently(lambda: self._fleet.run_and_bundle(node, run_id)))
        ids = incoming.object_ids
        objects = list(self._pool.map(lambda name: self._object(node, run_id, name), ids))
        self._patiently(lambda: self._fleet.confirm(node, run_id, incoming.tree.object_id))
        return pack_task(incoming, *self._run[1:], objects)

    def _object(self, node: int, run_id: int, name: str) -> bytes:
        pause, longest = OBJECT_PAUSES
        end = time.monotonic() + OBJECT_SECONDS
        while time.monotonic() < end:
            content = self._patiently(lambda: self._fleet.pull_object(node, run_id, name))
            if content is not None:
                return content
            time.sleep(pause)
            pause = min(2 * pause, longest)
        raise RefusedError(f"a part of the message was not there within {OBJECT_SECONDS:.0f} s")

    def _answer(self, task: list[bytes], seconds: float) -> list[bytes]:
        """The executor's reply within so many seconds; nothing if it died over the task, which is not kept."""
        if self._executor is None:
            return []
        try:
            self._executor.send(task)
            task.clear()
            if self._executor.has_news(seconds):
                return self._executor.receive()
            log.warning("The executor has not answered for %.0f s; nobody waits for it any more.", seconds)
        except OSError:
            log.warning("The executor ended over this message; the centre may ask again.")
        self._dismiss()
        return []

    def _send(self, run_id: int, reply: Sequence[bytes], seconds: float) -> None:
        """Send a reply; after a break, what is missing of it."""
        message, tree, *contents = reply
        objects = dict(zip(reply_object_ids(tree), contents, strict=True))

        def send() -> None:
            node = self._presence.join()
            wanted, session = self._fleet.push(node, message, tree, seconds)
            push = self._fleet.push_object
            missing = [(name, content) for name, content in objects.items() if name in wanted]
            list(self._pool.map(lambda one: push(node, run_id, session, *one), missing))

        self._patiently(send)

    def _patiently(self, call: Callable[[], Answered]) -> Answered:
        """Try a call again until the coordinating centre can be reached."""
        failures = 0
        while True:
            try:
                answer = call()
            except UnreachableError as error:
                failures += 1
                self._note(error)
                time.sleep(retry_pause(failures))
            else:
                self._notes.answered()
                return answer

    def _note(self, error: CentreError) -> None:
        log.warning("%s.", error)
        self._notes.failed(str(error))

    def _rest(self, seconds: float) -> None:
        """Wait, with an ear for executors that come and go."""
        ends: list[Way | Door] = [self._door] if self._executor is None else [self._executor, self._door]
        if not wait_for(ends, seconds if self._executor else LONGEST_PAUSE_SECONDS):
            return
        if self._executor is not None and self._executor.has_news(0):  # it speaks when asked: this is its end
            self._dismiss()
        if wait_for([self._door], 0):
            self._dismiss()
            self._executor = self._door.accept()
            log.info("The executor is here.")

    def _dismiss(self) -> None:
        if self._executor is not None:
            self._executor.close()
            self._executor = None


def _useful_seconds(incoming: Incoming) -> float:
    """How long an answer is of use, as the message says; whatever it says, not for ever."""
    stated = float(incoming.message.metadata.ttl)
    return stated if 1.0 < stated < LONGEST_ANSWER_SECONDS else LONGEST_ANSWER_SECONDS


def _name(incoming: Incoming) -> str:
    return f"Message {incoming.message.metadata.group_id or 'without a label'} of run {incoming.run_id}"


def _rate(frames: Sequence[bytes], seconds: float) -> str:
    return f"({sum(map(len, frames)) / 1e6:.1f} MB, {seconds:.2f} s)"


def main(arguments: Sequence[str]) -> None:
    """Run the SuperNode of a site; the first argument is the hospital's folder."""
    parser = argparse.ArgumentParser("f2b_client.supernode")
    parser.add_argument("site", type=Path)
    parser.add_argument("--superlink", required=True, help="address of the coordinating centre, host:port")
    parser.add_argument("--root-certificates", required=True, type=Path, help="its CA")
    parser.add_argument("--auth-supernode-private-key", required=True, type=Path, help="this site's key")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder = SiteFolder(given.site)
    fleet = Fleet(
        given.superlink, given.root_certificates.read_bytes(), given.auth_supernode_private_key.read_bytes()
    )
    node = SuperNode(folder, fleet, Door(folder.state / FILE))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())
    try:
        node.run()
    except SystemExit:
        _ignore_further_signals()
        node.leave()
        sys.stdout.flush()
        os._exit(0)  # threads may be waiting for the network


def _ignore_further_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main(sys.argv[1:])
