"""The health service as a probe sees it: a real gRPC server, a real client."""

import queue
import sqlite3
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from f2b_client import anchor
from f2b_client.charges import ChainState
from f2b_client.health import HealthServer, listening_address
from f2b_client.health_checks import disk_serves, every, records_serve
from f2b_client.keys import make_keys, receipt_key
from f2b_client.receipts import write_receipt
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import UsageError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
PARTS = ("link", "executor", "ledger", "disk")


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def parts():
    return dict.fromkeys(PARTS, True)


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def server(parts, address):
    server = HealthServer(address, {name: lambda name=name: parts[name] for name in PARTS})
    yield server
    server.close()


@pytest.fixture
def probe(server, address):
    with grpc.insecure_channel(address) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def check(probe, service=""):
    return probe.Check(health_pb2.HealthCheckRequest(service=service), timeout=20, wait_for_ready=True).status


def test_nothing_serves_before_the_first_look(probe):
    assert {check(probe, name) for name in ("", *PARTS)} == {NOT_SERVING}


@pytest.mark.parametrize("ill", PARTS)
def test_each_part_answers_for_itself_and_the_empty_name_for_all(server, probe, parts, ill):
    server.update()
    assert {check(probe, name) for name in ("", *PARTS)} == {SERVING}
    parts[ill] = False
    server.update()
    assert {name for name in ("", *PARTS) if check(probe, name) == NOT_SERVING} == {"", ill}
    parts[ill] = True
    server.update()
    assert check(probe) == SERVING


def test_an_unknown_part_is_not_found(probe):
    with pytest.raises(grpc.RpcError) as caught:
        check(probe, "patients")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_whoever_watches_hears_of_changes_only(server, probe, parts):
    heard: queue.Queue[int] = queue.Queue()
    stream = probe.Watch(health_pb2.HealthCheckRequest(service="link"))

    def listen():
        try:
            for answer in stream:
                heard.put(answer.status)
        except grpc.RpcError:
            pass

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert heard.get(timeout=20) == NOT_SERVING
    for _ in range(3):
        server.update()
    assert heard.get(timeout=20) == SERVING
    parts["link"] = False
    server.update()
    assert heard.get(timeout=20) == NOT_SERVING
    assert heard.empty()
    stream.cancel()
    thread.join(20)


def test_a_client_that_ends_says_so_to_its_watchers(parts, address):
    server = HealthServer(address, {name: lambda: True for name in PARTS})
    server.update()
    with grpc.insecure_channel(address) as channel:
        stream = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(stream).status == SERVING
        closing = threading.Thread(target=server.close)
        closing.start()
        assert next(stream).status == NOT_SERVING
        stream.cancel()
        closing.join(20)


def test_two_clients_cannot_serve_on_one_port(server, address):
    with pytest.raises(UsageError, match="cannot listen"):
        HealthServer(address, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("9464", "127.0.0.1:9464"),
        ("127.0.0.1:9464", "127.0.0.1:9464"),
        ("0.0.0.0:9464", "0.0.0.0:9464"),
        ("[::1]:9464", "[::1]:9464"),
    ],
)
def test_a_bare_port_means_this_machine_and_others_have_to_be_named(text, expected):
    assert listening_address(text) == expected


@pytest.mark.parametrize("text", [":9464", "host", "host:", "0", "65536", "127.0.0.1:x", "-1", "²"])
def test_an_address_that_names_no_port_or_an_empty_host_is_refused(text):
    with pytest.raises(UsageError, match="not an address"):
        listening_address(text)


def test_a_slow_check_is_asked_now_and_then():
    now, asked = [0.0], []

    def look():
        asked.append(now[0])
        return len(asked) < 2

    cached = every(15.0, look, clock=lambda: now[0])
    results = []
    for second in range(31):
        now[0] = float(second)
        results.append(cached())
    assert asked == [0.0, 15.0, 30.0]
    assert results[:15] == [True] * 15
    assert results[15:] == [False] * 16


@pytest.fixture
def folder(tmp_path):
    folder = SiteFolder(tmp_path)
    make_keys(folder)
    return folder


def write(folder, **more):
    write_receipt(
        folder.receipts, receipt_key(folder), study_hash="0" * 64, phase="train", round_number=1,
        kind="update", payload=b"x", **more,
    )  # fmt: skip


def test_records_of_a_site_that_sent_nothing_yet_are_in_order(folder):
    assert records_serve(folder)
    write(folder)
    assert records_serve(folder)


def test_a_ledger_that_lost_what_a_receipt_saw_does_not_serve(folder):
    write(folder, ledger=ChainState(1, "a" * 64))
    assert not records_serve(folder)


def test_a_disclosure_memory_that_lost_what_a_receipt_saw_does_not_serve(folder):
    """The gate refuses everything then, so that a probe must see it."""
    write(folder, memory=ChainState(1, "a" * 64))
    assert not records_serve(folder)


def test_receipts_that_were_taken_away_do_not_serve(folder):
    note = anchor.Anchor(number=3, digest="a" * 64)
    anchor.write_anchor(folder.path / anchor.FILE, receipt_key(folder), note)
    assert not records_serve(folder)


def test_a_receipt_that_was_edited_does_not_serve(folder):
    write(folder)
    with sqlite3.connect(folder.receipts) as connection:
        connection.execute("UPDATE receipts SET body = replace(body, 'train', 'brain')")
    assert not records_serve(folder)


def test_a_site_without_its_keys_does_not_serve(tmp_path):
    assert not records_serve(SiteFolder(tmp_path))


@pytest.mark.parametrize("name", ["ledger", "receipts"])
def test_a_file_that_is_no_database_or_has_a_damaged_page_does_not_serve(folder, name):
    path = getattr(folder, name)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE more (number INTEGER, text TEXT)")
        connection.executemany("INSERT INTO more VALUES (?, ?)", [(n, "x" * 200) for n in range(400)])
    content = bytearray(path.read_bytes())
    content[4096:12288] = bytes(8192)
    path.write_bytes(content)
    assert not records_serve(folder)
    path.write_bytes(b"not a database, but long enough to be looked at as one" * 100)
    assert not records_serve(folder)


def test_a_disk_serves_while_it_has_room_and_can_be_written(tmp_path):
    folder = SiteFolder(tmp_path)
    assert not disk_serves(folder)  # no state folder to write in
    folder.state.mkdir()
    assert disk_serves(folder, least_free=1)
    assert not disk_serves(folder, least_free=2**62)
    assert list(folder.state.iterdir()) == []
