"""Explains every byte a site sent: the payloads of its receipts, Flower's own messages field by field, HTTP."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.app import Message
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import Message as Protobuf
from recorder import Exchange

FLEET = "/v1/fleet/"
REQUESTS: Mapping[str, type[Protobuf]] = {
    "activate-node": fleet_pb2.ActivateNodeRequest,
    "deactivate-node": fleet_pb2.DeactivateNodeRequest,
    "send-node-heartbeat": heartbeat_pb2.SendNodeHeartbeatRequest,
    "pull-messages": fleet_pb2.PullMessagesRequest,
    "push-messages": fleet_pb2.PushMessagesRequest,
    "get-run": run_pb2.GetRunRequest,
    "get-fab": fab_pb2.GetFabRequest,
    "pull-object": message_pb2.PullObjectRequest,
    "push-object": message_pb2.PushObjectRequest,
    "confirm-message-received": message_pb2.ConfirmMessageReceivedRequest,
}
CHUNK = b"ArrayChunk"


@dataclass
class Known:
    """What a value may be: everything the centre said to this site, and what the site is."""

    address: str
    key: EllipticCurvePublicKey
    began: float
    ended: float
    nodes: set[int] = field(default_factory=set)
    runs: set[int] = field(default_factory=set)
    tasks: set[int] = field(default_factory=set)
    """Numbers of tasks, which Flower draws at random on either side."""
    asked: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)
    bundles: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    """What the site pushed, by SHA-256."""
    offered: set[str] = field(default_factory=set)
    """Objects of the centre's messages."""

    @property
    def pem(self) -> bytes:
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def learn(exchanges: list[Exchange], known: Known) -> None:
    """Read what the centre answered, and the objects the site pushed."""
    for one in exchanges:
        if not one.response.first_line.startswith("HTTP/1.1 200"):
            continue
        match one.path.removeprefix(FLEET):
            case "activate-node":
                known.nodes.add(fleet_pb2.ActivateNodeResponse.FromString(one.response.body).node_id)
            case "pull-messages":
                _learn_messages(fleet_pb2.PullMessagesResponse.FromString(one.response.body), known)
            case "push-messages":
                known.sessions.add(fleet_pb2.PushMessagesResponse.FromString(one.response.body).session_id)
            case "get-run":
                known.bundles.add(run_pb2.GetRunResponse.FromString(one.response.body).run.fab_hash)
            case "push-object":
                content = message_pb2.PushObjectRequest.FromString(one.request.body).object_content
                known.objects[hashlib.sha256(content).hexdigest()] = content


def _learn_messages(response: Protobuf, known: Known) -> None:
    for message in response.messages_list:
        known.runs.add(message.metadata.run_id)
        known.nodes.add(message.metadata.src_node_id)
        known.tasks |= {message.metadata.src_task_id, message.metadata.dst_task_id}
        known.asked.add(message.metadata.message_id)
        known.groups.add(message.metadata.group_id)
        known.kinds.add(message.metadata.message_type)
    for tree in response.message_object_trees:
        known.offered |= set(_ids(tree))


def _ids(tree: Protobuf) -> Iterator[str]:
    yield tree.object_id
    for child in tree.children:
        yield from _ids(child)


def _time(known: Known, value: float) -> bool:
    return known.began - 5 <= value <= known.ended + 5


MEANINGS: Mapping[str, tuple[str, Callable[[Known, object], bool]]] = {
    "ActivateNodeRequest.public_key": ("the site's own node key", lambda k, v: v == k.pem),
    "ActivateNodeRequest.heartbeat_interval": ("seconds between signs of life", lambda k, v: v == 30),
    "SendNodeHeartbeatRequest.heartbeat_interval": ("the same", lambda k, v: v == 30),
    "DeactivateNodeRequest.node_id": ("number the centre gave the site", lambda k, v: v in k.nodes),
    "Node.node_id": ("number the centre gave the site", lambda k, v: v in k.nodes),
    "PushMessagesRequest.clientapp_runtime_list": (
        "seconds an answer took",
        lambda k, v: 0 <= v <= k.ended - k.began,
    ),
    "Metadata.run_id": ("the centre's run", lambda k, v: v in k.runs),
    "Metadata.message_id": ("SHA-256 of the reply", lambda k, v: v in k.objects),
    "Metadata.src_node_id": ("the site", lambda k, v: v in k.nodes),
    "Metadata.dst_node_id": ("the centre", lambda k, v: v in k.nodes),
    "Metadata.src_task_id": ("random number of the site's task", lambda k, v: isinstance(v, int)),
    "Metadata.dst_task_id": ("number of the centre's task", lambda k, v: v in k.tasks),
    "Metadata.reply_to_message_id": ("the centre's message", lambda k, v: v in k.asked),
    "Metadata.group_id": ("the centre's label", lambda k, v: v in k.groups),
    "Metadata.ttl": ("seconds the reply is good for", lambda k, v: 0 < v <= 600),
    "Metadata.message_type": ("the centre's word", lambda k, v: v in k.kinds),
    "Metadata.created_at": ("when the reply was made", _time),
    "Error.code": ("Flower's number of an error", lambda k, v: 0 <= v < 100),
    "Error.reason": ("our number of an error", lambda k, v: re.fullmatch(r"\d\d?", v) is not None),
    "ObjectTree.object_id": ("SHA-256 of a pushed object", lambda k, v: v in k.objects),
    "GetRunRequest.run_id": ("the centre's run", lambda k, v: v in k.runs),
    "GetFabRequest.run_id": ("the centre's run", lambda k, v: v in k.runs),
    "GetFabRequest.hash_str": ("SHA-256 of the centre's bundle", lambda k, v: v in k.bundles),
    "PullObjectRequest.run_id": ("the centre's run", lambda k, v: v in k.runs),
    "PullObjectRequest.object_id": ("SHA-256 of an object of the centre", lambda k, v: v in k.offered),
    "ConfirmMessageReceivedRequest.run_id": ("the centre's run", lambda k, v: v in k.runs),
    "ConfirmMessageReceivedRequest.message_object_id": ("the centre's message", lambda k, v: v in k.asked),
    "PushObjectRequest.run_id": ("the centre's run", lambda k, v: v in k.runs),
    "PushObjectRequest.session_id": ("word the centre gave for this upload", lambda k, v: v in k.sessions),
    "PushObjectRequest.object_id": ("SHA-256 of the content", lambda k, v: v in k.objects),
    "PushObjectRequest.object_content": ("a part of a reply: rebuilt below", lambda k, v: True),
}
"""Every field of Flower's messages that a site may send, what it says, and how that is checked."""


def fields(message: Protobuf) -> Iterator[tuple[str, object]]:
    """Every value in a message that is set, by type and field."""
    for descriptor, content in message.ListFields():
        for value in content if descriptor.is_repeated else [content]:
            if descriptor.message_type is not None:
                yield from fields(value)
            else:
                yield f"{message.DESCRIPTOR.name}.{descriptor.name}", value


def unexplained(one: Exchange, known: Known) -> list[str]:
    """Whatever in a request's body is not on the list or not what the list says."""
    kind = REQUESTS.get(one.path.removeprefix(FLEET))
    if kind is None or not one.path.startswith(FLEET):
        return [f"a request to {one.path}"]
    message = kind.FromString(one.request.body)
    odd = [
        f"{name} = {value!r:.80}"
        for name, value in fields(message)
        if name not in MEANINGS or not MEANINGS[name][1](known, value)
    ]
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != one.request.body:
        odd.append(f"bytes beside the fields of {kind.__name__}")
    return odd


HEADERS: Mapping[str, Callable[[Known, str], bool]] = {
    "host": lambda k, v: v == k.address,
    "accept-encoding": lambda k, v: re.fullmatch(r"(gzip|deflate|br|zstd|, )+", v) is not None,
    "connection": lambda k, v: v == "keep-alive",
    "user-agent": lambda k, v: re.fullmatch(r"python-httpx/[\d.]+", v) is not None,
    "content-type": lambda k, v: v == "application/protobuf",
    "accept": lambda k, v: v == "application/protobuf",
    "content-length": lambda k, v: v.isdigit(),
    "flwr-package-name": lambda k, v: v == "flwr",
    "flwr-package-version": lambda k, v: re.fullmatch(r"[\d.]+", v) is not None,
    "flwr-component-name": lambda k, v: v == "SuperNode",
    "flwr-public-key": lambda k, v: base64.b64decode(v) == k.pem,
    "flwr-timestamp": lambda k, v: _time(k, datetime.fromisoformat(v).timestamp()),
    "flwr-signature": lambda k, v: True,  # checked together with the time stamp
}
"""Every header a site may send."""


def odd_head(one: Exchange, known: Known) -> list[str]:
    """Whatever in a request's head is not on the list; a wrong signature of the time stamp, too."""
    headers = one.request.headers
    odd = [f"{n}: {v:.80}" for n, v in headers if n not in HEADERS or not HEADERS[n](known, v)]
    if len(dict(headers)) != len(headers):
        odd.append("a header twice")
    if not re.fullmatch(r"POST [a-z0-9/-]+ HTTP/1\.1", one.request.first_line):
        odd.append(one.request.first_line)
    named = dict(headers)
    signature = base64.b64decode(named["flwr-signature"])
    known.key.verify(signature, named["flwr-timestamp"].encode("ascii"), ECDSA(SHA256()))
    return odd


def replies(exchanges: list[Exchange], known: Known) -> list[Message]:
    """Every message the site pushed, rebuilt from its parts.

    Each part's bytes are compared with those of the rebuilt message: nothing stands in a part that is not in a message.
    """
    messages, explained = [], set()
    for one in exchanges:
        if one.path != f"{FLEET}push-messages":
            continue
        for tree in fleet_pb2.PushMessagesRequest.FromString(one.request.body).message_object_trees:
            contents = {name: known.objects[name] for name in _ids(tree)}
            rebuilt = inflate_object_from_contents(tree.object_id, contents, keep_object_contents=True)
            assert isinstance(rebuilt, Message)
            for name, part in get_all_nested_objects(rebuilt).items():
                assert part.deflate() == known.objects[name]
                explained.add(name)
            messages.append(rebuilt)
    assert explained == set(known.objects), "objects were pushed that belong to no message"
    return messages


def bytes_by_kind(exchanges: list[Exchange]) -> Counter[str]:
    """How many bytes of what the site sent."""
    sizes: Counter[str] = Counter()
    for one in exchanges:
        name = one.path.removeprefix(FLEET)
        body = len(one.request.body)
        if name == "push-object":
            content = message_pb2.PushObjectRequest.FromString(one.request.body).object_content
            payload = len(content.split(b"\x00", 1)[1]) if content.startswith(CHUNK) else 0
            sizes["payloads of receipts"] += payload
            sizes["Flower: names and SHA-256 around them"] += body - payload
        else:
            sizes[f"Flower: {name}"] += body
        sizes["HTTP heads"] += len(one.request.head)
    return sizes
