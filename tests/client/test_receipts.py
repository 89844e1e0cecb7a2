"""Receipts are chained and signed: whatever was changed, removed or moved is noticed."""

import hashlib
import json
import sqlite3
from contextlib import closing

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from f2b_client.charges import FIRST, ChainState
from f2b_client.receipts import read_receipts, verify_receipts, write_receipt
from face2bone_model.contract.errors import RecordsError

KEY = Ed25519PrivateKey.generate()
PAYLOADS = (b"one", b"two", b"three", b"four")


def write(path, payload, key=KEY, kind="update"):
    return write_receipt(
        path,
        key,
        study_hash="a" * 64,
        phase="train",
        round_number=1,
        kind=kind,
        payload=payload,
        to="centre.example:9092",
        ledger=ChainState(2, "c" * 64),
    )


@pytest.fixture
def receipts(tmp_path):
    path = tmp_path / "receipts.db"
    for payload in PAYLOADS:
        write(path, payload)
    return path


def change(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


def fault(path):
    return verify_receipts(path, KEY.public_key())


def test_a_receipt_says_what_left_and_names_the_one_before(receipts):
    read = read_receipts(receipts)
    assert [receipt.number for receipt in read] == [1, 2, 3, 4]
    assert [receipt.payload_digest for receipt in read] == [hashlib.sha256(p).hexdigest() for p in PAYLOADS]
    assert [receipt.size_bytes for receipt in read] == [len(p) for p in PAYLOADS]
    assert [receipt.previous for receipt in read] == [FIRST, *(receipt.digest() for receipt in read[:-1])]
    assert {(one.to, one.ledger_rows, one.ledger_head) for one in read} == {
        ("centre.example:9092", 2, "c" * 64)
    }


@pytest.mark.parametrize("kind", ["update", "statistics"])
def test_what_leaves_for_the_first_time_has_one_receipt_however_often_it_is_written(tmp_path, kind):
    path = tmp_path / "receipts.db"
    assert write(path, b"one", kind=kind) == write(path, b"one", kind=kind)
    write(path, b"two", kind=kind)
    assert [one.kind for one in read_receipts(path)] == [kind, kind]


def test_a_repeat_or_a_refusal_has_a_receipt_each_time(tmp_path):
    path = tmp_path / "receipts.db"
    for kind in ("update", "repeat", "repeat", "error 31", "error 31", "update"):
        write(path, b"one", kind=kind)
    assert [one.kind for one in read_receipts(path)] == ["update", "repeat", "repeat", "error 31", "error 31"]


def test_an_untouched_chain_has_no_fault(receipts, tmp_path):
    assert fault(receipts) == ""
    assert verify_receipts(tmp_path / "none.db", KEY.public_key()) == ""
    assert read_receipts(tmp_path / "never.db") == ()


def test_the_chain_goes_on_after_a_restart(receipts):
    write(receipts, b"five")
    assert fault(receipts) == ""
    assert read_receipts(receipts)[-1].number == 5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", "2020-01-01T00:00:00.000+00:00"),
        ("study_hash", "b" * 64),
        ("phase", "evaluate"),
        ("round", 9),
        ("kind", "statistics"),
        ("size_bytes", 1),
        ("payload_digest", "0" * 64),
        ("to", "elsewhere.example:9092"),
        ("ledger_rows", 1),
        ("ledger_head", "1" * 64),
        ("previous", "0" * 63 + "1"),
        ("number", 7),
    ],
)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_any_edited_field_of_any_receipt_is_noticed(receipts, field, value, number):
    body = json.loads(json.dumps(vars(read_receipts(receipts)[number - 1])))
    text = json.dumps({**body, field: value}, sort_keys=True, separators=(",", ":"))
    change(receipts, "UPDATE receipts SET body = ? WHERE number = ?", text, number)
    assert fault(receipts) in {
        f"Receipt {number} is not signed by this site: it was changed.",
        f"Receipt {number} does not follow receipt {number - 1}: one of them was changed.",
        f"Receipt {number} is missing.",
    }


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_removed_receipt_is_noticed(receipts, number):
    change(receipts, "DELETE FROM receipts WHERE number = ?", number)
    assert fault(receipts) == f"Receipt {number} is missing."


def test_a_removed_receipt_is_noticed_even_if_the_rest_is_numbered_anew(receipts):
    change(receipts, "DELETE FROM receipts WHERE number = 2")
    change(receipts, "UPDATE receipts SET number = 2 WHERE number = 3")
    change(receipts, "UPDATE receipts SET number = 3 WHERE number = 4")
    assert fault(receipts).startswith("Receipt 2 ")


def test_swapped_receipts_are_noticed(receipts):
    change(receipts, "UPDATE receipts SET number = 9 WHERE number = 2")
    change(receipts, "UPDATE receipts SET number = 2 WHERE number = 3")
    change(receipts, "UPDATE receipts SET number = 3 WHERE number = 9")
    assert fault(receipts).startswith("Receipt 2 ")


def test_a_receipt_signed_with_another_key_is_noticed(receipts):
    write(receipts, b"forged", Ed25519PrivateKey.generate())
    assert fault(receipts) == "Receipt 5 is not signed by this site: it was changed."


@pytest.mark.parametrize("body", ["", "{", "[]", '{"number": 2}', '{"number": 2, "more": 1}', "null"])
def test_a_receipt_that_cannot_be_read_is_a_sentence_and_no_fault_of_ours(receipts, body):
    change(receipts, "UPDATE receipts SET body = ? WHERE number = 2", body)
    assert fault(receipts) == "Receipt 2 cannot be read: it was changed."
    with pytest.raises(RecordsError, match="Receipt 2 cannot be read"):
        read_receipts(receipts)


def test_a_signature_that_is_no_bytes_is_noticed(receipts):
    change(receipts, "UPDATE receipts SET signature = 'signed' WHERE number = 3")
    assert fault(receipts) == "Receipt 3 is not signed by this site: it was changed."


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\0" + b"?" * 500, b"not a database at all, but text" * 9]
)
def test_a_file_that_is_no_database_is_a_numbered_sentence(tmp_path, content):
    path = tmp_path / "receipts.db"
    path.write_bytes(content)
    with pytest.raises(RecordsError, match=r"receipts\.db cannot be read"):
        read_receipts(path)
    with pytest.raises(RecordsError, match=r"receipts\.db cannot be used"):
        write(path, b"one")


def test_a_file_that_a_crash_left_empty_holds_no_receipts_and_takes_the_first(tmp_path):
    path = tmp_path / "receipts.db"
    path.touch()
    assert read_receipts(path) == ()
    assert write(path, b"one").number == 1


def test_a_copy_on_a_medium_that_cannot_be_written_is_read(receipts, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "receipts.db").write_bytes(receipts.read_bytes())
    (copy / "receipts.db").chmod(0o400)
    copy.chmod(0o500)
    assert fault(copy / "receipts.db") == ""
    assert len(read_receipts(copy / "receipts.db")) == 4
    assert [path.name for path in copy.iterdir()] == ["receipts.db"] or copy.owner() == "root"


@given(position=st.integers(0, 63), bit=st.integers(0, 7))
def test_a_signature_with_one_other_bit_is_noticed(tmp_path_factory, position, bit):
    path = tmp_path_factory.mktemp("receipts") / "receipts.db"
    write(path, b"one")
    with closing(sqlite3.connect(path)) as connection, connection:
        signature = bytearray(connection.execute("SELECT signature FROM receipts").fetchone()[0])
        signature[position] ^= 1 << bit
        connection.execute("UPDATE receipts SET signature = ?", (bytes(signature),))
    assert "not signed" in fault(path)
