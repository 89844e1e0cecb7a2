"""The socket between SuperNode and executor: whole frames, and no wait without an end."""

import time

import pytest

from f2b_client import handover
from f2b_client.handover import FILE, LENGTH, Door, connect


@pytest.fixture
def ways(tmp_path, monkeypatch):
    monkeypatch.setattr(handover, "STALL_SECONDS", 0.3)
    door = Door(tmp_path / FILE)
    one = connect(tmp_path / FILE)
    other = door.accept()
    yield one, other
    for end in (one, other, door):
        end.close()


def test_frames_arrive_whole_and_in_order(ways):
    one, other = ways
    one.send([b"", b"a", b"b" * 100_000])
    assert other.receive() == [b"", b"a", b"b" * 100_000]


def test_the_end_of_the_other_side_is_noticed_at_once(ways):
    one, other = ways
    one.close()
    assert other.has_news(5.0)
    with pytest.raises(ConnectionError):
        other.receive()


def test_a_side_that_stops_in_the_middle_of_a_frame_is_given_up(ways):
    one, other = ways
    one._end.sendall(handover.COUNT.pack(1) + LENGTH.pack(10) + b"half")
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        other.receive()
    assert time.monotonic() - began < 5


def test_a_side_that_takes_nothing_is_given_up(ways):
    one, _ = ways
    with pytest.raises(BlockingIOError):
        one.send([b"x" * 50_000_000])
