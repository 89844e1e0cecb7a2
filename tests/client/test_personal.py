"""Personal layers: they are trained here, survive a crash, are the same when a round is trained again, never leave."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_site import POLICY, SITE, SmallSite, a_request, initial, prepared_site, study_of

import f2b_client
import face2bone_model.system.files
from f2b_client.personal import BEGINNING, PersonalRounds
from f2b_client.replies import ReplyStore
from f2b_client.settings import SiteFolder
from f2b_client.work import site_seed
from face2bone_model.contract.errors import (
    BudgetError,
    EgressError,
    RecordsError,
    RequestError,
    SettingsError,
    SignatureError,
)
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.policy import PrivacyPolicy, ReleasePolicy
from face2bone_model.contract.update import pack, unpack
from face2bone_model.models.division import personal_tensors, shared_tensors
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import load_trainable
from face2bone_model.training.evaluate import predict
from face2bone_model.training.train import train_round

HASH = "a" * 64
STUDY = study_of()


def own(value):
    return {"head.weight": np.full((2, 3), value, np.float32)}


def asked(number, vector=0.0):
    return replace(
        a_request(STUDY, Phase.TRAIN, number), study_hash=HASH, vector=np.full(2, vector, np.float32)
    )


@pytest.fixture
def rounds(tmp_path):
    return PersonalRounds(SiteFolder(tmp_path), HASH)


def take_part(rounds, number, value=None):
    began_with = rounds.before(number)
    rounds.put(asked(number), began_with, own(number if value is None else value))
    rounds.count(number)
    return began_with


def test_a_round_begins_with_the_newest_earlier_round_this_site_took_part_in(rounds):
    assert [take_part(rounds, number) for number in (1, 2, 5)] == [BEGINNING, 1, 2]
    assert rounds.before(9) == 5
    assert rounds.read(5)["head.weight"].tolist() == own(5)["head.weight"].tolist()


def test_a_round_that_is_trained_again_begins_as_it_began_then(rounds):
    for number in (1, 2, 3):
        take_part(rounds, number)
    assert [rounds.before(number) for number in (3, 2, 1, 4)] == [2, 1, BEGINNING, 3]


def test_a_round_missed_and_made_up_for_later_changes_nothing_of_the_rounds_after_it(rounds):
    for number in (1, 3):
        take_part(rounds, number)
    assert take_part(rounds, 2) == 1
    assert rounds.before(3) == 1
    assert rounds.before(4) == 3


def test_what_has_not_left_does_not_count(rounds):
    take_part(rounds, 1)
    rounds.put(asked(2), 1, own(2.0))
    assert rounds.before(3) == 1


def test_what_left_just_before_the_process_was_killed_counts(rounds):
    rounds.put(asked(1), BEGINNING, own(1.0))
    ReplyStore(rounds.folder.replies).keep(HASH, asked(1).key, b"reply")
    assert rounds.before(2) == 1
    rounds.put(asked(2), 1, own(2.0))
    ReplyStore(rounds.folder.replies).keep(HASH, asked(2, vector=9.0).key, b"to another request")
    assert rounds.before(3) == 1


def test_a_centre_that_goes_back_begins_another_branch(rounds):
    for number in (1, 2, 3, 4):
        take_part(rounds, number)
    take_part(rounds, 2, value=2)  # the same again: nothing happens
    assert rounds.before(5) == 4
    take_part(rounds, 2, value=-2.0)
    assert rounds.before(5) == 2
    assert take_part(rounds, 4) == 2  # round 3 was missed this time


def test_rounds_before_the_chosen_one_go_and_are_not_made_up(rounds):
    for number in (1, 2, 3, 4, 5):
        take_part(rounds, number)
    rounds.put(asked(2, vector=1.0), 1, own(7.0))
    rounds.forget_before(3)
    assert sorted(path.name for path in rounds.path.iterdir()) == [f"00{n}.safetensors" for n in (3, 4, 5)]
    assert [rounds.before(number) for number in (4, 5, 6)] == [3, 4, 5]
    for number in (1, 2, 3):
        with pytest.raises(RequestError, match="kept no more"):
            rounds.before(number)


def test_a_site_that_first_took_part_late_begins_earlier_rounds_from_the_start(rounds):
    take_part(rounds, 5)
    assert rounds.before(3) == BEGINNING
    assert rounds.before(5) == BEGINNING


def test_a_file_that_was_changed_is_named(rounds):
    take_part(rounds, 1)
    path = rounds.path / "001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RecordsError, match=r"001\.safetensors is damaged"):
        rounds.read(1)


def test_only_its_owner_can_read_them(rounds):
    take_part(rounds, 1)
    assert (rounds.path / "001.safetensors").stat().st_mode & 0o777 == 0o600


def test_studies_do_not_mix(rounds):
    take_part(rounds, 1)
    assert PersonalRounds(rounds.folder, "b" * 64).before(2) == BEGINNING


def test_without_personal_layers_nothing_is_kept(tmp_path):
    site = SmallSite(tmp_path, study_of(strategy={"personal": ()}))
    site.train(1)
    assert not site.folder.personal.exists()


def by_hand(study, number, vector, before):
    """One round of this site with the model's own tools: shared tensors after it, personal tensors after it."""
    _, signature = initial(study)
    model, cohort = build_model(study.model, seed=study.training.seed), prepared_site().cohort
    load_trainable(model, {**unpack(vector, signature), **before})
    parts = cohort.select(Split.TRAIN), cohort.select(Split.VALIDATION)
    seed = site_seed(study, SITE, number)
    train_round(model, *parts, study.training, seed=seed, device="cpu")
    return pack(shared_tensors(model, study), signature), personal_tensors(model, study)


def test_each_round_trains_the_shared_tensors_received_with_the_personal_ones_of_the_round_before(tmp_path):
    site = SmallSite(tmp_path)
    vector, signature = initial(STUDY)
    mine = personal_tensors(build_model(STUDY.model, seed=STUDY.training.seed), STUDY)
    for number in (1, 2, 4):
        expected, mine = by_hand(STUDY, number, vector, mine)
        update = site.train(number, vector)
        assert update.vector.size == signature.size
        assert update.vector.tobytes() == expected.tobytes()
        kept = PersonalRounds(site.folder, STUDY.hash()).read(number)
        assert all(kept[name].tobytes() == tensor.tobytes() for name, tensor in mine.items())
        vector = (0.9 * update.vector).astype(np.float32)  # others had a say
        site.process()


def test_the_head_a_site_starts_with_is_the_study_s(tmp_path):
    """Not what a round that was never released left in memory."""
    site, other = SmallSite(tmp_path / "a"), SmallSite(tmp_path / "b")
    site.work.model.network.head.requires_grad_(requires_grad=True)
    for parameter in site.work.model.network.head.parameters():
        parameter.data.add_(1.0)
    assert site.train(1).vector.tobytes() == other.train(1).vector.tobytes()


def test_with_the_reply_store_lost_a_round_is_trained_again_with_the_same_bits(tmp_path):
    site = SmallSite(tmp_path)
    first = site.train(1)
    replies = [site.train(number, first.vector) for number in (2, 3)]
    kept = {path.name: path.read_bytes() for path in site.folder.personal.rglob("*.safetensors")}
    shutil.rmtree(site.folder.replies)
    site.process()
    for number, before in zip((2, 3), replies, strict=True):
        assert site.train(number, first.vector).vector.tobytes() == before.vector.tobytes()
    assert site.train(1).vector.tobytes() == first.vector.tobytes()
    assert {path.name: path.read_bytes() for path in site.folder.personal.rglob("*.safetensors")} == kept


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


TRACED = (str(Path(f2b_client.__file__).parent), face2bone_model.system.files.__file__)


def lines_until(work, kill_at=0):
    """Run `work` counting lines of the client and of what writes its files, up to a kill at one of them."""
    seen = 0

    def trace(frame, event, _):
        nonlocal seen
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            seen += 1
            if seen == kill_at:
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Killed:
        pass
    finally:
        sys.settrace(before)
    return seen


def test_killed_anywhere_in_a_round_the_site_goes_on_with_the_same_bits(tmp_path):
    whole = SmallSite(tmp_path / "whole")
    first = whole.train(1).vector
    shutil.copytree(tmp_path / "whole", tmp_path / "before")
    lines = lines_until(lambda: whole.train(2, first))
    expected = [whole.train(2, first).vector.tobytes(), whole.train(3, first).vector.tobytes()]
    asked_again = 0
    for kill_at in np.random.default_rng(0).choice(np.arange(1, lines), size=12, replace=False):
        shutil.copytree(tmp_path / "before", tmp_path / f"killed-{kill_at}")
        site = SmallSite(tmp_path / f"killed-{kill_at}")
        assert lines_until(lambda site=site: site.train(2, first), int(kill_at)) == kill_at
        asked_again += not list(site.folder.replies.rglob("train-002-*.safetensors"))
        site.process()
        assert [site.train(number, first).vector.tobytes() for number in (2, 3)] == expected, kill_at
        assert not list(site.folder.personal.rglob("*.unreleased"))
    assert asked_again >= 4


def test_killed_in_a_round_that_is_never_asked_again_the_site_goes_on_as_if_it_had_missed_it(tmp_path):
    """What the unreleased training learned is in nothing that leaves later."""
    missed = SmallSite(tmp_path / "missed")
    first = missed.train(1).vector
    expected = missed.train(3, first).vector.tobytes()
    site = SmallSite(tmp_path / "killed")
    site.train(1)

    def fail(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("f2b_client.egress.Gate.release_update", fail)
        with pytest.raises(Killed):
            site.train(2, first)
    assert len(list(site.folder.personal.rglob("002.unreleased"))) == 1
    site.process()
    assert site.train(3, first).vector.tobytes() == expected


def test_what_the_gate_refused_does_not_flow_into_the_next_update(tmp_path):
    narrow = study_of(training={"max_update_norm": 1e-6})
    site = SmallSite(tmp_path, narrow)
    with pytest.raises(EgressError, match="step"):
        site.train(1)
    rounds = PersonalRounds(site.folder, narrow.hash())
    assert rounds.before(2) == BEGINNING


PRIVATE = {"required": True, "epsilon": 500.0}


def test_a_private_round_that_was_not_paid_for_does_not_flow_into_the_next(tmp_path):
    study = study_of(privacy=PRIVATE)
    site = SmallSite(tmp_path, study)

    def poor(*_, **__):
        raise BudgetError("Spent meanwhile.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("f2b_client.ledger.Ledger.charge", poor)
        with pytest.raises(BudgetError):
            site.train(1)
    assert PersonalRounds(site.folder, study.hash()).before(2) == BEGINNING
    assert site.gate.ledger.charges == ()


def test_private_training_moves_personal_tensors_by_noisy_steps_and_costs_the_same(tmp_path):
    charges = []
    for personal in ((), ("head.*",)):
        study = study_of(privacy=PRIVATE, strategy={"personal": personal})
        site = SmallSite(tmp_path / f"{len(personal)}", study)
        site.train(1)
        charges.append(
            [(c.round, c.noise_multiplier, c.sample_rate, c.steps) for c in site.gate.ledger.charges]
        )
    assert charges[0] == charges[1]
    kept = PersonalRounds(site.folder, study.hash()).read(1)
    start = personal_tensors(build_model(study.model, seed=study.training.seed), study)
    assert all((kept[name] != tensor).all() for name, tensor in start.items()), "noise moves every number"


def test_a_hospital_whose_policy_makes_training_pointless_refuses_it_before_it_costs_anything(tmp_path):
    """The study trains the head alone under DP and keeps it here: nothing that is trained would travel."""
    study = study_of(privacy={"trains": "head"})
    site = SmallSite(tmp_path, study, replace(POLICY, privacy=PrivacyPolicy(require_dp=True)))
    with pytest.raises(SettingsError, match="cost privacy"):
        site.train(1)
    assert site.gate.ledger.charges == ()


def evaluated(site, number, vector, split):
    return site.ask(a_request(site.study, Phase.EVALUATE, number, vector, split=split))


def measures_by_hand(site, vector, personal, split):
    _, signature = initial(site.study)
    model = build_model(site.study.model, seed=0)
    load_trainable(model, {**unpack(vector, signature), **personal})
    cohort = prepared_site().cohort.select(split)
    probabilities = predict(model, cohort, device="cpu")
    return getattr(site.work._measures, str(split))(cohort, probabilities).statistics


def test_a_model_is_evaluated_with_the_personal_tensors_of_its_round(tmp_path):
    site = SmallSite(tmp_path, policy=replace(POLICY, release=ReleasePolicy(min_cell=1, max_test_models=9)))
    models = {number: site.train(number).vector for number in (1, 2, 3)}
    rounds, seen = PersonalRounds(site.folder, STUDY.hash()), []
    for number, vector in models.items():
        found = evaluated(site, number, vector, Split.VALIDATION)
        right = measures_by_hand(site, vector, rounds.read(number), Split.VALIDATION)
        assert found["all/losses/log_loss"].tobytes() == right["all/losses/log_loss"].tobytes()
        seen.append(found["all/losses/log_loss"].tobytes())
    assert len(set(seen)) == 3
    wrong = measures_by_hand(site, models[1], rounds.read(3), Split.VALIDATION)
    assert wrong["all/losses/log_loss"].tobytes() != seen[0]


def test_once_a_round_was_chosen_older_ones_go_and_the_newer_can_still_be_evaluated(tmp_path):
    site = SmallSite(tmp_path)
    models = {number: site.train(number).vector for number in (1, 2, 3)}
    evaluated(site, 2, models[2], Split.TEST)
    kept = sorted(path.name for path in site.folder.personal.rglob("*.*"))
    assert kept == ["002.safetensors", "003.safetensors"]
    evaluated(site, 3, models[3], Split.VALIDATION)
    with pytest.raises(RequestError, match="kept no more"):
        evaluated(site, 1, models[1], Split.VALIDATION)


def test_a_request_that_brings_a_head_is_refused(tmp_path):
    """The centre cannot put a head of its choice into a study whose head stays here."""
    site = SmallSite(tmp_path)
    whole, signature = initial(study_of(strategy={"personal": ()}))
    with pytest.raises(SignatureError):
        site.train(1, whole)
    with pytest.raises(SignatureError):
        site.ask(replace(a_request(STUDY, Phase.TRAIN, 1, whole), signature_digest=signature.digest()))


@pytest.mark.parametrize("private", [False, True])
def test_the_bytes_of_personal_tensors_are_in_nothing_that_leaves(tmp_path, private):
    """Any four numbers in a row of any personal tensor, before or after any round, are a canary."""
    study = study_of(privacy={**PRIVATE, "required": private})
    site, sent = SmallSite(tmp_path, study), []
    sent.append(site.answer(a_request(study, Phase.DESCRIBE, 0)))
    vector, _ = initial(study)
    start = personal_tensors(build_model(study.model, seed=study.training.seed), study)
    canaries = pieces(start)
    for number in (1, 2, 3):
        request = a_request(study, Phase.TRAIN, number, vector)
        sent += [site.answer(request), site.answer(request)]  # the second is a repeat
        vector = site.ask(request).vector
        canaries += pieces(PersonalRounds(site.folder, study.hash()).read(number))
    for split in (Split.VALIDATION, Split.TEST):
        sent.append(site.answer(a_request(study, Phase.EVALUATE, 3, vector, split=split)))
    assert len(canaries) > 100
    assert not [piece for piece in canaries if any(piece in payload for payload in sent)]
    shared = pack(site.work.model.shared(), site.work.model.signature).tobytes()
    assert any(shared[:64] in payload for payload in sent), "the search finds what does leave"
    assert not [name for name in start if any(name.encode() in payload for payload in sent)]


def pieces(tensors):
    """Runs of four numbers that are not all alike, as float32 and float64 bytes."""
    runs = [
        part
        for tensor in tensors.values()
        for part in np.array_split(tensor.reshape(-1), max(1, tensor.size // 4))
        if part.size >= 3 and np.unique(part).size == part.size
    ]
    return [run.astype(kind).tobytes() for run in runs for kind in (np.float32, np.float64)]
