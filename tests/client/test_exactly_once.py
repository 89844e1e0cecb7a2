"""Exactly once: killed anywhere between "asked" and "sent", a site loses no receipt and pays for nothing twice."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from crash_driver import (
    ASKED,
    LABELS,
    POLICY,
    SEGMENT,
    SIGNATURE,
    STUDY,
    answer,
    new_site,
    request_of,
    trained,
)
from subjects import subject_of

from f2b_client.egress import Gate
from f2b_client.keys import receipt_key
from f2b_client.receipts import read_receipts, verify_receipts
from f2b_client.replies import ReplyStore
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import BudgetError, EgressError, ProcessError, RecordsError
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.payload import decode
from face2bone_model.contract.policy import PrivacyPolicy, ReleasePolicy

DRIVER = Path(__file__).with_name("crash_driver.py")
LIVES = 68


@pytest.fixture(scope="module")
def lives(tmp_path_factory):
    root = tmp_path_factory.mktemp("lives")
    done = subprocess.run(
        [sys.executable, DRIVER, root, "20261123", str(LIVES)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [SiteFolder(path) for path in sorted(root.glob("site-*"))]


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def test_at_least_fifty_processes_were_killed_at_points_all_over_the_gate(lives):
    told, sites = lives
    assert len(sites) == LIVES
    assert told["killed"] >= 50
    assert told["lines"] > 1000


def test_nothing_was_charged_twice_and_everything_that_left_was_charged(lives):
    for folder in lives[1]:
        charges = Gate(folder, "harbour", POLICY).ledger.charges
        assert [charge.round for charge in charges] == [1, 2], folder.path
        final = {path.read_bytes() for path in folder.replies.rglob("train-*.safetensors")}
        assert {charge.payload_digest for charge in charges} == {
            hashlib.sha256(payload).hexdigest() for payload in final
        }


def test_every_request_was_answered_with_the_same_bytes_before_and_after_the_kill(lives):
    for folder in lives[1]:
        sent = defaultdict(set)
        for line in lines(folder.path / "sent.txt"):
            key, digest = line.split()
            sent[key].add(digest)
        assert set(sent) == {request_of(*asked).key for asked in ASKED}
        assert all(len(digests) == 1 for digests in sent.values()), folder.path


def test_no_receipt_is_lost_and_none_of_a_first_release_is_written_twice(lives):
    for folder in lives[1]:
        receipts = read_receipts(folder.receipts)
        sent = Counter(line.split()[1] for line in lines(folder.path / "sent.txt"))
        written = Counter(receipt.payload_digest for receipt in receipts)
        assert all(written[digest] >= times for digest, times in sent.items()), folder.path
        first = Counter(receipt.payload_digest for receipt in receipts if receipt.kind != "repeat")
        assert set(first) == set(sent)
        assert set(first.values()) == {1}


def test_the_chain_of_every_site_verifies(lives):
    for folder in lives[1]:
        assert verify_receipts(folder.receipts, receipt_key(folder).public_key()) == ""
        assert not list(folder.replies.rglob("*.pending"))


def test_a_finished_reply_is_never_trained_again(lives):
    """A second training happens only where the kill came before the first was on disk."""
    for folder in lives[1]:
        for line, times in Counter(lines(folder.path / "trained.txt")).items():
            assert times <= 3, line  # a life each, none of the first two to the end


def let_out(gate, number=1, update=None):
    return gate.release_update(
        request_of(Phase.TRAIN, number),
        update or trained(),
        subject=subject_of(LABELS, "validation"),
        study=STUDY,
        signature=SIGNATURE,
        segment=SEGMENT,
    )


@pytest.fixture
def gate(tmp_path):
    return Gate(new_site(tmp_path / "site"), "harbour", POLICY)


def interrupted(gate, monkeypatch, where, number=1):
    """A gate that fails at one step of a release, as a full disk would make it."""

    def fail(*_args, **_kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(where, fail)
        with pytest.raises(OSError, match="no space"):
            let_out(gate, number)


CHARGE, RECEIPT = "f2b_client.ledger.Ledger.charge", "f2b_client.records.write_receipt"
KEEP = "f2b_client.replies.ReplyStore.keep"


@pytest.mark.parametrize("where", [CHARGE, RECEIPT, KEEP])
def test_what_was_finished_leaves_when_asked_again_without_a_second_training(gate, monkeypatch, where):
    interrupted(gate, monkeypatch, where)
    made = ReplyStore(gate.folder.replies).find_pending(STUDY.hash(), request_of(Phase.TRAIN, 1).key)
    release = Gate(gate.folder, "harbour", POLICY).again(request_of(Phase.TRAIN, 1))
    assert release is not None
    assert release.payload == made.payload
    assert len(gate.ledger.charges) == 1
    assert [receipt.kind for receipt in read_receipts(gate.folder.receipts)] == ["update"]


def test_a_round_that_failed_after_charging_stays_charged(gate, monkeypatch):
    interrupted(gate, monkeypatch, RECEIPT)
    assert len(gate.ledger.charges) == 1
    assert read_receipts(gate.folder.receipts) == ()


def test_another_update_for_a_finished_request_is_thrown_away(gate, monkeypatch):
    interrupted(gate, monkeypatch, RECEIPT)
    first = ReplyStore(gate.folder.replies).find_pending(STUDY.hash(), request_of(Phase.TRAIN, 1).key)
    assert let_out(gate).payload == first.payload
    assert len(gate.ledger.charges) == 1


def test_a_reply_finished_before_others_spent_says_what_is_spent_when_it_leaves(gate, monkeypatch):
    interrupted(gate, monkeypatch, CHARGE)
    let_out(gate, 2)
    release = gate.again(request_of(Phase.TRAIN, 1))
    _, header = decode(release.payload)
    assert header["epsilon"] == gate.ledger.spent(STUDY.privacy.delta)
    assert len(gate.ledger.charges) == 2


def test_a_finished_reply_that_the_budget_no_longer_covers_is_refused_and_removed(gate, monkeypatch):
    interrupted(gate, monkeypatch, CHARGE)
    poor = Gate(gate.folder, "harbour", replace(POLICY, privacy=PrivacyPolicy(epsilon_limit=0.01)))
    with pytest.raises(BudgetError):
        poor.again(request_of(Phase.TRAIN, 1))
    assert gate.again(request_of(Phase.TRAIN, 1)) is None
    assert gate.ledger.charges == ()
    assert read_receipts(gate.folder.receipts) == ()


def test_a_finished_reply_that_is_now_too_large_is_refused_and_removed(gate, monkeypatch):
    interrupted(gate, monkeypatch, CHARGE)
    narrow = replace(POLICY, release=ReleasePolicy(min_cell=1, max_bytes_per_reply=500))
    with pytest.raises(EgressError, match="permits 500"):
        Gate(gate.folder, "harbour", narrow).again(request_of(Phase.TRAIN, 1))
    assert gate.again(request_of(Phase.TRAIN, 1)) is None


def test_a_damaged_pending_reply_stays_and_is_named(gate, monkeypatch):
    interrupted(gate, monkeypatch, CHARGE)
    (file,) = gate.folder.replies.rglob("*.pending")
    file.write_bytes(b"{}\n" + os.urandom(40))
    with pytest.raises(RecordsError, match=r"train-001.*\.pending is damaged"):
        gate.again(request_of(Phase.TRAIN, 1))


def test_a_stored_reply_that_was_changed_does_not_leave(gate):
    let_out(gate)
    (file,) = gate.folder.replies.rglob("*.safetensors")
    file.write_bytes(file.read_bytes().replace(b"harbour", b"HARBOUR") + b"\0")
    with pytest.raises(RecordsError, match="train 1 has no receipt"):
        gate.again(request_of(Phase.TRAIN, 1))
    assert [receipt.kind for receipt in read_receipts(gate.folder.receipts)] == ["update"]


def test_asked_by_six_at_once_one_training_leaves_six_times(gate):
    ready, sent = threading.Barrier(6), []

    def ask():
        mine = Gate(gate.folder, "harbour", POLICY)
        ready.wait()
        sent.append(answer(mine, request_of(Phase.TRAIN, 1), gate.folder.path / "trained.txt"))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 6
    assert len(set(sent)) == 1
    assert len(gate.ledger.charges) == 1
    assert Counter(one.kind for one in read_receipts(gate.folder.receipts)) == {"update": 1, "repeat": 5}
    assert np.isfinite(decode(sent[0])[0]["vector"]).all()


def test_a_process_that_holds_the_gate_for_ever_is_not_waited_for_for_ever(gate, monkeypatch):
    monkeypatch.setattr("f2b_client.records.LOCK_SECONDS", 0.1)
    let_out(gate)
    with (gate.folder.state / "gate.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ProcessError, match=r"held .*gate\.lock"):
            gate.again(request_of(Phase.TRAIN, 1))
    assert gate.again(request_of(Phase.TRAIN, 1)) is not None
