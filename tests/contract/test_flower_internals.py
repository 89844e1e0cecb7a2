"""Every Flower-internal name the two sides use: an upgrade of Flower fails here first, by name."""

import ast
import hashlib
import importlib
import importlib.metadata
import inspect
import logging
from pathlib import Path

import httpx
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.clientapp import ClientApp
from flwr.common.constant import (
    HEARTBEAT_BASE_MULTIPLIER,
    HEARTBEAT_CALL_TIMEOUT,
    HEARTBEAT_DEFAULT_INTERVAL,
    HEARTBEAT_RANDOM_RANGE,
    MAX_RETRY_DELAY,
    ErrorCode,
    SubStatus,
)
from flwr.common.serde import fab_from_proto, fab_to_proto, user_config_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListRunsRequest,
    ListRunsResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
    StartRunRequest,
    StartRunResponse,
    StopRunRequest,
)
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.proto.task_pb2 import Task
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.logger import FLOWER_LOGGER
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection, start_client_internal
from flwr.supernode.cli import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from f2b_client import flower_internals
from f2b_client.flower_internals import ACQUIRE, HTTP_CLIENT, TASK_TYPE, UNPACKER
from f2b_client.link import FRESH_SECONDS, heard
from f2b_server.flower_control import COMPLETED, FINISHED
from face2bone_model.contract.bundle import study_bundle

ROOT = Path(__file__).parents[2]
USERS = (
    "client/f2b_client/app.py",
    "client/f2b_client/executor.py",
    "client/f2b_client/flower_internals.py",
    "server/f2b_server/app.py",
    "server/f2b_server/flower_control.py",
)


def imported_from_flower():
    for file in USERS:
        for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr"):
                for alias in node.names:
                    yield node.module, alias.name


NAMES = sorted(set(imported_from_flower()))


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[f"{module}.{name}" for module, name in NAMES])
def test_every_name_we_import_is_there(module, name):
    assert hasattr(importlib.import_module(module), name)


def test_this_file_imports_every_internal_name_the_two_sides_import():
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    here = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("flwr")
        for alias in node.names
    }
    assert set(NAMES) <= here


SIGNATURES = [
    (
        RuntimeHttpClient.from_server_address,
        "server_address insecure root_certificates interceptors retry_invoker",
    ),
    (ControlHttpClient.from_server_address, "server_address insecure root_certificates interceptors"),
    (RuntimeVersionHttpInterceptor, "component_name"),
    (RuntimeTokenHttpInterceptor, "token"),
    (SuperExecAuthHttpInterceptor, "master_secret protected_methods"),
    (make_simple_http_retry_invoker, ""),
    (flower_supernode, ""),
    (make_task_heartbeat_fn_http, "client"),
    (HeartbeatSender, "heartbeat_fn"),
    (pull_task_input, "client"),
    (push_message, "client message context"),
    (push_task_output, "client context sub_status details"),
    (fab_to_proto, "fab"),
    (user_config_to_proto, "user_config"),
    (Fab, "hash_str content verifications"),
    (ProtobufClientInterceptor.intercept, "self context call_next"),
    (CliClientHttpInterceptor, ""),
    (ClientApp.__call__, "self message context"),
    (ClientApp.query, "self action mods"),
    (ServerApp.main, "self"),
    (Grid.get_node_ids, "self"),
    (Grid.push_messages, "self messages"),
    (Grid.pull_messages, "self message_ids"),
    (Array, "dtype shape stype data"),
    (Error, "code reason"),
]


@pytest.mark.parametrize(
    ("target", "names"), SIGNATURES, ids=[target.__qualname__ for target, _ in SIGNATURES]
)
def test_it_takes_the_parameters_we_give(target, names):
    parameters = inspect.signature(target).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters.values())
    assert open_ended or set(names.split()) <= set(parameters)
    needed = {n for n, one in parameters.items() if one.default is one.empty and one.kind not in (2, 4)}
    assert needed <= set(names.split())


@pytest.mark.parametrize(
    ("client", "method"),
    [
        (RuntimeHttpClient, "AcquireTask"),
        (RuntimeHttpClient, "close"),
        (ControlHttpClient, "ListRuns"),
        (ControlHttpClient, "RegisterNode"),
        (ControlHttpClient, "StartRun"),
        (ControlHttpClient, "StopRun"),
        (ControlHttpClient, "close"),
        (HeartbeatSender, "start"),
        (HeartbeatSender, "stop"),
        (RuntimeHttpClient, "PullTaskInput"),
    ],
)
def test_the_calls_we_make_are_there(client, method):
    assert callable(getattr(client, method))


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (AcquireTaskRequest, {"supported_task_types"}),
        (AcquireTaskResponse, {"task", "token"}),
        (ListRunsRequest, {"run_id"}),
        (ListRunsResponse, {"run_dict"}),
        (RegisterNodeRequest, {"public_key", "name"}),
        (RegisterNodeResponse, {"node_id"}),
        (StartRunRequest, {"fab", "override_config", "federation"}),
        (StartRunResponse, {"run_id"}),
        (StopRunRequest, {"run_id"}),
    ],
)
def test_the_messages_have_the_fields_we_use(message, fields):
    assert fields <= {field.name for field in message.DESCRIPTOR.fields}


def test_a_runs_status_has_the_parts_we_read():
    run = (
        ListRunsResponse.DESCRIPTOR.fields_by_name["run_dict"]
        .message_type.fields_by_name["value"]
        .message_type
    )
    status = run.fields_by_name["status"].message_type
    assert {"status", "sub_status", "details"} <= {field.name for field in status.fields}
    from flwr.common.constant import Status

    assert (Status.FINISHED, SubStatus.COMPLETED) == (FINISHED, COMPLETED)


def test_our_bundle_survives_the_wire():
    bundle = study_bundle()
    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    assert fab_from_proto(fab_to_proto(fab)) == fab


def test_a_runs_configuration_survives_the_wire():
    config = {"study-folder": "/srv/study", "nodes": '{"harbour": 18446744073709551615}'}
    assert user_config_from_proto(user_config_to_proto(config)) == config


def test_the_task_type_and_method_we_name_are_flowers():
    assert TASK_TYPE == TaskType.CLIENT_APP
    assert f'"{ACQUIRE}"' in inspect.getsource(RuntimeHttpClient.AcquireTask)


def test_task_and_run_name_the_bundle_they_mean():
    assert "fab_hash" in {field.name for field in Task.DESCRIPTOR.fields}
    assert Run.create_empty(1).fab_hash == ""


def test_a_retry_can_be_bounded_and_told_what_is_final():
    """Flower's own rule sends SIGINT to the process when a token is refused; ours takes its place."""
    retries = make_simple_http_retry_invoker()
    assert retries.max_time is None
    tries = []

    def fail():
        tries.append(1)
        raise httpx.ConnectError("gone")

    retries.max_time = 0.0
    retries.should_giveup = lambda _: False
    with pytest.raises(httpx.ConnectError):
        retries.invoke(fail)
    assert len(tries) == 1


def test_a_heartbeat_without_success_raises_an_interrupt_which_the_executor_survives():
    assert "signal.raise_signal(signal.SIGINT)" in inspect.getsource(make_task_heartbeat_fn_http)


def test_the_command_is_the_one_flower_installs_and_returns_when_polling_ended():
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="flower-supernode")
    assert command.load() is flower_supernode
    source = inspect.getsource(http_request_response)
    assert "log(ERROR, exc)" in source.split("except Exception as exc")[1]  # told, and not raised again


def test_flower_says_that_a_try_failed_in_the_words_the_link_listens_for():
    (line,) = [
        one for one in inspect.getsource(make_simple_http_retry_invoker).splitlines() if "retrying in" in one
    ]
    record = logging.LogRecord("flwr", logging.WARNING, "", 1, line.strip().strip('",'), (1.0,), None)
    assert heard(record) == "disconnected"
    assert FLOWER_LOGGER.name == "flwr"


def test_a_live_supernode_gives_a_sign_of_life_more_often_than_a_link_counts_as_stalled():
    longest = (HEARTBEAT_DEFAULT_INTERVAL - HEARTBEAT_CALL_TIMEOUT) * (
        HEARTBEAT_BASE_MULTIPLIER + HEARTBEAT_RANDOM_RANGE[1]
    )
    assert 2 * longest <= FRESH_SECONDS["polling"]
    assert FRESH_SECONDS["disconnected"] >= MAX_RETRY_DELAY + 2 * 25


def test_the_numbers_we_answer_with_exist():
    assert isinstance(ErrorCode.INVALID_FAB, int)
    assert isinstance(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, int)
    assert isinstance(SubStatus.FAILED, str)


def test_an_error_reply_carries_our_number_and_answers_its_message():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    question = Message(RecordDict(), 42, "query", ttl=60)
    question.metadata.__dict__["_message_id"] = question.object_id
    reply = Message(Error(ErrorCode.INVALID_FAB, "23"), reply_to=question)
    assert reply.has_error()
    assert (reply.error.code, reply.error.reason) == (ErrorCode.INVALID_FAB, "23")
    assert reply.metadata.reply_to_message_id == question.object_id


def test_bytes_in_an_array_come_back_as_they_were():
    payload = bytes(range(256))
    record = RecordDict({"payload": ArrayRecord({"payload": Array("uint8", (256,), "raw", payload)})})
    assert record.array_records["payload"]["payload"].data == payload
    assert set(record.keys()) == set(record.array_records) == {"payload"}


def test_a_context_has_the_configuration_the_server_reads():
    assert Context(1, 2, {}, RecordDict(), {"study-folder": "x"}).run_config["study-folder"] == "x"


def test_the_clients_refuse_root_certificates_without_tls():
    with pytest.raises(ValueError, match="insecure"):
        RuntimeHttpClient.from_server_address("127.0.0.1:1", True, b"x", interceptors=[])


def test_what_the_supernode_is_held_to_is_where_flower_looks_it_up():
    assert getattr(fleet_http_connection, HTTP_CLIENT) is FleetHttpClient
    assert callable(getattr(start_client_internal, UNPACKER))
    for module, name in ((fleet_http_connection, HTTP_CLIENT), (start_client_internal, UNPACKER)):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        assert any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree)), name


def test_the_supernodes_client_does_not_follow_redirects(monkeypatch):
    import httpx

    monkeypatch.setattr(flower_internals, "flower_supernode", lambda: None)
    for module, name in ((fleet_http_connection, HTTP_CLIENT), (start_client_internal, UNPACKER)):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    flower_internals.run_supernode()
    steady = getattr(fleet_http_connection, HTTP_CLIENT)
    client = steady.__new__(steady)
    monkeypatch.setattr(
        FleetHttpClient,
        "__init__",
        lambda self: setattr(self, "_client", httpx.Client(follow_redirects=True)),
    )
    steady.__init__(client)
    assert client._client.follow_redirects is False
    assert getattr(start_client_internal, UNPACKER)(b"a bundle", {}) == {}
