"""The executor: takes tasks from the isolated SuperNode and runs the installed ClientApp, never what a bundle brings.

It is the sole holder of the SuperNode's secret, acquires ClientApp tasks only, refuses a run whose bundle's SHA-256 is
not on our list, and answers failures by number.
"""

import logging
import time
from collections.abc import Callable

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from f2b_client.app import SiteApp
from f2b_client.flower_internals import Acquired, Acquirer, Task, TaskInput, open_task
from face2bone_model.contract.bundle import refuse_foreign_bundle
from face2bone_model.contract.errors import Face2BoneError, UnexpectedError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
RETRY_SECONDS = 3.0


def execute(
    address: str,
    secret: bytes,
    app: SiteApp,
    *,
    should_stop: Callable[[], bool],
    on_idle: Callable[[], None],
) -> None:
    """Acquire and run tasks until `should_stop` says so.

    Args:
        address: the SuperNode's runtime address, host:port on loopback.
        secret: the SuperNode's SuperExec secret.
        app: the pinned app, imported once and kept warm.
        should_stop: asked between tasks.
        on_idle: called whenever there is nothing to do.
    """
    acquirer = Acquirer(address, secret)
    answering = True
    try:
        while not should_stop():
            try:
                acquired = acquirer.acquire()
            except ConnectionError as error:
                if answering:
                    log.warning("The SuperNode does not answer (%s); trying again until it does.", error)
                answering = False
                time.sleep(RETRY_SECONDS)
                continue
            answering = True
            if acquired is not None:
                _run(address, acquired, app)
            else:
                on_idle()
                time.sleep(POLL_SECONDS)
    finally:
        acquirer.close()


def _run(address: str, acquired: Acquired, app: SiteApp) -> None:
    """Run one task; whatever happens to it, the next is still taken. A reply that was made is in the store."""
    try:
        with open_task(address, acquired) as task:
            _answer_task(task, app)
    except Exception:
        log.exception("A task was lost between SuperNode and executor; the coordinator will ask again.")


def _answer_task(task: Task, app: SiteApp) -> None:
    given = task.pull()
    try:
        refuse_foreign_bundle(given.bundle, given.announced)
    except Face2BoneError as error:
        log.error("Run %s refused: %s", given.run_id, error)
        reply, _ = _answered(lambda: app.refuse(given.message), given)
        task.push(reply, completed=False)
        return
    reply, completed = _answered(lambda: app(message=given.message, context=given.context), given)
    task.push(reply, completed=completed)


def _answered(answer: Callable[[], Message], given: TaskInput) -> tuple[Message, bool]:
    """The app's reply; a fault as its number. Its text stays in the log, and the next task is still taken."""
    try:
        return answer(), True
    except Exception as error:
        log.exception("A fault while answering.")
        code = error.code if isinstance(error, Face2BoneError) else UnexpectedError.code
        fault = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(code))
        return Message(fault, reply_to=given.message), False
