"""The executor: takes tasks from the isolated SuperNode and runs the installed ClientApp, never what a bundle brings.

It is the sole holder of the SuperNode's secret, acquires ClientApp tasks only, reads the run's bundle in memory and
refuses it unless it is ours (it holds no code), and answers failures by number. Every Flower-internal name the
project uses at a hospital is imported here; tests/contract/test_flower_internals.py exercises them.
"""

import logging
import time
from collections.abc import Callable

import httpx
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from face2bone_model.contract.bundle import refuse_foreign_bundle
from face2bone_model.contract.errors import Face2BoneError, UnexpectedError

log = logging.getLogger(__name__)

TASK_TYPE = "flwr-clientapp"
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
POLL_SECONDS = 0.25
RETRY_SECONDS = 3.0


def execute(
    address: str,
    secret: bytes,
    app: ClientApp,
    *,
    should_stop: Callable[[], bool],
    on_idle: Callable[[], None],
) -> None:
    """Acquire and run tasks until `should_stop` says so.

    Args:
        address: the SuperNode's runtime address, host:port on loopback.
        secret: the SuperNode's SuperExec secret.
        app: the pinned ClientApp, imported once and kept warm.
        should_stop: asked between tasks.
        on_idle: called whenever there is nothing to do.
    """
    acquirer = _client(
        address, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({ACQUIRE}))
    )
    try:
        while not should_stop():
            try:
                task = acquirer.AcquireTask(AcquireTaskRequest(supported_task_types=[TASK_TYPE]))
            except httpx.HTTPError as error:
                log.warning("The SuperNode does not answer (%s); trying again.", type(error).__name__)
                time.sleep(RETRY_SECONDS)
                continue
            if task.HasField("task") and task.token:
                _run(address, task.token, app)
            else:
                on_idle()
                time.sleep(POLL_SECONDS)
    finally:
        acquirer.close()


def _client(address: str, *interceptors: ProtobufClientInterceptor) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # loopback: the SuperNode and this process share the machine
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="f2b-client"), *interceptors],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _run(address: str, token: str, app: ClientApp) -> None:
    """Run one task; whatever happens, the SuperNode gets a status without a sentence of ours in it."""
    client = _client(address, RuntimeTokenHttpInterceptor(token))
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    context: Context | None = None
    status = SubStatus.FAILED
    try:
        message, context, run, bundle = pull_task_input(client)
        try:
            refuse_foreign_bundle(bundle.content)
        except Face2BoneError as error:
            log.error("Run %s refused: %s", run.run_id, error)
            reply = Message(Error(ErrorCode.INVALID_FAB, str(error.code)), reply_to=message)
        else:
            reply, status = _answer(app, message, context)
        push_message(client, reply, context)
    except httpx.HTTPError as error:
        log.error("A task was lost on the way to the SuperNode: %s", error)
    finally:
        push_task_output(client, context, status, "")
        if heartbeat.is_running:
            heartbeat.stop()
        client.close()


def _answer(app: ClientApp, message: Message, context: Context) -> tuple[Message, str]:
    """The app's reply; a fault as its number. Its text stays in the log, and the next task is still taken."""
    try:
        return app(message=message, context=context), SubStatus.COMPLETED
    except Exception as error:
        log.exception("A fault while answering.")
        code = error.code if isinstance(error, Face2BoneError) else UnexpectedError.code
        fault = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(code))
        return Message(fault, reply_to=message), SubStatus.FAILED
