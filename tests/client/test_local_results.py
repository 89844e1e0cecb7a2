"""What a site keeps of its own rounds for its own report."""

import stat

import numpy as np
import pytest

from f2b_client.local_results import keep_evaluation, keep_round, load_evaluation, load_rounds
from f2b_client.settings import SiteFolder
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import Study
from face2bone_model.training.train import TrainResult

STUDY = Study(name="Bones", question="?", sites=("a",), trunk_name="random", trunk_digest="00")


@pytest.fixture
def folder(tmp_path):
    return SiteFolder(tmp_path)


def result(loss):
    return TrainResult(train_loss=loss, epochs=2, num_patients=40, segment=None)


def test_rounds_are_kept_in_order_and_a_repeated_round_replaces_itself(folder):
    assert load_rounds(folder) == ()
    for number, loss in ((2, 0.5), (1, 0.9), (2, 0.4)):
        keep_round(folder, number, result(loss), seconds=1.26, epsilon_after=float(number))
    rounds = load_rounds(folder)
    assert [(one.round, one.train_loss, one.epsilon_after) for one in rounds] == [
        (1, 0.9, 1.0),
        (2, 0.4, 2.0),
    ]
    assert rounds[0].seconds == 1.3


def test_the_evaluation_is_kept_whole_and_readable_by_its_owner_only(folder):
    assert load_evaluation(folder) is None
    tables = {"all/n": np.array([40]), "all/loss": np.array([0.5, 2.0])}
    keep_evaluation(folder, STUDY, 3, SiteStatistics(tables=tables))
    kept = load_evaluation(folder)
    assert (kept.study_hash, kept.round) == (STUDY.hash(), 3)
    assert kept.statistics["all/loss"].tolist() == [0.5, 2.0]
    assert kept.statistics["all/n"].tolist() == [40]
    assert stat.S_IMODE((folder.state / "evaluation.safetensors").stat().st_mode) == 0o600
