"""What a site keeps of its own rounds for its own report."""

import stat

import numpy as np
import pytest

from f2b_client.local_results import keep_evaluation, keep_round, load_evaluation, load_rounds
from f2b_client.settings import SiteFolder
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.request import Request
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.training.train import TrainResult


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


def asked(number, study_hash="a" * 64, phase=Phase.TRAIN):
    return Request(study_hash=study_hash, phase=phase, round=number, signature_digest="b" * 64)


def result(loss):
    return TrainResult(train_loss=loss, epochs=2, num_patients=40, segment=None)


def test_rounds_are_kept_in_order_and_a_repeated_round_replaces_itself(folder):
    assert load_rounds(folder) == ()
    for number, loss in ((2, 0.5), (1, 0.9), (2, 0.4)):
        keep_round(folder, asked(number), result(loss), seconds=1.26, epsilon_after=float(number))
    rounds = load_rounds(folder)
    assert [(one.round, one.train_loss, one.epsilon_after) for one in rounds] == [
        (1, 0.9, 1.0),
        (2, 0.4, 2.0),
    ]
    assert rounds[0].seconds == 1.3


def test_two_studies_keep_their_rounds_apart_and_the_newest_is_shown(folder):
    for study in ("a" * 64, "b" * 64, "a" * 64):
        keep_round(folder, asked(1, study), result(0.5), seconds=1, epsilon_after=0.0)
    assert {one.study_hash for one in load_rounds(folder)} == {"a" * 64}
    assert len(load_rounds(folder, "b" * 64)) == 1
    assert load_rounds(folder, "c" * 64) == ()


def test_the_evaluation_is_kept_whole_and_readable_by_its_owner_only(folder):
    assert load_evaluation(folder) is None
    tables = {"all/n": np.array([40]), "all/loss": np.array([0.5, 2.0])}
    keep_evaluation(folder, asked(3, phase=Phase.EVALUATE), SiteStatistics(tables=tables))
    kept = load_evaluation(folder)
    assert (kept.study_hash, kept.round) == ("a" * 64, 3)
    assert kept.statistics["all/loss"].tolist() == [0.5, 2.0]
    assert kept.statistics["all/n"].tolist() == [40]
    (path,) = folder.state.glob("evaluation-*.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_evaluation_made_last_is_the_one_shown(folder):
    for study in ("a" * 64, "b" * 64):
        tables = SiteStatistics(tables={"all/n": np.array([40])})
        keep_evaluation(folder, asked(1, study, Phase.EVALUATE), tables)
    assert load_evaluation(folder).study_hash == "b" * 64
    assert len(list(folder.state.glob("evaluation-*.safetensors"))) == 2
