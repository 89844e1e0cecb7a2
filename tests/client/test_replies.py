"""The reply store keeps bytes, apart by study and request."""

import hashlib
import stat

import pytest

from f2b_client.replies import Pending, Price, ReplyStore
from face2bone_model.contract.errors import RecordsError
from face2bone_model.training.privacy import DpSegment

PRICE = Price(segment=DpSegment(noise_multiplier=1.5, sample_rate=0.25, steps=4), limit=8.0, delta=1e-5)


def test_what_was_kept_is_found_again_byte_for_byte(tmp_path):
    ReplyStore(tmp_path / "replies").keep("a" * 64, "train-001-x", b"\x00\xff bytes")
    assert ReplyStore(tmp_path / "replies").find("a" * 64, "train-001-x") == b"\x00\xff bytes"


def test_another_request_or_another_study_has_no_reply(tmp_path):
    store = ReplyStore(tmp_path)
    store.keep("a" * 64, "train-001-x", b"1")
    assert store.find("a" * 64, "train-001-y") is None
    assert store.find("b" * 64, "train-001-x") is None


def test_replies_are_readable_by_their_owner_only(tmp_path):
    ReplyStore(tmp_path).keep("a" * 64, "train-001-x", b"1")
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("price", [None, PRICE])
@pytest.mark.parametrize("payload", [b"", b"\n\n{}", b"\x00\xff\nbytes"])
def test_a_pending_reply_is_found_again_with_its_price(tmp_path, price, payload):
    pending = Pending(kind="update", payload=payload, price=price)
    ReplyStore(tmp_path).put("a" * 64, "train-001-x", pending)
    assert ReplyStore(tmp_path).find_pending("a" * 64, "train-001-x") == pending
    assert ReplyStore(tmp_path).find_pending("a" * 64, "train-001-y") is None


def test_a_pending_reply_is_no_reply_until_it_is_kept(tmp_path):
    store = ReplyStore(tmp_path)
    store.put("a" * 64, "train-001-x", Pending(kind="update", payload=b"1", price=PRICE))
    assert store.find("a" * 64, "train-001-x") is None
    assert store.named(hashlib.sha256(b"1").hexdigest()) is None
    store.keep("a" * 64, "train-001-x", b"1")
    assert store.find("a" * 64, "train-001-x") == b"1"
    assert store.find_pending("a" * 64, "train-001-x") is None


def test_a_reply_is_found_by_its_digest(tmp_path):
    store = ReplyStore(tmp_path)
    store.keep("a" * 64, "train-001-x", b"1")
    store.keep("b" * 64, "train-001-x", b"2")
    assert store.named(hashlib.sha256(b"2").hexdigest()) == b"2"
    assert store.named(hashlib.sha256(b"3").hexdigest()) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"payload without a line", b"[]\n", b'{"kind": "update"}\n', b'{"kind": "update", "price": 3}\n'],
)
def test_a_damaged_pending_reply_is_named_with_its_mend(tmp_path, content):
    store = ReplyStore(tmp_path)
    store.put("a" * 64, "train-001-x", Pending(kind="update", payload=b"1"))
    (file,) = tmp_path.rglob("*.pending")
    file.write_bytes(content)
    with pytest.raises(RecordsError, match="is damaged") as caught:
        store.find_pending("a" * 64, "train-001-x")
    assert str(file) in caught.value.what
    assert "Remove it" in caught.value.mend
