"""A study folder, and sites in memory that answer with the real statistics of rendered predictions."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import settings

from f2b_server.certificates import make_ca
from f2b_server.enrolment import admit
from f2b_server.federation import Answer
from f2b_server.settings import StudyFolder
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.payload import encode
from face2bone_model.contract.reply import error_content, statistics_content, update_content
from face2bone_model.contract.request import read_request
from face2bone_model.contract.study import load_study
from face2bone_model.contract.update import ModelSignature, Update
from face2bone_model.metrics.description import describe_update
from face2bone_model.metrics.evaluation import evaluation_update, validation_update
from face2bone_model.system.files import write_atomic

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

SITES = ("harbour", "hilltop", "riverside")
SIGNATURE = ModelSignature((("bias", (3,)), ("weight", (2, 3))), "00")
STUDY = """
name = "Bones"
question = "Can a face tell?"
sites = ["harbour", "hilltop", "riverside"]
trunk_name = "random"
trunk_digest = "00"
[training]
rounds = 3
[quorum]
[evaluation]
min_cell = 1
score_bins = 50
calibration_bins = 5
[deadlines]
describe_seconds = 0.3
train_seconds = 5
evaluate_seconds = 5
"""


def node_key():
    return generate_private_key(SECP384R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def make_study_folder(path):
    """A study folder with everything but a model of ours: its initial vector has nine scalars."""
    folder = StudyFolder(path)
    write_atomic(folder.study, STUDY.encode())
    make_ca(folder.ca, "Bones")
    import json

    header = {"tensors": json.dumps(SIGNATURE.tensors), "trunk_digest": SIGNATURE.trunk_digest}
    write_atomic(folder.initial, encode({"vector": np.zeros(9, np.float32)}, header))
    for site in SITES:
        admit(folder, site, node_key())
    return folder


@dataclass
class Site:
    """One hospital's patients and how it answers; the further the model's first scalar is from 2, the worse."""

    name: str
    study: object
    patients: int = 90
    seed: int = 0
    answered: dict = field(default_factory=dict)
    computed: list = field(default_factory=list)

    def answer(self, payload):
        """The bytes of a reply; asked again, the same bytes."""
        request = read_request(payload)
        if request.key not in self.answered:
            self.computed.append((str(request.phase), request.round, str(request.split)))
            tensors, header = self._content(request)
            self.answered[request.key] = encode(tensors, {**header, "request": request.digest})
        return self.answered[request.key]

    def _content(self, request):
        evaluation = self.study.evaluation
        rng = np.random.default_rng(self.seed)
        labels, female, ages = (
            np.arange(self.patients) % 3,
            rng.random(self.patients) < 0.5,
            np.full(self.patients, 65),
        )
        if request.phase is Phase.DESCRIBE:
            splits = np.where(np.arange(self.patients) % 5 == 0, "test", "train")
            return statistics_content(
                describe_update(
                    evaluation,
                    labels=labels,
                    splits=splits,
                    female=female,
                    ages=ages,
                    excluded_patients=1,
                    quarantined_photos=2,
                )
            )
        probabilities = self._predict(request.vector, labels, rng)
        validation = validation_update(evaluation, probabilities, labels)
        if request.phase is Phase.TRAIN:
            update = Update(
                vector=request.vector + np.float32(1.0),
                num_patients=self.patients,
                train_loss=0.5,
                epsilon=0.0,
                delta=0.0,
                noise_multiplier=0.0,
                validation=validation,
            )
            return update_content(update)
        if request.split is Split.VALIDATION:
            return statistics_content(validation)
        return statistics_content(evaluation_update(evaluation, probabilities, labels, female, ages))

    def _predict(self, vector, labels, rng):
        skill = 3.0 / (1.0 + abs(float(vector[0]) - 2.0))
        logits = rng.normal(size=(self.patients, 3))
        logits[np.arange(self.patients), labels] += skill
        scores = np.exp(logits)
        return scores / scores.sum(axis=1, keepdims=True)


@dataclass
class MemoryFederation:
    """Sites in this process. `faults` are consumed: each names a site, when, and what happens then."""

    sites: dict
    connected: set = field(default_factory=lambda: set(SITES))
    faults: list = field(default_factory=list)
    asked: list = field(default_factory=list)
    backwards: bool = False

    def online(self):
        """Who is connected."""
        return frozenset(self.connected)

    def ask(self, requests, *, label, deadline_seconds, on_wait):
        """Answers in the order of arrival, which `backwards` turns round."""
        answers = {}
        for site in sorted(requests, reverse=self.backwards):
            self.asked.append((site, label))
            fault = next((f for f in self.faults if f[:2] == (site, label)), None)
            if fault:
                self.faults.remove(fault)
            answers[site] = self._answer(site, requests[site], fault[2] if fault else None, deadline_seconds)
            on_wait(tuple(answers), tuple(set(requests) - set(answers)), 0.0)
        return answers

    def _answer(self, site, payload, fault, deadline_seconds):
        if fault == "silent" or site not in self.connected:
            return Answer(fault=f"no reply within {deadline_seconds:.0f} s", seconds=deadline_seconds)
        if isinstance(fault, int):
            tensors, header = error_content(fault)
            return Answer(payload=encode(tensors, {**header, "request": read_request(payload).digest}))
        if isinstance(fault, BaseException):
            raise fault
        if callable(fault):
            return Answer(payload=fault(self.sites[site].answer(payload)), seconds=0.01)
        return Answer(payload=self.sites[site].answer(payload), seconds=0.01)


@pytest.fixture
def folder(tmp_path):
    """A study folder with three admitted sites."""
    return make_study_folder(tmp_path / "study")


@pytest.fixture
def federation(folder):
    """Three sites with 60, 90 and 120 patients."""
    study = load_study(folder.study)
    sizes = {"harbour": 60, "hilltop": 90, "riverside": 120}
    return MemoryFederation({s: Site(s, study, n, seed) for seed, (s, n) in enumerate(sizes.items())})
