"""The executor: takes messages from the SuperNode and runs the installed ClientApp, never what a bundle brings.

It refuses a run whose bundle's SHA-256 is not on our list, and answers failures by number.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from f2b_client.app import SiteApp
from f2b_client.flower_internals import open_task, pack_reply
from f2b_client.handover import Way, connect
from face2bone_model.contract.bundle import refuse_foreign_bundle
from face2bone_model.contract.errors import Face2BoneError, UnexpectedError

log = logging.getLogger(__name__)

WAKE_SECONDS = 1.0
"""How often it looks whether it should stop; a message wakes it at once."""
RETRY_SECONDS = 0.5


def execute(
    supernode: Path,
    app: SiteApp,
    *,
    should_stop: Callable[[], bool],
    on_idle: Callable[[], None],
) -> None:
    """Answer messages until `should_stop` says so.

    Args:
        supernode: the socket where the SuperNode hands messages over.
        app: the pinned app, imported once and kept warm.
        should_stop: asked between messages.
        on_idle: called whenever there is nothing to do, about once a second.
    """
    answering = True
    while not should_stop():
        try:
            way = connect(supernode)
        except OSError as error:
            if answering:
                log.warning("The SuperNode does not answer (%s); trying again until it does.", error)
            answering = False
            on_idle()
            time.sleep(RETRY_SECONDS)
            continue
        answering = True
        with way:
            _serve(way, app, should_stop, on_idle)


def _serve(way: Way, app: SiteApp, should_stop: Callable[[], bool], on_idle: Callable[[], None]) -> None:
    try:
        while not should_stop():
            if way.has_news(0):
                way.send(_reply_to(way.receive(), app))
            else:
                on_idle()
                way.has_news(WAKE_SECONDS)
    except OSError as error:
        log.warning("The SuperNode is gone (%s). A reply that was made is in the store.", error)


def _reply_to(frames: list[bytes], app: SiteApp) -> list[bytes]:
    """A task's reply as frames; nothing where there is no message to answer. The next task is taken in any case."""
    reply = _reply(frames, app)
    return [] if reply is None else pack_reply(reply)


def _reply(frames: list[bytes], app: SiteApp) -> Message | None:
    try:
        given = open_task(frames)
    except ValueError:
        log.exception("The coordinating centre sent what is no message.")
        return None
    try:
        refuse_foreign_bundle(given.bundle, given.announced)
    except Face2BoneError as error:
        log.error("Run %s refused: %s", given.run_id, error)
        return answered(lambda: app.refuse(given.message), given.message)
    return answered(lambda: app(message=given.message, context=given.context), given.message)


def answered(answer: Callable[[], Message], message: Message) -> Message:
    """The app's reply; a fault as its number. Its text stays in the log, and the next message is still taken."""
    try:
        return answer()
    except Exception as error:
        log.exception("A fault while answering.")
        code = error.code if isinstance(error, Face2BoneError) else UnexpectedError.code
        fault = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(code))
        return Message(fault, reply_to=message)
