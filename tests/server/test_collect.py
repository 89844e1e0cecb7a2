"""Collecting: valid replies are kept, every missing one is explained, and nobody waits twice for the silent."""

import json

import numpy as np
import pytest

from f2b_server.collect import Collector
from f2b_server.progress import read_progress
from face2bone_model.contract.errors import EgressError, QuorumError
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.request import Request
from face2bone_model.contract.study import load_study

SITES = ("harbour", "hilltop", "riverside")


@pytest.fixture
def collector(folder, federation):
    return Collector(folder, load_study(folder.study), federation, SITES)


def request(number=1):
    return Request(
        study_hash="a" * 64,
        phase=Phase.TRAIN,
        round=number,
        signature_digest="b" * 64,
        vector=np.zeros(9, np.float32),
    )


def collect(collector, number=1, check=lambda _: None):
    return collector.collect(request(number), check, 5.0)


def events(folder):
    return [
        json.loads(line) for line in (folder.log / "events.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_when_all_answer_all_are_kept_and_nobody_is_asked_twice(collector, federation):
    collected = collect(collector)
    assert set(collected.replies) == set(SITES)
    assert collected.faults == {}
    assert federation.asked == [(site, "train-1") for site in SITES]


def test_a_refusal_becomes_a_fault_with_its_number_and_page(collector, federation):
    federation.faults = [("hilltop", "train-1", 31)]
    collected = collect(collector)
    assert set(collected.replies) == {"harbour", "riverside"}
    assert collected.faults == {"hilltop": "refused with number 31 (docs/exit-codes/31.md)."}
    assert collector.suspended == set()


def test_a_reply_that_fails_its_check_becomes_a_fault_and_the_rest_counts(collector, federation):
    def only_large(reply):
        if reply.num_patients < 100:
            raise EgressError(f"{reply.num_patients} patients are too few.")

    collector.study = load_study(collector.folder.study)
    with pytest.raises(QuorumError, match="harbour: 60 patients are too few"):
        collect(collector, check=only_large)


@pytest.mark.parametrize(
    "damage", [lambda p: p[:-1], lambda p: b"junk", lambda p: p.replace(b"update", b"upd4te")]
)
def test_a_damaged_reply_becomes_a_fault(collector, federation, damage):
    federation.faults = [("hilltop", "train-1", damage)]
    collected = collect(collector)
    assert set(collected.replies) == {"harbour", "riverside"}
    assert set(collected.faults) == {"hilltop"}


def test_a_reply_to_another_round_becomes_a_fault(collector, federation):
    old = federation.sites["hilltop"].answer(request(1).encode())
    federation.faults = [("hilltop", "train-2", lambda _: old)]
    assert "another request" in collect(collector, 2).faults["hilltop"]


def test_a_site_that_missed_a_deadline_is_not_asked_until_it_left_and_came_back(collector, federation):
    federation.faults = [("hilltop", "train-1", "silent")]
    assert "no reply within 5 s" in collect(collector, 1).faults["hilltop"]
    still = collect(collector, 2)
    assert still.faults == {"hilltop": "suspended since it did not answer"}
    assert ("hilltop", "train-2") not in federation.asked
    federation.connected.remove("hilltop")
    collect(collector, 3)
    assert ("hilltop", "train-3") not in federation.asked
    federation.connected.add("hilltop")
    back = collect(collector, 4)
    assert set(back.replies) == set(SITES)
    assert back.faults == {}


def test_below_the_quorum_the_question_is_asked_once_more(collector, federation, folder):
    federation.faults = [("harbour", "train-1", 99), ("hilltop", "train-1", 99)]
    collected = collect(collector)
    assert set(collected.replies) == set(SITES)
    assert [event["event"] for event in events(folder)].count("below-quorum") == 1
    computed = [site.computed for site in federation.sites.values()]
    assert computed[2] == [("train", 1, "test")]  # riverside answered from its store


def test_messages_that_were_lost_are_asked_for_once_more_while_the_site_is_connected(collector, federation):
    federation.faults = [("harbour", "train-1", "silent"), ("hilltop", "train-1", "silent")]
    collected = collect(collector)
    assert set(collected.replies) == set(SITES)
    assert collector.suspended == set()


def test_sites_that_are_gone_are_not_waited_for_a_second_time(collector, federation):
    federation.connected -= {"harbour", "hilltop"}
    with pytest.raises(QuorumError):
        collect(collector)
    assert federation.asked.count(("harbour", "train-1")) == 1
    assert federation.asked.count(("riverside", "train-1")) == 2


def test_twice_below_the_quorum_names_every_missing_site_and_why(collector, federation):
    federation.faults = [(site, "train-1", code) for site, code in (("harbour", 31), ("hilltop", 32))] * 2
    with pytest.raises(QuorumError) as caught:
        collect(collector)
    assert caught.value.code == 41
    text = str(caught.value)
    assert "1 valid replies, 2 needed" in text
    assert "harbour: refused with number 31" in text
    assert "hilltop: refused with number 32" in text
    assert "riverside" not in text
    assert "resumes" in text


def test_waiting_ends_as_soon_as_all_are_connected(collector, federation, folder):
    collector.wait_for_sites(30.0)
    assert read_progress(folder) is None  # it did not have to wait


def test_waiting_goes_on_at_the_deadline_with_a_quorum_and_says_who_is_missing(collector, federation, folder):
    federation.connected.remove("hilltop")
    collector.wait_for_sites(0.2)
    progress = read_progress(folder)
    assert progress.phase == "waiting"
    assert progress.answered == ("harbour", "riverside")
    assert progress.waiting_for == ("hilltop",)
    assert events(folder)[0]["event"] == "waiting"
    assert events(folder)[0]["sites"] == ["hilltop"]


def test_waiting_ends_with_a_number_where_too_few_connect(collector, federation):
    federation.connected = {"hilltop"}
    with pytest.raises(QuorumError, match="Only 1 of 3 sites.*missing: harbour, riverside"):
        collector.wait_for_sites(0.2)


def test_progress_names_phase_and_round_while_asking(collector, folder):
    collect(collector, 2)
    progress = read_progress(folder)
    assert (progress.phase, progress.round, progress.rounds) == ("train", 2, 3)
    assert progress.answered == SITES
