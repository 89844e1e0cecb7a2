"""Receipts, the note of the newest, and the ledger: whatever is cut off, edited or put back, the gate closes."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from subjects import measured, subject_of

from f2b_client.agreement import history_fault
from f2b_client.anchor import FILE, Anchor, read_anchor, write_anchor
from f2b_client.charges import read_charges
from f2b_client.egress import Gate
from f2b_client.evidence import gather, refuse_broken_records, verify
from f2b_client.keys import make_keys, receipt_key, receipt_public_key
from f2b_client.receipts import read_receipts
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import RecordsError
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.policy import Policy, ReleasePolicy
from face2bone_model.contract.request import Request
from face2bone_model.contract.study import EvaluationSettings, PrivacySettings, Study
from face2bone_model.contract.update import ModelSignature, Update
from face2bone_model.metrics.evaluation import validation_update
from face2bone_model.training.privacy import DpSegment

EVALUATION = EvaluationSettings(score_bins=20, calibration_bins=5, min_cell=1)
STUDY = Study(
    name="Bones",
    question="?",
    sites=("harbour",),
    trunk_name="random",
    trunk_digest="t",
    evaluation=EVALUATION,
    privacy=PrivacySettings(required=True, epsilon=50.0),
)
SIGNATURE = ModelSignature((("weight", (4, 2)),), "t")
LABELS = np.arange(60) % 3
PROBABILITIES = np.full((60, 3), 0.2) + 0.4 * np.eye(3)[LABELS]
SEGMENT = DpSegment(noise_multiplier=2.0, sample_rate=0.2, steps=4)


def asked(number):
    return Request(
        study_hash=STUDY.hash(),
        phase=Phase.TRAIN,
        round=number,
        signature_digest=SIGNATURE.digest(),
        vector=np.zeros(8, np.float32),
    )


def release(gate, number):
    update = Update(
        vector=np.full(8, number / 10, np.float32),
        num_patients=48,
        train_loss=0.0,
        epsilon=0.0,
        delta=0.0,
        noise_multiplier=2.0,
        validation=validation_update(EVALUATION, PROBABILITIES, LABELS),
    )
    return gate.release_update(
        asked(number),
        update,
        subject=subject_of(LABELS, "validation"),
        study=STUDY,
        signature=SIGNATURE,
        segment=SEGMENT,
    )


def gate_of(folder):
    return Gate(folder, "harbour", Policy(release=ReleasePolicy(min_cell=1)), "centre.example:9092")


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    folder = SiteFolder(tmp_path_factory.mktemp("answered") / "site")
    make_keys(folder)
    for number in range(1, 5):
        release(gate_of(folder), number)
    return folder


@pytest.fixture
def site(answered, tmp_path):
    """A site that let out four updates."""
    shutil.copytree(answered.path, tmp_path / "site")
    return SiteFolder(tmp_path / "site")


def change(path, statement, *values):
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0


def verdict(folder):
    return verify(gather(folder.path), receipt_key(folder).public_key())


def sentence(folder):
    fault = verdict(folder).fault
    return fault.what if fault else ""


def closed(folder, match):
    """Nothing leaves, neither new nor again; only the number does, and that does not make the site look whole."""
    before = read_charges(folder.ledger)
    for _ in range(3):
        with pytest.raises(RecordsError, match=match):
            release(gate_of(folder), 9)
        with pytest.raises(RecordsError, match=match):
            gate_of(folder).again(asked(2))
        gate_of(folder).release_error(asked(9), "d" * 64, RecordsError.code)
    assert read_charges(folder.ledger) == before
    return True


def test_an_untouched_site_is_whole_and_open(site):
    found = verdict(site)
    assert (found.receipts, found.charges, found.replies, found.fault) == (4, 4, 4, None)
    assert found.unchecked == ()
    release(gate_of(site), 5)
    assert sentence(site) == ""


def test_receipts_say_to_whom_and_what_the_ledger_was(site):
    receipts = read_receipts(site.receipts)
    assert {one.to for one in receipts} == {"centre.example:9092"}
    assert [one.ledger_rows for one in receipts] == [1, 2, 3, 4]
    assert [one.ledger_head for one in receipts] == [charge.chain for charge in read_charges(site.ledger)]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_cutting_off_the_newest_receipts_closes_the_gate(site, kept):
    change(site.receipts, "DELETE FROM receipts WHERE number > ?", kept)
    assert sentence(site) == f"The receipts end at {kept}; {FILE} names receipt 4: the newest are missing."
    assert closed(site, "newest are missing|not the one that")
    assert sentence(site)


def test_receipts_written_over_cut_ones_do_not_pass_for_them(site):
    change(site.receipts, "DELETE FROM receipts WHERE number > 2")
    for _ in range(4):
        gate_of(site).release_error(asked(9), "d" * 64, 33)
    assert closed(site, f"Receipt 4 is not the one that {FILE} names")


def test_deleting_the_receipts_closes_the_gate(site):
    site.receipts.unlink()
    assert closed(site, "newest are missing|not the one that")


def test_deleting_receipts_and_their_anchor_closes_the_gate(site):
    site.receipts.unlink()
    (site.path / FILE).unlink()
    assert closed(site, f"{FILE} is missing or was changed")


def test_an_anchor_of_another_key_closes_the_gate(site):
    newest = read_receipts(site.receipts)[1]
    forged = Anchor(number=2, digest=newest.digest())
    write_anchor(site.path / FILE, Ed25519PrivateKey.generate(), forged)
    assert closed(site, f"{FILE} is missing or was changed")


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"number": 4, "digest": "", "signature": "zz"}', b"\xff"]
)
def test_an_anchor_that_cannot_be_read_is_none(text):
    assert read_anchor(text, Ed25519PrivateKey.generate().public_key()) is None


def test_deleting_the_ledger_closes_the_gate(site):
    site.ledger.unlink()
    assert sentence(site) == "The ledger has 0 charges; receipt 1 says that it had 1."
    assert closed(site, "The ledger has 0 charges; receipt [4-7] says that it had 4")
    assert sentence(site)


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_cutting_the_ledger_closes_the_gate_and_is_named(site, kept):
    change(site.ledger, "DELETE FROM charges WHERE number > ?", kept)
    assert sentence(site) == f"The ledger has {kept} charges; receipt {kept + 1} says that it had {kept + 1}."
    assert closed(site, f"The ledger has {kept} charges")


@pytest.mark.parametrize("number", [1, 3, 4])
def test_an_edited_charge_closes_the_gate_and_is_named(site, number):
    change(site.ledger, "UPDATE charges SET noise_multiplier = 200 WHERE number = ?", number)
    assert sentence(site).startswith(f"Charge {number} of the ledger was changed")
    assert closed(site, f"Charge {number} of the ledger was changed")


def test_a_ledger_rewritten_with_a_chain_of_its_own_closes_the_gate_and_is_named(site):
    """Whoever edits a charge and reckons every digest anew still contradicts the signed receipts."""
    previous = "0" * 64
    for charge in read_charges(site.ledger):
        forged = replace(charge, steps=1) if charge.number == 3 else charge
        previous = forged.chained(previous)
        change(
            site.ledger,
            "UPDATE charges SET steps = ?, chain = ? WHERE number = ?",
            forged.steps,
            previous,
            forged.number,
        )
    assert (
        sentence(site)
        == "Charge 3 of the ledger, or one before it, is not what it was when receipt 3 was written."
    )
    assert closed(site, "Charge 4 of the ledger, or one before it")


def test_an_older_copy_of_the_ledger_closes_the_gate(site, tmp_path):
    shutil.copy(site.ledger, tmp_path / "backup.db")
    release(gate_of(site), 5)
    for leftover in site.path.glob("ledger.db*"):
        leftover.unlink()
    shutil.copy(tmp_path / "backup.db", site.ledger)
    assert closed(site, "The ledger has 4 charges; receipt [5-8] says that it had 5")


def test_restored_from_a_backup_the_gate_opens_again(site, tmp_path):
    shutil.copy(site.ledger, tmp_path / "backup.db")
    site.ledger.unlink()
    assert closed(site, "The ledger has 0 charges")
    for leftover in site.path.glob("ledger.db*"):
        leftover.unlink()
    shutil.copy(tmp_path / "backup.db", site.ledger)
    assert sentence(site) == ""
    release(gate_of(site), 5)
    assert [one.kind for one in read_receipts(site.receipts)] == ["update"] * 4 + ["error 33"] * 3 + [
        "update"
    ]


def test_an_edited_receipt_since_the_anchor_closes_the_gate(site):
    change(site.receipts, "UPDATE receipts SET body = replace(body, 'centre', 'other') WHERE number = 4")
    assert sentence(site).startswith("Receipt 4 is not signed by this site")
    assert closed(site, f"Receipt 4 is not the one that {FILE} names")


def test_an_edited_older_receipt_is_found_by_the_full_check(site):
    refuse_broken_records(site)
    change(site.receipts, "UPDATE receipts SET body = replace(body, 'centre', 'other') WHERE number = 2")
    with pytest.raises(RecordsError, match="Receipt 2 is not signed"):
        refuse_broken_records(site)
    assert sentence(site) == "Receipt 2 is not signed by this site: it was changed."


def test_a_receipt_that_cannot_be_read_closes_the_gate(site):
    change(site.receipts, "UPDATE receipts SET body = '{' WHERE number = 4")
    assert closed(site, "Receipt 4")
    assert sentence(site) == "Receipt 4 cannot be read: it was changed."


def test_a_ledger_that_is_no_database_closes_the_gate(site):
    site.ledger.write_bytes(b"?" * 4096)
    with pytest.raises(RecordsError, match=r"ledger\.db cannot be read"):
        release(gate_of(site), 9)
    assert gate_of(site).release_error(asked(9), "d" * 64, 33).payload
    assert read_receipts(site.receipts)[-1].ledger_rows == 4


def test_a_crash_between_a_receipt_and_its_anchor_closes_nothing(site, monkeypatch):
    def stop(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("f2b_client.anchor.write_anchor", stop)
        with pytest.raises(KeyboardInterrupt):
            release(gate_of(site), 5)
    assert len(read_receipts(site.receipts)) == 5
    assert json.loads((site.path / FILE).read_text())["number"] == 4
    assert gate_of(site).again(asked(5)) is not None
    assert sentence(site) == ""


def test_a_changed_stored_reply_is_found(site):
    (file,) = site.replies.rglob("train-002-*")
    file.write_bytes(file.read_bytes() + b" ")
    assert sentence(site).startswith(f"{file} has no receipt")


def test_receipts_that_say_the_ledger_shrank_are_named(site):
    """As a forger with the key might write them: the ledger may only grow."""
    receipts = [
        replace(one, ledger_rows=1) if one.number == 3 else one for one in read_receipts(site.receipts)
    ]
    charges = read_charges(site.ledger)
    receipts[2] = replace(receipts[2], ledger_head=charges[0].chain)
    fault = history_fault(charges, receipts)
    assert fault.what == "Receipt 3 counts 1 charges, fewer than the 2 before."


def test_statistics_close_with_the_rest(site):
    site.ledger.unlink()
    sums = validation_update(EVALUATION, PROBABILITIES, LABELS)
    with pytest.raises(RecordsError):
        gate_of(site).release_statistics(asked(7), measured(sums, LABELS, "validation"), study=STUDY)
    assert len(read_receipts(site.receipts)) == 4


@pytest.fixture
def tell(site):
    """What releasing once more says."""

    def release_again():
        with pytest.raises(RecordsError) as caught:
            release(gate_of(site), 9)
        return caught.value.what

    return release_again


def test_a_deleted_disclosure_memory_is_noticed_and_nothing_leaves(site, tell):
    (site.path / "disclosure.db").unlink()
    assert "disclosure memory has 0 rows" in tell()
    verdict = verify(gather(site.path), receipt_public_key(site))
    assert "disclosure memory" in verdict.fault.what
    gate_of(site).release_error(asked(9), "d" * 64, 33)
    assert "disclosure memory has 0 rows" in tell()  # the receipt of the refusal does not make it look whole


def test_an_edited_disclosure_memory_is_noticed(site, tell):
    with closing(sqlite3.connect(site.path / "disclosure.db")) as file, file:
        file.execute("UPDATE disclosures SET body = replace(body, '}', ' }') WHERE kind = 'reply'")
    assert "is not what it was" in tell()


def test_a_disclosure_memory_that_is_no_database_is_noticed(site, tell):
    for path in site.path.glob("disclosure.db*"):
        path.unlink()
    (site.path / "disclosure.db").write_text("nothing")
    assert "disclosure.db cannot be read" in tell()
