"""Every Flower-internal name a hospital uses: the SuperNode's runtime, its tasks, and the SuperNode itself.

tests/contract/test_flower_internals.py exercises them, so that an upgrade of Flower fails there first. Nothing here
waits without end: Flower's own retries have none, and end the whole process when a token is refused.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
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
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

TASK_TYPE = "flwr-clientapp"
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
HTTP_CLIENT = "FleetHttpClient"
UNPACKER = "get_fused_config_from_fab"
CALL_SECONDS = 60.0
"""How long one call about a task is tried again; the SuperNode is on this machine, or gone."""
TEMPORARY = frozenset({502, 503, 504})
TASK_IS_OVER = frozenset({401, 403, 404})


@dataclass(frozen=True)
class Acquired:
    """A task the SuperNode gave us: its token, and the digest of the bundle it is said to run."""

    token: str
    bundle_hash: str


@dataclass(frozen=True)
class TaskInput:
    """What a task brings: a message to answer, and a bundle that is looked at and never used."""

    message: Message
    context: Context
    run_id: int
    bundle: bytes
    announced: tuple[str, ...]
    """Digests of the bundle as task, run and bundle record state them."""


class Acquirer:
    """Asks the SuperNode for tasks of one kind. Only the holder of its secret may."""

    def __init__(self, address: str, secret: bytes) -> None:
        interceptor = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=frozenset({ACQUIRE})
        )
        self._client = _client(address, interceptor, seconds=0.0)

    def acquire(self) -> Acquired | None:
        """The next task, if there is one.

        Raises:
            ConnectionError: the SuperNode does not answer, or refuses.
        """
        try:
            answer = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[TASK_TYPE]))
        except httpx.HTTPError as error:
            raise ConnectionError(type(error).__name__) from error
        if not (answer.HasField("task") and answer.token):
            return None
        return Acquired(answer.token, answer.task.fab_hash)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class Task:
    """An acquired task, kept alive by heartbeats until it is finished."""

    def __init__(self, client: RuntimeHttpClient, acquired: Acquired) -> None:
        self._client = client
        self._acquired = acquired
        self._context: Context | None = None
        self._status: str = SubStatus.FAILED

    def pull(self) -> TaskInput:
        """Fetch message and bundle; the SuperNode then counts the message as received."""
        message, context, run, bundle = pull_task_input(self._client)
        self._context = context
        announced = (self._acquired.bundle_hash, run.fab_hash, bundle.hash_str)
        return TaskInput(message, context, run.run_id, bundle.content, announced)

    def push(self, reply: Message, *, completed: bool) -> None:
        """Give the SuperNode the reply to send."""
        if self._context is None:
            raise ValueError("a task is pulled before it is answered")
        push_message(self._client, reply, self._context)
        self._status = SubStatus.COMPLETED if completed else SubStatus.FAILED

    def finish(self) -> None:
        """Tell the SuperNode how it ended, without a sentence of ours in it."""
        push_task_output(self._client, self._context, self._status, "")


@contextmanager
def open_task(address: str, acquired: Acquired) -> Iterator[Task]:
    """Work on a task. The heartbeats have a connection of their own, so that stopping them never waits long."""
    interceptor = RuntimeTokenHttpInterceptor(acquired.token)
    with (
        contextlib.closing(_client(address, interceptor, seconds=CALL_SECONDS)) as client,
        contextlib.closing(_client(address, interceptor, seconds=0.0)) as pulse,
        _beating(HeartbeatSender(_patient(make_task_heartbeat_fn_http(pulse)))),
    ):
        task = Task(client, acquired)
        try:
            yield task
        finally:
            task.finish()


@contextmanager
def _beating(heartbeat: HeartbeatSender) -> Iterator[None]:
    heartbeat.start()
    try:
        yield
    finally:
        if heartbeat.is_running:
            heartbeat.stop()


def _patient(beat: Callable[[], bool]) -> Callable[[], bool]:
    """A heartbeat that an error does not stop: it is tried again, unless the task is no longer known."""

    def try_beat() -> bool:
        try:
            return beat()
        except httpx.HTTPStatusError as error:
            return error.response.status_code in TASK_IS_OVER

    return try_beat


def _client(address: str, interceptor: ProtobufClientInterceptor, *, seconds: float) -> RuntimeHttpClient:
    """A connection whose calls are tried for `seconds`, once if 0."""
    retries = make_simple_http_retry_invoker()
    retries.max_time = seconds
    retries.should_giveup = _is_final
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # loopback: the SuperNode and this process share the machine
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="f2b-client"), interceptor],
        retry_invoker=retries,
    )


def _is_final(error: Exception) -> bool:
    """Whether trying again is useless. Flower's own rule ends the process when a token is refused."""
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in TEMPORARY


class _SteadyClient(FleetHttpClient):
    """Never follows a redirect: Flower's client does, to any address, and without encryption if told so."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._client.follow_redirects = False


def run_supernode() -> None:
    """Flower's `flower-supernode` command, held to the coordinating centre's own address.

    It reads `sys.argv` and returns when the SuperNode has stopped polling. Flower would unpack the settings of every
    bundle that arrives, whatever their size, before our executor refuses it; here it takes none of them.
    """
    # Flower offers no other way than to replace the names its modules look up.
    setattr(fleet_http_connection, HTTP_CLIENT, _SteadyClient)
    setattr(start_client_internal, UNPACKER, lambda *_: {})
    flower_supernode()
