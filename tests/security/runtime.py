"""A SuperNode's runtime on loopback that hands out one task after another and keeps all it is told."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from coordinator import message
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import context_to_proto, fab_to_proto, message_to_proto, run_to_proto
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import Message as Protobuf

SECRET = b"s" * 32
NODE, RUN = 42, 5


class Runtime:
    """Answers the executor as the SuperNode would; `heard` is every byte the executor said, head and body."""

    def __init__(self, bundle: bytes) -> None:
        self._bundle = bundle
        self._message: Message | None = None
        self._waiting = False
        self._finished = threading.Event()
        self.heard: list[bytes] = []

    def ask(self, content: bytes, kind: str = "query") -> list[bytes]:
        """Hand a task out, wait until it is finished; what was said about it."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 7, RUN, 1
        self._message = message(NODE, content, kind=kind)
        self._message.metadata.__dict__["_message_id"] = self._message.object_id
        self.heard = []
        self._finished.clear()
        self._waiting = True
        assert self._finished.wait(60), "the executor did not finish its task"
        return self.heard

    def answer(self, method: str, body: bytes) -> Protobuf:
        handler = getattr(self, f"_on_{method}", None)
        return handler(body) if handler else runtime_pb2.PushTaskOutputResponse()

    def _on_PullMessages(self, _: bytes) -> Protobuf:
        return runtime_pb2.PullAppMessagesResponse(
            messages_list=[message_to_proto(self._message)],
            message_object_trees=[get_object_tree(self._message)],
        )

    def _on_PullObject(self, body: bytes) -> Protobuf:
        wanted = message_pb2.PullObjectRequest.FromString(body).object_id
        content = get_all_nested_objects(self._message)[wanted].deflate()
        return message_pb2.PullObjectResponse(
            object_found=True, object_available=True, object_content=content
        )

    def _on_PushMessages(self, body: bytes) -> Protobuf:
        trees = runtime_pb2.PushAppMessagesRequest.FromString(body).message_object_trees
        names = [part.object_id for tree in trees for part in iterate_object_tree(tree)]
        return runtime_pb2.PushAppMessagesResponse(objects_to_push=names, session_id="s")

    def _on_PushObject(self, _: bytes) -> Protobuf:
        return message_pb2.PushObjectResponse(stored=True)

    def _on_SendTaskHeartbeat(self, _: bytes) -> Protobuf:
        return runtime_pb2.SendTaskHeartbeatResponse(success=True)

    def _on_PushTaskOutput(self, _: bytes) -> Protobuf:
        self._finished.set()
        return runtime_pb2.PushTaskOutputResponse()

    def _on_AcquireTask(self, _: bytes) -> Protobuf:
        response = runtime_pb2.AcquireTaskResponse()
        if self._waiting:
            self._waiting = False
            response.task.task_id = 7
            response.task.fab_hash = hashlib.sha256(self._bundle).hexdigest()
            response.token = "token-7"
        return response

    def _on_PullTaskInput(self, _: bytes) -> Protobuf:
        digest = hashlib.sha256(self._bundle).hexdigest()
        run = Run.create_empty(RUN)
        run.fab_hash = digest
        return runtime_pb2.PullTaskInputResponse(
            context=context_to_proto(Context(RUN, NODE, {}, RecordDict(), {})),
            run=run_to_proto(run),
            fab=fab_to_proto(Fab(digest, self._bundle, {})),
            task_id=7,
        )


@contextmanager
def serving(runtime: Runtime) -> Iterator[str]:
    """The address it listens on."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            method = "".join(map(str.capitalize, self.path.rsplit("/", 1)[-1].split("-")))
            if method != "AcquireTask":
                runtime.heard += [self.requestline.encode(), bytes(self.headers), body]
            content = runtime.answer(method, body).SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/protobuf")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield "{}:{}".format(*server.server_address)
    finally:
        server.shutdown()
        server.server_close()
