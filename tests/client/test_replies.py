"""The reply store keeps bytes, apart by study and request."""

import stat

from f2b_client.replies import ReplyStore


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
