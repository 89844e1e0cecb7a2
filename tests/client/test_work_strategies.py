"""What a strategy asks of a site: plain steps, FedProx's pull, SCAFFOLD's correction, and no correction otherwise."""

from dataclasses import replace

import numpy as np
import pytest
from small_site import SITE, SmallSite, a_request, initial, prepared_site, study_of

from f2b_client.work import site_seed
from face2bone_model.contract.errors import EgressError, RequestError
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.local_steps import local_steps
from face2bone_model.contract.request import read_request
from face2bone_model.contract.update import pack, unpack
from face2bone_model.models.division import shared_tensors
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import load_trainable
from face2bone_model.training.steering import Steering
from face2bone_model.training.train import train_round

PLAIN = {"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 0.0, "local_epochs": 3, "patience": 1}


def strategy(name, **changes):
    terms = {"name": name, "personal": (), **changes}
    return study_of(strategy=terms, training=PLAIN, model={"dropout": 0.0})


def by_hand(study, number, steering):
    vector, signature = initial(study)
    model, cohort = build_model(study.model, seed=study.training.seed), prepared_site().cohort
    load_trainable(model, unpack(vector, signature))
    parts = cohort.select(Split.TRAIN), cohort.select(Split.VALIDATION)
    seed = site_seed(study, SITE, number)
    train_round(model, *parts, study.training, seed=seed, device="cpu", steering=steering)
    return pack(shared_tensors(model, study), signature)


def correction_of(study, scale=1e-3):
    vector, _ = initial(study)
    return (scale * np.random.default_rng(1).normal(size=vector.size)).astype(np.float32)


def test_the_correction_of_a_request_reaches_every_step_of_the_training(tmp_path):
    """To first order, K steps move the update by -K learning_rate (c - c_i)."""
    study = strategy("scaffold")
    site, correction = SmallSite(tmp_path, study), correction_of(study)
    found = site.train(1, correction=correction)
    _, signature = initial(study)
    steering = Steering(correction=unpack(correction, signature), every_step_counts=True)
    assert found.vector.tobytes() == by_hand(study, 1, steering).tobytes()
    without = by_hand(study, 1, Steering(every_step_counts=True))
    steps = local_steps(study, found.num_patients, private=False)
    assert steps.count == 3 * 2
    moved = (found.vector - without) / (-steps.count * steps.learning_rate)
    assert np.corrcoef(moved, correction)[0, 1] > 0.99
    assert np.linalg.norm(moved) == pytest.approx(np.linalg.norm(correction), rel=0.05)


def test_a_first_round_of_scaffold_may_come_without_a_correction(tmp_path):
    study = strategy("scaffold")
    nought = np.zeros_like(correction_of(study))
    one, other = SmallSite(tmp_path / "a", study), SmallSite(tmp_path / "b", study)
    assert one.train(1).vector.tobytes() == other.train(1, correction=nought).vector.tobytes()


def test_a_site_of_fedprox_pulls_with_the_study_s_mu(tmp_path):
    study = strategy("fedprox", proximal_mu=3.0)
    site = SmallSite(tmp_path, study)
    found = site.train(1).vector
    assert found.tobytes() == by_hand(study, 1, Steering(proximal_mu=3.0)).tobytes()
    assert found.tobytes() != by_hand(study, 1, Steering()).tobytes()


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "krum"])
def test_a_correction_is_refused_where_the_study_s_strategy_has_none(tmp_path, name):
    """A centre could otherwise steer a site's training in a way the hospital did not approve."""
    study = strategy(name)
    site = SmallSite(tmp_path, study)
    with pytest.raises(RequestError, match=f"strategy is {name}"):
        site.train(1, correction=correction_of(study))
    assert not site.folder.replies.exists()


def test_a_correction_is_refused_outside_training_and_of_another_length(tmp_path):
    study = strategy("scaffold")
    correction = correction_of(study)
    bad = [
        a_request(study, Phase.EVALUATE, 1, correction=correction),
        a_request(study, Phase.TRAIN, 1, correction=correction[:-1]),
        a_request(study, Phase.TRAIN, 1, correction=correction * np.float32(np.nan)),
    ]
    for request in bad:
        with pytest.raises(RequestError):
            read_request(request.encode())


def test_a_correction_that_drags_the_update_away_stays_at_the_site(tmp_path):
    """The longest step of the study holds whatever the centre sends."""
    study = strategy("scaffold")
    with pytest.raises(EgressError, match="step"):
        SmallSite(tmp_path, study).train(1, correction=correction_of(study, 100.0))


def test_requests_that_differ_in_their_correction_are_different_questions():
    study = strategy("scaffold")
    one = a_request(study, Phase.TRAIN, 1, correction=correction_of(study))
    assert one.key != replace(one, correction=correction_of(study, 2e-3)).key
    assert one.question == a_request(study, Phase.TRAIN, 1).question


def test_under_privacy_the_correction_takes_part_in_the_noisy_steps(tmp_path):
    """Over all numbers the noise cancels; what the correction adds to each remains, by as much as the steps say."""
    private = {"required": True, "trains": "all", "learning_rate": 0.1}
    study = replace(strategy("scaffold"), privacy=replace(study_of().privacy, **private))
    start, _ = initial(study)
    correction = np.full(start.size, 0.2, np.float32)
    site = SmallSite(tmp_path, study)
    update = site.train(1, correction=correction)
    steps = local_steps(study, update.num_patients, private=update.noise_multiplier > 0)
    mean = float((update.vector - start).astype(np.float64).mean())
    assert mean == pytest.approx(-steps.count * steps.learning_rate * 0.2, rel=0.1)
    assert [charge.steps for charge in site.gate.ledger.charges] == [steps.count]
