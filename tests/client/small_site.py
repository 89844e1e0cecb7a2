"""A prepared site in memory, small enough to train in a tenth of a second, behind the real gate and reply store."""

from dataclasses import replace
from functools import cache

import numpy as np

from f2b_client.egress import Gate
from f2b_client.keys import make_keys
from f2b_client.prepare import PreparationReport, PreparedSite
from f2b_client.settings import SiteFolder
from f2b_client.work import StudyWork
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.policy import Policy, ReleasePolicy
from face2bone_model.contract.reply import read_reply
from face2bone_model.contract.request import Request
from face2bone_model.contract.study import (
    EvaluationSettings,
    ModelSettings,
    PrivacySettings,
    StrategySettings,
    Study,
    TrainingSettings,
)
from face2bone_model.contract.update import pack, signature_of
from face2bone_model.data.cohort import Cohort
from face2bone_model.data.manifest import Manifest
from face2bone_model.data.preparation import Preparation
from face2bone_model.models.division import shared_tensors
from face2bone_model.models.face2bone import build_model

SITE, TRUNK, PATIENTS = "harbour", "t", 45
POLICY = Policy(release=ReleasePolicy(min_cell=1))
STUDY = Study(
    name="Bones",
    question="?",
    sites=(SITE,),
    trunk_name="random",
    trunk_digest=TRUNK,
    model=ModelSettings(
        stem_width=4, branch_width=4, transformer_heads=2, head_hidden=4, fsa="off", branches="cnn"
    ),
    training=TrainingSettings(rounds=5, local_epochs=1, batch_size=16, learning_rate=0.02),
    strategy=StrategySettings(personal=("head.*",)),
    privacy=PrivacySettings(trains="all", expected_batch_size=16, steps_per_round=2),
    evaluation=EvaluationSettings(score_bins=20, calibration_bins=5, min_cell=1),
)


def study_of(**changes):
    """The study with other settings; a table's changes are given as a dict."""
    tables = {
        name: replace(getattr(STUDY, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return replace(STUDY, **tables)


@cache
def prepared_site():
    """Forty-five patients whose class shows in their features."""
    rng = np.random.default_rng(6)
    labels = np.arange(PATIENTS, dtype=np.int64) % 3
    features = rng.random((PATIENTS, 896, 8, 8), dtype=np.float32)
    for row, label in enumerate(labels):
        features[row, label::3] *= 2
    cohort = Cohort(
        features=features.astype(np.float16),
        faces=np.zeros((0, 160, 160, 3), np.uint8),
        photo_rows=tuple(np.array([row], np.int64) for row in range(PATIENTS)),
        patient_ids=tuple(f"p{number}" for number in range(PATIENTS)),
        labels=labels,
        ages=rng.integers(50, 90, PATIENTS),
        female=rng.random(PATIENTS) < 0.5,
        clinical=rng.normal(size=(PATIENTS, 3)).astype(np.float32),
        splits=np.array(["train", "train", "train", "validation", "test"] * (PATIENTS // 5)),
        preparation=Preparation(settings_digest="", trunk_digest=TRUNK, background="u2netp"),
    )
    report = PreparationReport(
        **dict.fromkeys(("photos", "usable", "reused", "patients"), PATIENTS),
        seconds=0.0,
        site=SITE,
        quarantined={},
        left_out={},
        background="u2netp",
        settings_digest="s",
        trunk_digest=TRUNK,
    )
    return PreparedSite(manifest=Manifest(site=SITE, entries=()), cohort=cohort, report=report)


def initial(study):
    """What travels of the study's starting model: vector and signature."""
    tensors = shared_tensors(build_model(study.model, seed=study.training.seed), study)
    signature = signature_of(tensors, TRUNK)
    return pack(tensors, signature), signature


def a_request(study, phase, number, vector=None, **fields):
    """What an honest centre asks."""
    start, signature = initial(study)
    if phase is not Phase.DESCRIBE and vector is None:
        vector = start
    asked = {"study_hash": study.hash(), "phase": phase, "round": number, "vector": vector}
    return Request(**asked, signature_digest=signature.digest(), **fields)


class SmallSite:
    """A site's folder; each `process` is a new life of its client."""

    def __init__(self, path, study=STUDY, policy=POLICY):
        self.folder, self.study, self.policy = SiteFolder(path), study, policy
        make_keys(self.folder)
        self.process()

    def process(self):
        """Start anew: nothing is left in memory."""
        self.work = StudyWork(self.study, SITE, self.gate, prepared_site(), "cpu")

    @property
    def gate(self):
        return Gate(self.folder, SITE, self.policy)

    def answer(self, request):
        """The bytes that leave: of the store, or of new work."""
        release = self.gate.again(request) or self.work.answer(request, lambda *_: None)
        return release.payload

    def ask(self, request):
        """The reply, parsed as the centre would."""
        return read_reply(self.answer(request), request_digest=request.digest)

    def train(self, number, vector=None, **fields):
        return self.ask(a_request(self.study, Phase.TRAIN, number, vector, **fields))
