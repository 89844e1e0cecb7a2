"""The executor against a small runtime on loopback that speaks Flower's own protocol over real HTTP."""

import hashlib
import os
import signal
import threading
import time
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
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

from f2b_client.app import PAYLOAD, SiteApp
from f2b_client.egress import Release
from f2b_client.executor import execute
from f2b_client.flower_internals import ACQUIRE, TASK_TYPE
from f2b_client.keys import make_keys
from f2b_client.receipts import read_receipts
from f2b_client.run_executor import next_state, run_executor, waiting_seconds
from f2b_client.settings import ComputeSettings, SiteFolder
from f2b_client.state import State, read_state
from face2bone_model.contract.bundle import study_bundle

SECRET = b"s" * 32
CLIENT = Path(__file__).parents[2] / "client"
OURS = study_bundle()
DIGEST = hashlib.sha256(OURS).hexdigest()


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
    announced: dict = field(default_factory=dict)
    code: int = 500

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
            response.task.fab_hash = self.hash_of("task")
            response.token = "token-7"
        return response.SerializeToString()

    def on_PullTaskInput(self, _):
        context = Context(run_id=5, node_id=42, node_config={}, state=RecordDict(), run_config={})
        run = Run.create_empty(5)
        run.fab_hash = self.hash_of("run")
        fab = Fab(self.hash_of("bundle"), self.bundle, {})
        return runtime_pb2.PullTaskInputResponse(
            context=context_to_proto(context), run=run_to_proto(run), fab=fab_to_proto(fab), task_id=7
        ).SerializeToString()

    def hash_of(self, where):
        return self.announced.get(where, hashlib.sha256(self.bundle).hexdigest())

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
            self.send_response(runtime.code if content is None else 200)
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

    runtime = run(Runtime(query(b"the request"), OURS), SiteApp(answer))
    assert seen == [b"the request"]
    assert runtime.output.sub_status == SubStatus.COMPLETED
    assert not runtime.reply.has_error()
    assert runtime.reply.metadata.reply_to_message_id == runtime.message.metadata.message_id
    assert any(b"reviewed bytes" in body for body in runtime.bodies("PushObject"))
    assert not any(b"the request" in body for body in runtime.bodies("PushObject"))


def refusing(seen):
    """An app that notes what it is asked and answers that it is no request."""

    def answer(payload):
        seen.append(payload)
        return Release(b"number 23")

    return SiteApp(answer)


@pytest.mark.parametrize("name", ["client_app.py", "f2b_client/app.py", "sitecustomize.py"])
def test_a_foreign_bundle_is_refused_through_the_gate_and_its_message_is_not_looked_into(run, name):
    seen = []
    runtime = run(Runtime(query(b"the request"), bundle_with(name)), refusing(seen))
    assert seen == [b""]
    assert not runtime.reply.has_error()
    assert any(b"number 23" in body for body in runtime.bodies("PushObject"))
    assert runtime.output.sub_status == SubStatus.FAILED
    assert runtime.output.details == ""


@pytest.mark.parametrize("bundle", [b"", b"no zip", OURS[:100]], ids=["empty", "text", "cut"])
def test_a_bundle_that_cannot_be_read_is_refused_too(run, bundle):
    seen = []
    run(Runtime(query(b"the request"), bundle), refusing(seen))
    assert seen == [b""]


def test_the_text_of_a_fault_does_not_leave_and_does_not_end_the_executor(run):
    def answer(_):
        raise RuntimeError("patient P-0001 in /srv/photos")

    runtime = run(Runtime(query(), OURS), SiteApp(answer))
    assert (runtime.reply.error.code, runtime.reply.error.reason) == (
        ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
        "99",
    )
    assert runtime.output.sub_status == SubStatus.FAILED
    assert runtime.output.details == ""
    assert not any(b"P-0001" in body or b"/srv" in body for _, body, _ in runtime.told)


@pytest.mark.parametrize("kind", ["train", "evaluate", "query.export"])
def test_a_message_of_another_kind_is_no_request(run, kind):
    seen = []
    runtime = run(Runtime(query(b"the request", kind=kind), OURS), refusing(seen))
    assert seen == [b""]
    assert runtime.output.details == ""


def test_a_message_that_is_not_in_our_form_reaches_the_site_as_no_request(run):
    seen = []

    def answer(payload):
        seen.append(payload)
        return Release(b"refused")

    run(Runtime(query(b"x", name="weights"), OURS), SiteApp(answer))
    assert seen == [b""]


@pytest.mark.parametrize("method", ["PullTaskInput", "PullMessages", "PushMessages"])
def test_a_task_lost_on_the_way_does_not_end_the_executor(run, method):
    runtime = run(Runtime(query(), OURS, fail=method), SiteApp(lambda _: Release(b"x")))
    assert runtime.output.details == ""


def test_only_who_holds_the_secret_acquires_and_each_task_uses_its_own_token(run):
    runtime = run(Runtime(query(), OURS), SiteApp(lambda _: Release(b"x")))
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
            SiteApp(lambda _: Release(b"x")),
            should_stop=should_stop,
            on_idle=lambda: None,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert runtime.output.sub_status == SubStatus.COMPLETED


@pytest.mark.parametrize("where", ["task", "run", "bundle"])
@pytest.mark.parametrize("digest", ["0" * 64, ""])
def test_a_bundle_that_is_not_the_one_announced_is_refused(run, where, digest):
    seen = []
    runtime = run(Runtime(query(b"the request"), OURS, announced={where: digest}), refusing(seen))
    assert seen == [b""]
    assert runtime.output.sub_status == SubStatus.FAILED


def test_a_foreign_bundle_announced_under_our_digest_is_refused(run):
    announced = dict.fromkeys(("task", "run", "bundle"), DIGEST)
    seen = []
    run(Runtime(query(b"the request"), bundle_with("client_app.py"), announced=announced), refusing(seen))
    assert seen == [b""]


class EmptyRuntime(Runtime):
    def on_PullMessages(self, _):
        return runtime_pb2.PullAppMessagesResponse().SerializeToString()


def test_a_task_without_a_message_does_not_end_the_executor(run):
    runtime = run(EmptyRuntime(query(), OURS), SiteApp(lambda _: pytest.fail("was called")))
    assert runtime.output.sub_status == SubStatus.FAILED
    assert runtime.output.details == ""


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("code", [401, 403, 404, 500])
@pytest.mark.parametrize("method", ["PullTaskInput", "PushMessages", "SendTaskHeartbeat"])
def test_a_call_that_is_refused_costs_the_task_at_most_and_never_the_process(run, monkeypatch, method, code):
    def interrupted(*_):
        pytest.fail("Flower tried to end the process")

    monkeypatch.setattr("os.kill", interrupted)
    runtime = run(Runtime(query(), OURS, fail=method, code=code), SiteApp(lambda _: Release(b"x")))
    assert len(runtime.bodies("PullTaskInput")) == 1
    assert runtime.output.details == ""


@pytest.mark.parametrize("method", ["PullTaskInput", "PushMessages"])
def test_a_supernode_that_is_gone_is_waited_for_but_not_for_ever(run, monkeypatch, method):
    monkeypatch.setattr("f2b_client.flower_internals.CALL_SECONDS", 1.0)
    began = time.monotonic()
    runtime = run(Runtime(query(), OURS, fail=method, code=503), SiteApp(lambda _: Release(b"x")))
    assert len(runtime.bodies(method)) > 1
    assert time.monotonic() - began < 15


def test_heartbeats_without_an_answer_do_not_hold_up_the_next_task(run):
    runtime = run(
        Runtime(query(), OURS, fail="SendTaskHeartbeat", code=503), SiteApp(lambda _: Release(b"x"))
    )
    began = time.monotonic()
    assert runtime.output.sub_status == SubStatus.COMPLETED
    assert time.monotonic() - began < 5


def test_the_stock_superexec_and_its_apps_are_never_started_at_a_hospital():
    sources = "".join(path.read_text() for path in CLIENT.rglob("*.py"))
    assert "flower-supernode" in sources
    assert not [name for name in ("flower-superexec", "flwr-clientapp\"", "run_superexec", "install_from_fab")
                if name in sources.replace('TASK_TYPE = "flwr-clientapp"', "")]  # fmt: skip


# --- the process around it ---------------------------------------------------------------------------------------


def site(tmp_path):
    folder = SiteFolder(tmp_path)
    folder.joined.mkdir()
    (folder.joined / "kit.json").write_text('{"site": "north", "study": "Bones", "address": "h:1"}')
    folder.policy.write_text("")
    make_keys(folder)
    return folder


class GivingUpRuntime(Runtime):
    """Tells the executor at its first heartbeat that the task was given up."""

    def on_SendTaskHeartbeat(self, _):
        return runtime_pb2.SendTaskHeartbeatResponse(success=False).SerializeToString()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("kind", [Runtime, GivingUpRuntime])
def test_the_executor_process_answers_by_number_and_ends_when_told(tmp_path, kind):
    folder = site(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    runtime = kind(query(b"no request of ours"), OURS)
    server = serve(runtime)

    def end():
        runtime.done.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    try:
        host, port = server.server_address
        run_executor(folder, f"{host}:{port}", ComputeSettings())
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        server.shutdown()
        server.server_close()
    assert runtime.output.sub_status == SubStatus.COMPLETED
    assert read_state(folder, "executor").doing == "stopped"
    (receipt,) = read_receipts(folder.receipts)
    assert receipt.kind.startswith("error")


def test_a_step_keeps_its_beginning_and_deadline_until_another_begins():
    first = next_state(State(doing="waiting"), "training", 0, 5, "round 1", lambda: 60.0)
    assert first.deadline == pytest.approx(first.since + 60.0)
    second = next_state(first, "training", 3, 5, "round 1", lambda: pytest.fail("was asked again"))
    assert (second.since, second.deadline, second.done) == (first.since, first.deadline, 3)
    time.sleep(0.01)
    again = next_state(second, "training", 1, 5, "round 2", lambda: 60.0)
    assert again.since > first.since
    idle = next_state(again, "waiting", 0, 0, "", lambda: 0.0)
    assert idle.deadline == 0.0


def test_the_deadline_is_the_approved_studys_for_the_phase(tmp_path):
    folder = site(tmp_path)
    assert waiting_seconds(folder, "training") == 0.0
    folder.approved.mkdir()
    text = 'name = "Bones"\nquestion = "?"\nsites = ["north"]\ntrunk_name = "random"\ntrunk_digest = "0"\n'
    (folder.approved / "x.toml").write_text(
        f"{text}[deadlines]\ntrain_seconds = 77.0\nevaluate_seconds = 33.0\n"
    )
    assert waiting_seconds(folder, "training") == 77.0
    assert waiting_seconds(folder, "evaluating") == 33.0
    assert waiting_seconds(folder, "waiting") == 0.0
    (folder.approved / "x.toml").write_text("not toml =")
    assert waiting_seconds(folder, "training") == 0.0
