"""Every Flower-internal name a hospital uses: the Fleet API of the SuperLink, and how messages are taken apart.

tests/contract/test_flower_internals.py exercises them, so that an upgrade of Flower fails there first. Nothing here
tries again or waits: who calls decides what a failure means.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import (
    FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE,
    HEARTBEAT_DEFAULT_INTERVAL,
    ErrorCode,
)
from flwr.common.serde import fab_from_proto, message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fab_pb2 import Fab, GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest, Run
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_id,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

HTTP_SECONDS = 30.0
"""How long a connection may take to come about, and a byte to come or go."""
PIECE_BYTES = 1 << 16
"""What is given to the connection at once. The HTTP library copies the rest after every TLS record of 16 kB, which for
an object of 5 MB at once is 300 copies of it."""
RUN_IS_OVER = ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED
UNKNOWN_KEY = frozenset({ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED})
PRESENT = (
    "the coordinating centre does not know this site's key, or still counts an earlier connection as present"
)
NOT_ADMITTED = "the coordinating centre does not admit this site's key; ask the coordinator"


class CentreError(Exception):
    """The coordinating centre did not do what was asked; the text is for `status`."""


class UnreachableError(CentreError):
    """It did not answer, or with an error that passes. Trying again is right."""


class NotAdmittedError(CentreError):
    """It does not know us, or no more: join again, and do not hammer."""


class RefusedError(CentreError):
    """It will not have this one request, however often it is asked: the run is over, or the message is gone."""


@dataclass(frozen=True)
class Incoming:
    """A message that waits for us: what it is, without the objects it consists of."""

    message: MessageProto
    tree: ObjectTree

    @property
    def run_id(self) -> int:
        """The Flower run it belongs to."""
        return int(self.message.metadata.run_id)

    @property
    def object_ids(self) -> tuple[str, ...]:
        """What it consists of, each once, parts before wholes."""
        return unique_ids(self.tree)


@dataclass(frozen=True)
class TaskInput:
    """What a task brings: a message to answer, and a bundle that is looked at and never used."""

    message: Message
    context: Context
    run_id: int
    bundle: bytes
    announced: tuple[str, ...]
    """Digests of the bundle as run and bundle record state them."""


class Fleet:
    """The SuperLink's Fleet API, over TLS, each request signed with the site's key. May be used by several threads.

    Every call raises `UnreachableError`, `NotAdmittedError` or `RefusedError`.
    """

    def __init__(self, address: str, ca: bytes, private_key: bytes) -> None:
        key = load_ssh_private_key(private_key, None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise TypeError("the site's key is not on an elliptic curve")
        self._public = public_key_to_bytes(key.public_key())
        self._client = _SteadyClient.from_server_address(
            address,
            False,  # never without TLS
            ca,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )

    def activate(self) -> int:
        """Say that this site is here; its node id."""
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        return int(_call(self._client.ActivateNode, request).node_id)

    def deactivate(self, node: int) -> None:
        """Say that this site leaves, or that it left without saying so."""
        _call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=node))

    def heartbeat(self, node: int) -> None:
        """Say that this site is still here."""
        request = SendNodeHeartbeatRequest(
            node=Node(node_id=node), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
        )
        if not _call(self._client.SendNodeHeartbeat, request).success:
            raise NotAdmittedError(NOT_ADMITTED)

    def pull(self, node: int) -> Incoming | None:
        """The next message, if there is one. The SuperLink then counts it as delivered, whether it arrived or not."""
        answer = _call(self._client.PullMessages, PullMessagesRequest(node=Node(node_id=node)))
        if not answer.messages_list:
            return None
        return Incoming(answer.messages_list[0], answer.message_object_trees[0])

    def run_and_bundle(self, node: int, run_id: int) -> tuple[bytes, bytes]:
        """A run's record and its bundle, both as Flower writes them."""
        where = Node(node_id=node)
        run = _call(self._client.GetRun, GetRunRequest(node=where, run_id=run_id)).run
        request = GetFabRequest(node=where, hash_str=run.fab_hash, run_id=run_id)
        bundle = _call(self._client.GetFab, request).fab
        return run.SerializeToString(), bundle.SerializeToString()

    def pull_object(self, node: int, run_id: int, object_id: str) -> bytes | None:
        """The content of an object; None while the SuperLink waits for it itself."""
        request = PullObjectRequest(node=Node(node_id=node), run_id=run_id, object_id=object_id)
        answer = _call(self._client.PullObject, request)
        if not answer.object_found:
            raise RefusedError("a part of the message is gone")
        return bytes(answer.object_content) if answer.object_available else None

    def confirm(self, node: int, run_id: int, message_id: str) -> None:
        """Say that a message arrived whole; the SuperLink then deletes it."""
        request = ConfirmMessageReceivedRequest(
            node=Node(node_id=node), run_id=run_id, message_object_id=message_id
        )
        _call(self._client.ConfirmMessageReceived, request)

    def push(self, node: int, message: bytes, tree: bytes, seconds: float) -> tuple[frozenset[str], str]:
        """Announce a reply; the ids of the objects that are wanted, and the session they are for."""
        request = PushMessagesRequest(
            node=Node(node_id=node),
            messages_list=[MessageProto.FromString(message)],
            message_object_trees=[ObjectTree.FromString(tree)],
            clientapp_runtime_list=[seconds],
        )
        answer = _call(self._client.PushMessages, request)
        return frozenset(answer.objects_to_push), str(answer.session_id)

    def push_object(self, node: int, run_id: int, session: str, object_id: str, content: bytes) -> None:
        """Send an object."""
        request = PushObjectRequest(
            node=Node(node_id=node),
            run_id=run_id,
            session_id=session,
            object_id=object_id,
            object_content=content,
        )
        if not _call(self._client.PushObject, request).stored:
            raise UnreachableError("the coordinating centre gave the transfer up; starting it again")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def pack_task(incoming: Incoming, run: bytes, bundle: bytes, objects: Sequence[bytes]) -> list[bytes]:
    """A task as frames: the tree of its message, run, bundle, and the message's objects in the tree's order."""
    return [incoming.tree.SerializeToString(), run, bundle, *objects]


def open_task(frames: list[bytes]) -> TaskInput:
    """Put a task together again. The frames are taken out of the list, so that a model is not in memory twice.

    Raises:
        ValueError: the coordinating centre sent objects that make no message.
    """
    tree, run, fab = ObjectTree.FromString(frames[0]), Run.FromString(frames[1]), Fab.FromString(frames[2])
    contents = dict(zip(unique_ids(tree), frames[3:], strict=True))
    frames.clear()
    try:
        message = inflate_object_from_contents(tree.object_id, contents)
    except Exception as error:  # whatever Flower's reader makes of hostile bytes
        raise ValueError("objects that make no message") from error
    if not isinstance(message, Message):
        raise ValueError("an object that is no message")  # noqa: TRY004  # of the bytes, not of our types
    message.metadata.__dict__["_message_id"] = tree.object_id
    bundle, about = fab_from_proto(fab), run_from_proto(run)
    node = message.metadata.dst_node_id
    context = Context(about.run_id, node, {}, RecordDict(), {})
    return TaskInput(message, context, about.run_id, bundle.content, (about.fab_hash, bundle.hash_str))


def pack_reply(reply: Message) -> list[bytes]:
    """A reply as frames: message, tree of its objects, and the objects in the tree's order."""
    objects: dict[str, bytes] = {}
    tree = _fold(reply, objects)
    reply.metadata.__dict__["_message_id"] = tree.object_id
    bare = remove_content_from_message(reply) if reply.has_content() else reply
    head = message_to_proto(bare).SerializeToString()
    return [head, tree.SerializeToString(), *(objects[name] for name in unique_ids(tree))]


def crash_reply(incoming: Incoming) -> list[bytes]:
    """What Flower answers for an app that is gone: the coordinating centre may ask again."""
    fault = Error(ErrorCode.CLIENT_APP_CRASHED, "")
    return pack_reply(Message(fault, reply_to=message_from_proto(incoming.message)))


def reply_object_ids(tree: bytes) -> tuple[str, ...]:
    """The ids of a packed reply's objects, in the order of its frames."""
    return unique_ids(ObjectTree.FromString(tree))


def unique_ids(tree: ObjectTree) -> tuple[str, ...]:
    """The ids of a tree, each once, parts before wholes."""
    return tuple(dict.fromkeys(node.object_id for node in iterate_object_tree(tree)))


def _fold(thing: InflatableObject, objects: dict[str, bytes]) -> ObjectTree:
    """The tree of an object, and the contents it consists of."""
    if isinstance(thing, Array):
        parts = _parts(thing)
        objects |= parts
        children = [ObjectTree(object_id=name) for name in parts]
    else:
        children = [_fold(part, objects) for part in (thing.children or {}).values()]
    objects[thing.object_id] = thing.deflate()
    return ObjectTree(object_id=thing.object_id, children=children)


def _parts(array: Array) -> dict[str, bytes]:
    """The parts of an array by id, each written and hashed once, where Flower's own way does it several times."""
    view, parts, chunks = memoryview(array.data), {}, []
    for start in range(0, len(view), FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE):
        chunk = ArrayChunk(view[start : start + FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE])
        content = chunk.deflate()
        name = get_object_id(content)
        parts[name] = content
        chunks.append((name, chunk))
    array.__dict__["_chunks"] = chunks  # where Flower would keep them
    return parts


def _call(method: Callable[[Asked], Answered], request: Asked) -> Answered:
    try:
        return method(request)
    except httpx.HTTPStatusError as error:
        raise _refusal(error.response) from error
    except httpx.ConnectError as error:
        raise UnreachableError(f"the coordinating centre cannot be reached: {error}") from error
    except httpx.RequestError as error:
        raise UnreachableError(
            f"the connection to the coordinating centre broke ({type(error).__name__})"
        ) from error
    except ValueError as error:  # what Flower makes of an answer in another form
        raise UnreachableError(
            "something between here and the coordinating centre answers in its place"
        ) from error


def _refusal(response: httpx.Response) -> CentreError:
    status, flower = response.status_code, FlowerError.from_json(response.text)
    code = flower.code if flower is not None else None
    if code in UNKNOWN_KEY:
        return NotAdmittedError(PRESENT)
    if status == HTTPStatus.FORBIDDEN and code == RUN_IS_OVER:
        return RefusedError("the run is over")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return NotAdmittedError(NOT_ADMITTED)
    if code is not None and HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return RefusedError(f"the coordinating centre refused (Flower's code {code})")
    return UnreachableError(f"the coordinating centre answers with HTTP {status}")


class _Pieces(httpx.SyncByteStream):
    """A request's body, given to the connection a piece at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._content), PIECE_BYTES):
            yield self._content[start : start + PIECE_BYTES]


class _HttpClient(httpx.Client):
    """Sends bodies in pieces, and never follows a redirect: Flower's client does, to any address, unencrypted too."""

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request."""
        if len(request.content) > PIECE_BYTES:
            request.stream = _Pieces(request.content)
        return super().send(request, **options)


class _SteadyClient(FleetHttpClient):
    """Flower's client over our HTTP client."""

    def __init__(
        self, *arguments: Any, verify: Any = True, timeout: float = HTTP_SECONDS, **options: Any
    ) -> None:
        super().__init__(*arguments, verify=verify, timeout=timeout, **options)
        self._client.close()
        self._client = _HttpClient(verify=verify, timeout=timeout, follow_redirects=False)
