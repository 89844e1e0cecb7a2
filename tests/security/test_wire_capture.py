"""A site's whole traffic, captured: every byte is explained, no canary is in it, and it went to one address only.

One run for all tests: a real SuperNode and our executor, a TLS proxy that writes everything down, a real SuperLink. A
hostile coordinator tries bundles with code and messages that are not ours; then an honest study runs; then the site is
told to ask elsewhere.
"""

import hashlib
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from accounting import FLEET, HEADERS, MEANINGS, Known, bytes_by_kind, learn, odd_head, replies, unexplained
from canaries import Haystack
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.proto import fleet_pb2
from hospital import Canary, Template
from hostile import signature
from recorder import HttpMessage
from wire_run import BOMB_BYTES, Wire, payload_of, record_wire

from f2b_client.prepare import load_prepared
from face2bone_model.contract.payload import decode
from face2bone_model.contract.reply import read_reply
from face2bone_model.contract.update import unpack
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import load_trainable
from face2bone_model.models.trunk import FrozenTrunk
from face2bone_model.training.evaluate import predict

AS_MALFORMED = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of nothing: what a message in another form comes down to."""


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory, template: Template, trunk: FrozenTrunk) -> Wire:
    return record_wire(tmp_path_factory.mktemp("wire"), template, trunk)


@pytest.fixture(scope="module")
def known(wire: Wire) -> Known:
    key = load_ssh_public_key((wire.folder.keys / "node.pub").read_bytes())
    known = Known(wire.proxy.address, key, wire.began, wire.ended)
    learn(wire.proxy.exchanges, known)
    return known


@pytest.fixture(scope="module")
def sent(wire: Wire, known: Known):
    """Every message the site sent, rebuilt from the captured parts."""
    return replies(wire.proxy.exchanges, known)


@pytest.fixture(scope="module")
def haystack(wire: Wire) -> Haystack:
    return Haystack([wire.proxy.sent_by_site])


# What every byte is


def test_requests_follow_each_other_without_a_byte_between(wire: Wire):
    for number, connection in enumerate(wire.proxy.connections):
        requests = [one.request.bytes for one in wire.proxy.exchanges if one.connection == number]
        assert b"".join(requests) == bytes(connection.plain)


def test_every_field_of_every_request_is_on_the_list_and_says_what_the_list_says(wire: Wire, known: Known):
    for one in wire.proxy.exchanges:
        assert unexplained(one, known) == []


def test_every_header_is_on_the_list_and_the_time_stamps_are_signed(wire: Wire, known: Known):
    for one in wire.proxy.exchanges:
        assert odd_head(one, known) == []


def test_every_payload_is_the_one_array_of_a_message_and_nothing_stands_beside_it(sent):
    for message in sent:
        assert not message.has_error()
        assert list(message.content.keys()) == list(message.content.array_records) == ["payload"]
        (array,) = message.content.array_records["payload"].values()
        assert list(message.content.array_records["payload"]) == ["payload"]
        assert (array.dtype, array.stype, tuple(array.shape)) == ("uint8", "raw", (len(array.data),))


def test_every_payload_on_the_wire_has_its_receipt_and_every_receipt_was_on_the_wire(wire: Wire, sent):
    payloads = [payload_of(message) for message in sent]
    on_the_wire = Counter((hashlib.sha256(payload).hexdigest(), len(payload)) for payload in payloads)
    assert Counter((one.payload_digest, one.size_bytes) for one in wire.receipts) == on_the_wire


def test_the_kinds_of_bytes_sum_to_all_that_were_captured(wire: Wire):
    sizes = bytes_by_kind(wire.proxy.exchanges)
    total = len(wire.proxy.sent_by_site)
    for kind, size in sizes.most_common():
        sys.stdout.write(f"{size:>10,} {size / total:6.1%}  {kind}\n")
    sys.stdout.write(
        f"{total:>10,} 100.0%  {len(wire.proxy.exchanges)} requests, {len(wire.receipts)} receipts\n"
    )
    assert sizes.total() == total
    assert sizes["payloads of receipts"] > 0.3 * total


def test_the_kernel_counted_the_same_bytes_as_the_recorder(wire: Wire):
    if wire.kernel is None:
        pytest.skip("only root may look at packets")
    assert wire.kernel == {one.port: one.encrypted_in for one in wire.proxy.connections}


def test_the_accounting_would_notice_a_header_a_field_or_a_byte_too_many(wire: Wire, known: Known):
    """The lists are not so wide that anything passes."""
    one = next(one for one in wire.proxy.exchanges if one.path == f"{FLEET}push-messages")
    head = one.request.head.replace(b"\r\n\r\n", b"\r\nx-patient: ZQ\r\n\r\n")
    assert odd_head(replace(one, request=HttpMessage(head, one.request.body)), known) == ["x-patient: ZQ"]
    message = fleet_pb2.PushMessagesRequest.FromString(one.request.body)
    message.messages_list[0].metadata.group_id = "P-0001"
    changed = replace(
        one, request=HttpMessage(one.request.head, message.SerializeToString(deterministic=True))
    )
    assert unexplained(changed, known) == ["Metadata.group_id = 'P-0001'"]
    longer = one.request.body + b"\xfa\x3e\x02ZQ"  # field 1007, which no version of Flower has
    assert unexplained(replace(one, request=HttpMessage(one.request.head, longer)), known) == [
        "bytes beside the fields of PushMessagesRequest"
    ]
    assert all(
        "name" not in field and "config" not in field
        for field in [*MEANINGS, *HEADERS]
        if "flwr" not in field
    )


# Where it went


def test_the_site_called_its_coordinator_and_itself_and_nobody_else(wire: Wire):
    assert wire.watcher.samples > 20
    own = {address for address in wire.watcher.listening if address[0] == "127.0.0.1"}
    assert own == wire.watcher.listening
    assert wire.called - own == {("127.0.0.1", wire.proxy.port)}


def test_told_to_ask_elsewhere_the_site_does_not_go(wire: Wire):
    assert wire.redirected
    assert wire.trapped == []


# What the hostile coordinator got


def test_a_bundle_with_code_is_refused_by_number_and_its_code_never_runs(wire: Wire):
    for reply in wire.foreign.values():
        tensors, header = decode(payload_of(reply))
        assert (tensors, header["code"], header["request"]) == ({}, 23, AS_MALFORMED)
    assert not wire.marker.exists()


def test_a_bundle_that_unpacks_to_far_more_is_never_unpacked(wire: Wire):
    (memory,) = (size for name, size in wire.watcher.peak_memory.items() if "--superlink" in name)
    assert memory < BOMB_BYTES


NUMBERS = {
    "a configuration beside the request": 23,
    "a metric beside the request": 23,
    "a configuration alone": 23,
    "nothing at all": 23,
    "a path as the record's name": 23,
    "a patient as the array's name": 23,
    "many arrays": 23,
    "a shape that lies": 23,
    "a pickle by name": 23,
    "a pickle": 23,
    "thirty megabytes": 23,
    "another study": 20,
    "a round the study has not": 23,
    "another model": 22,
    "Flower's own training": 23,
    "Flower's own evaluation": 23,
    "another action": 23,
}


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_a_message_that_is_not_ours_gets_a_number_and_nothing_else(wire: Wire, name: str, number: int):
    tensors, header = decode(payload_of(wire.hostile[name]))
    assert tensors == {}
    assert set(header) == {"kind", "code", "request"}
    assert header["code"] == number
    asked = wire.asked.get(name, b"")
    assert header["request"] in {hashlib.sha256(asked).hexdigest(), AS_MALFORMED}


def test_every_hostile_message_was_tried(wire: Wire):
    assert set(wire.hostile) == set(NUMBERS)


def test_after_all_that_the_honest_study_runs_to_its_end(wire: Wire):
    for name, reply in wire.honest.items():
        answer = read_reply(payload_of(reply), request_digest=hashlib.sha256(wire.asked[name]).hexdigest())
        assert type(answer).__name__ == ("Update" if name.startswith("train") else "SiteStatistics")
    assert payload_of(wire.honest["test"]) == payload_of(wire.honest["test again"])


# Canaries


def test_no_identifier_name_picture_or_path_is_in_the_captured_traffic(wire: Wire, haystack: Haystack):
    places = Counter(canary.place for canary in wire.canaries)
    assert {
        "patient id",
        "patient's name",
        "comment",
        "file name",
        "EXIF",
        "photo file",
        "face pixels",
    } <= set(places)
    assert {"face as floats", "features", "features as floats", "path"} <= set(places)
    assert len(wire.canaries) >= 200
    assert [one for one in wire.canaries if haystack.holds(one.content)] == []


def test_no_score_of_a_patient_is_in_the_captured_traffic(wire: Wire, haystack: Haystack):
    canaries = scores_of(wire)
    assert len(canaries) >= 200
    assert [one.place for one in canaries if haystack.holds(one.content)] == []


def test_no_key_and_no_log_line_is_in_the_captured_traffic(wire: Wire, haystack: Haystack):
    keys = wire.folder.keys
    secrets = [(keys / name).read_bytes().splitlines()[1] for name in ("node", "receipts")]
    lines = [line for path in wire.folder.log.iterdir() for line in path.read_bytes().splitlines()]
    sentences = [line.strip() for line in lines if len(line.split()) >= 5]
    assert len(sentences) >= 20
    assert [one for one in [*secrets, *sentences] if haystack.holds(one)] == []


def test_what_does_leave_would_be_found(wire: Wire, haystack: Haystack):
    """The search can find: the update's own numbers are there."""
    vector = decode(payload_of(wire.honest["train 1"]))[0]["vector"]
    assert haystack.holds(vector[:8].tobytes())
    assert haystack.holds(b"train-1")


def scores_of(wire: Wire) -> list[Canary]:
    """What the site's model said of each patient, for every model that was on the wire, as bytes and as text."""
    cohort = load_prepared(wire.folder).cohort
    model = build_model(wire.study.model, seed=0)
    ours = signature(wire.study)
    canaries = []
    for vector in {one.tobytes(): one for one in wire.vectors}.values():
        load_trainable(model, unpack(vector, ours))
        for row in predict(model, cohort, device="cpu"):
            canaries.append(Canary("score as float64", row.astype(np.float64)[:1].tobytes()))
            canaries.append(Canary("scores as float32", row.astype(np.float32).tobytes()))
            canaries.append(Canary("score as text", f"{row[2]:.7f}".encode()))
    return canaries
