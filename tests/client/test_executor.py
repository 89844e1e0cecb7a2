"""The executor against a small runtime on loopback that speaks Flower's own protocol over real HTTP."""

import hashlib
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import (
    context_to_proto,
    fab_to_proto,
    message_from_proto,
    message_to_proto,
    run_to_proto,
)
from flwr.proto import message_pb2, runtime_pb2
from flwr.supercore.auth import superexec as superexec_auth
from flwr.supercore.auth.superexec import verify_superexec_request
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from f2b_client.app import PAYLOAD, make_app
from f2b_client.egress import Release
from f2b_client.executor import ACQUIRE, TASK_TYPE, execute
from face2bone_model.contract.bundle import BUNDLE_FILES

SECRET = b"s" * 32
OURS, _ = build_fab_from_files(BUNDLE_FILES)


def bundle_with(name, content=b"raise SystemExit"):
    buffer = BytesIO(OURS)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def query(content=b"request", kind="query", name=PAYLOAD):
    # Flower keeps who is speaking in this class.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 7, 5, 1
    record = RecordDict({name: ArrayRecord({name: Array("uint8", (len(content),), "raw", content)})})
    message = Message(record, 42, kind, group_id="train-1")
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


@dataclass
class Runtime:
    """Hands out one task and keeps whatever it is told."""

    message: Message
    bundle: bytes
    fail: str = ""
    told: list = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    given: bool = False

    def answer(self, method, body, headers):
        self.told.append((method, body, headers))
        if method == self.fail:
            return None
        handler = getattr(self, f"on_{method}", None)
        return handler(body) if handler else b""

    def on_AcquireTask(self, body):
        request = runtime_pb2.AcquireTaskRequest.FromString(body)
        assert list(request.supported_task_types) == [TASK_TYPE]
        response = runtime_pb2.AcquireTaskResponse()
        if not self.given:
            self.given = True
            response.task.task_id = 7
            response.token = "token-7"
        return response.SerializeToString()

    def on_PullTaskInput(self, _):
        context = Context(run_id=5, node_id=42, node_config={}, state=RecordDict(), run_config={})
        run = Run.create_empty(5)
        fab = Fab(hashlib.sha256(self.bundle).hexdigest(), self.bundle, {})
        return runtime_pb2.PullTaskInputResponse(
            context=context_to_proto(context), run=run_to_proto(run), fab=fab_to_proto(fab), task_id=7
        ).SerializeToString()

    def on_PullMessages(self, _):
        return runtime_pb2.PullAppMessagesResponse(
            messages_list=[message_to_proto(self.message)],
            message_object_trees=[get_object_tree(self.message)],
        ).SerializeToString()

    def on_PullObject(self, body):
        wanted = message_pb2.PullObjectRequest.FromString(body).object_id
        content = get_all_nested_objects(self.message)[wanted].deflate()
        return message_pb2.PullObjectResponse(
            object_found=True, object_available=True, object_content=content
        ).SerializeToString()

    def on_PushMessages(self, body):
        request = runtime_pb2.PushAppMessagesRequest.FromString(body)
        ids = [tree.object_id for tree in walk(request.message_object_trees[0])]
        return runtime_pb2.PushAppMessagesResponse(objects_to_push=ids, session_id="s").SerializeToString()

    def on_PushObject(self, _):
        return message_pb2.PushObjectResponse(stored=True).SerializeToString()

    def on_PushTaskOutput(self, _):
        self.done.set()
        return b""

    def on_SendTaskHeartbeat(self, _):
        return runtime_pb2.SendTaskHeartbeatResponse(success=True).SerializeToString()

    def bodies(self, method):
        return [body for name, body, _ in self.told if name == method]

    @property
    def reply(self):
        (body,) = self.bodies("PushMessages")
        return message_from_proto(runtime_pb2.PushAppMessagesRequest.FromString(body).messages_list[0])

    @property
    def output(self):
        (body,) = self.bodies("PushTaskOutput")
        return runtime_pb2.PushTaskOutputRequest.FromString(body)


def walk(tree):
    yield tree
    for child in tree.children:
        yield from walk(child)


def serve(runtime):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            content = runtime.answer(
                "".join(map(str.capitalize, self.path.rsplit("/", 1)[-1].split("-"))),
                body,
                dict(self.headers),
            )
            self.send_response(500 if content is None else 200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server


@pytest.fixture
def run():
    """Run the executor until it is idle after its one task; the runtime knows what it was told."""
    servers = []

    def run_once(runtime, app):
        server = serve(runtime)
        servers.append(server)
        idle = threading.Event()
        host, port = server.server_address
        execute(f"{host}:{port}", SECRET, app, should_stop=idle.is_set, on_idle=idle.set)
        return runtime

    yield run_once
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_request_is_answered_with_the_bytes_of_the_release_and_nothing_else(run):
    seen = []

    def answer(payload):
        seen.append(payload)
        return Release(b"reviewed bytes")

    runtime = run(Runtime(query(b"the request"), OURS), make_app(answer))
    assert seen == [b"the request"]
    assert runtime.output.sub_status == SubStatus.COMPLETED
    assert not runtime.reply.has_error()
    assert runtime.reply.metadata.reply_to_message_id == runtime.message.metadata.message_id
    assert any(b"reviewed bytes" in body for body in runtime.bodies("PushObject"))
    assert not any(b"the request" in body for body in runtime.bodies("PushObject"))


@pytest.mark.parametrize("name", ["client_app.py", "f2b_client/app.py", "sitecustomize.py"])
def test_a_foreign_bundle_is_refused_by_number_and_the_app_is_not_called(run, name):
    runtime = run(Runtime(query(), bundle_with(name)), make_app(lambda _: pytest.fail("was called")))
    assert runtime.reply.error.code == ErrorCode.INVALID_FAB
    assert runtime.reply.error.reason == "23"
    assert runtime.output.sub_status == SubStatus.FAILED
    assert runtime.output.details == ""


@pytest.mark.parametrize("bundle", [b"", b"no zip", OURS[:100]], ids=["empty", "text", "cut"])
def test_a_bundle_that_cannot_be_read_is_refused_too(run, bundle):
    runtime = run(Runtime(query(), bundle), make_app(lambda _: pytest.fail("was called")))
    assert runtime.reply.error.reason == "23"


def test_the_text_of_a_fault_does_not_leave_and_does_not_end_the_executor(run):
    def answer(_):
        raise RuntimeError("patient P-0001 in /srv/photos")

    runtime = run(Runtime(query(), OURS), make_app(answer))
    assert (runtime.reply.error.code, runtime.reply.error.reason) == (
        ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
        "99",
    )
    assert runtime.output.sub_status == SubStatus.FAILED
    assert runtime.output.details == ""
    assert not any(b"P-0001" in body or b"/srv" in body for _, body, _ in runtime.told)


def test_a_message_of_a_kind_we_do_not_answer_fails_without_a_word(run):
    runtime = run(Runtime(query(kind="train"), OURS), make_app(lambda _: pytest.fail("was called")))
    assert runtime.output.sub_status == SubStatus.FAILED
    assert runtime.output.details == ""


def test_a_message_that_is_not_in_our_form_reaches_the_site_as_no_request(run):
    seen = []

    def answer(payload):
        seen.append(payload)
        return Release(b"refused")

    run(Runtime(query(b"x", name="weights"), OURS), make_app(answer))
    assert seen == [b""]


@pytest.mark.parametrize("method", ["PullTaskInput", "PullMessages", "PushMessages"])
def test_a_task_lost_on_the_way_does_not_end_the_executor(run, method):
    runtime = run(Runtime(query(), OURS, fail=method), make_app(lambda _: Release(b"x")))
    assert runtime.output.details == ""


def test_only_who_holds_the_secret_acquires_and_each_task_uses_its_own_token(run):
    runtime = run(Runtime(query(), OURS), make_app(lambda _: Release(b"x")))
    acquired = [headers for method, _, headers in runtime.told if method == "AcquireTask"]
    names = {key.lower() for key in acquired[0]}
    signed = {value for name, value in vars(superexec_auth).items() if name.endswith("_HEADER")}
    assert signed
    assert signed <= names
    assert not any(SECRET in str(headers).encode() for _, _, headers in runtime.told)
    pulled = [headers for method, _, headers in runtime.told if method == "PullTaskInput"]
    assert "token-7" in pulled[0].values()
    assert ACQUIRE.endswith("/AcquireTask")
    assert callable(verify_superexec_request)


def test_a_supernode_that_does_not_answer_is_tried_again(run, monkeypatch):
    monkeypatch.setattr("f2b_client.executor.RETRY_SECONDS", 0.01)
    runtime = Runtime(query(), OURS, fail="AcquireTask")
    asked = []

    def should_stop():
        asked.append(1)
        if len(asked) == 3:
            runtime.fail = ""
        return runtime.done.is_set()

    server = serve(runtime)
    try:
        host, port = server.server_address
        execute(
            f"{host}:{port}",
            SECRET,
            make_app(lambda _: Release(b"x")),
            should_stop=should_stop,
            on_idle=lambda: None,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert runtime.output.sub_status == SubStatus.COMPLETED
