"""A coordinator that crafts models to single one patient out of the sums it may ask for."""

import re
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import pytest
from hospital import SITE, equip, small_study
from hostile import Site, a_request, small_cells
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from f2b_client.prepare import PreparationReport, PreparedSite
from f2b_client.work import SiteWork
from face2bone_model.contract.keys import OSTEOPOROSIS, Phase, Split
from face2bone_model.contract.reply import ErrorReply
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import EvaluationSettings, ModelSettings, TrainingSettings
from face2bone_model.contract.update import pack, signature_of
from face2bone_model.data.cohort import Cohort
from face2bone_model.data.manifest import Manifest
from face2bone_model.data.preparation import Preparation
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import trainable_tensors
from face2bone_model.training.evaluate import predict

TRUNK = "7" * 64
PATIENTS = 420
STUDY = small_study(
    TRUNK,
    model=ModelSettings(stem_width=8, branch_width=8, head="linear", fsa="off", branches="cnn"),
    training=TrainingSettings(rounds=200, local_epochs=1),
    evaluation=EvaluationSettings(score_bins=60, calibration_bins=3, age_edges=(65,), min_cell=11),
)


def a_cohort() -> Cohort:
    """Patients in memory: three in four held out, so that sums are over many."""
    draw = np.random.default_rng(5)
    features = np.maximum(draw.normal(size=(PATIENTS, 896, 8, 8)), 0).astype(np.float16)
    return Cohort(
        features=features,
        faces=np.zeros((PATIENTS, 1, 1, 3), np.uint8),
        photo_rows=tuple(np.array([row]) for row in range(PATIENTS)),
        patient_ids=tuple(f"P{row:04d}" for row in range(PATIENTS)),
        labels=np.arange(PATIENTS) % 3,
        ages=draw.integers(50, 90, PATIENTS),
        female=draw.random(PATIENTS) < 0.6,
        clinical=np.zeros((PATIENTS, 3), np.float32),
        splits=np.array([str(Split.TRAIN), *[str(Split.TEST)] * 3] * (PATIENTS // 4)),
        preparation=Preparation(settings_digest="s", trunk_digest=TRUNK, background="u2netp"),
    )


@dataclass(frozen=True)
class Probed:
    """The site, and what the attacker may know: here even the patients' inner features."""

    site: Site
    held_out: Cohort
    hidden: np.ndarray
    """(P, width): what the head sees of each held-out patient with the starting model."""
    tensors: dict[str, np.ndarray]

    def model(self, direction: np.ndarray, threshold: float, scale: float = 1e4) -> np.ndarray:
        """A vector whose head says osteoporosis of whoever lies beyond the threshold, and normal of the rest."""
        weight = np.zeros_like(self.tensors["head.0.weight"])
        bias = np.zeros_like(self.tensors["head.0.bias"])
        weight[OSTEOPOROSIS], bias[OSTEOPOROSIS] = scale * direction, -scale * threshold
        bias[1] = -scale
        crafted = {**self.tensors, "head.0.weight": weight, "head.0.bias": bias}
        return pack(crafted, signature_of(crafted, TRUNK))

    def ask(self, vector: np.ndarray, number: int = 1) -> SiteStatistics | ErrorReply:
        return self.site.ask(a_request(self.site.study, Phase.EVALUATE, number, vector=vector).encode())


def _insight():
    cohort = a_cohort()
    held_out = cohort.select(Split.TEST)
    model = build_model(STUDY.model, seed=STUDY.training.seed)
    seen = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().numpy()))
    predict(model, held_out, device="cpu")
    return cohort, held_out, np.concatenate(seen).astype(np.float64), trainable_tensors(model)


@pytest.fixture(scope="module")
def insight():
    return _insight()


@pytest.fixture
def probe(insight, tmp_path, monkeypatch):
    """Open the site with a minimum cell, and with the cohort in memory in place of prepared files."""
    cohort, held_out, hidden, tensors = insight

    numbers = count()

    def open_site(min_cell: int = 11, test_models: int = 1) -> Probed:
        report = PreparationReport(
            **{**dict.fromkeys(("photos", "usable", "reused", "patients"), PATIENTS), "seconds": 0.0},
            site=SITE,
            quarantined={},
            left_out={},
            background="u2netp",
            settings_digest="s",
            trunk_digest=TRUNK,
        )
        prepared = PreparedSite(manifest=Manifest(site=SITE, entries=()), cohort=cohort, report=report)
        monkeypatch.setattr("f2b_client.work.load_prepared", lambda _: prepared)
        study = replace(STUDY, evaluation=replace(STUDY.evaluation, min_cell=min_cell))
        monkeypatch.setattr("f2b_client.work.approved_study", lambda *_: study)
        folder = equip(tmp_path / f"site-{next(numbers)}")
        text = folder.policy.read_text(encoding="utf-8")
        text = re.sub(r"min_cell = \d+", f"min_cell = {min_cell}", text)
        text = re.sub(r"max_test_models = \d+", f"max_test_models = {test_models}", text)
        folder.policy.write_text(text, encoding="utf-8")
        return Probed(Site(folder, SiteWork(folder, lambda *_: None), study), held_out, hidden, tensors)

    return open_site


def alone(probed: Probed, seed: int) -> tuple[np.ndarray, float, int]:
    """A direction, a threshold beyond which one patient lies alone, and which patient that is."""
    direction = np.random.default_rng(seed).normal(size=probed.hidden.shape[1])
    scores = probed.hidden @ direction
    order = np.argsort(scores)
    return direction, float(scores[order[-2:]].mean()), int(order[-1])


def confusion(statistics: SiteStatistics) -> np.ndarray | None:
    """True by predicted class, if it was released."""
    table = statistics["all/confusion/counts"]
    return table.reshape(3, 3) if statistics["all/confusion/released"][0] else None


def test_the_attack_singles_a_patient_out_where_small_cells_may_leave(probe):
    """The bait is real: with a minimum cell of 1 the crafted model tells one patient's class."""
    probed = probe(min_cell=1)
    direction, threshold, patient = alone(probed, 0)
    table = confusion(probed.ask(probed.model(direction, threshold)))
    assert table[:, OSTEOPOROSIS].sum() == 1
    assert table[:, OSTEOPOROSIS].argmax() == probed.held_out.labels[patient]


@pytest.mark.parametrize("seed", range(12))
def test_a_model_that_singles_one_patient_out_gets_no_table_with_a_small_cell(probe, seed):
    probed = probe()
    direction, threshold, _ = alone(probed, seed)
    reply = probed.ask(probed.model(direction, threshold))
    assert isinstance(reply, SiteStatistics)
    assert small_cells(reply) == []
    assert confusion(reply) is None


@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), scale=st.sampled_from([1.0, 30.0, 1e4]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_the_crafted_model_no_small_cell_leaves(probe, seed, share, scale):
    probed = probe()
    direction = np.random.default_rng(seed).normal(size=probed.hidden.shape[1])
    threshold = float(np.quantile(probed.hidden @ direction, share))
    reply = probed.ask(probed.model(direction, threshold, scale))
    assert isinstance(reply, SiteStatistics)
    assert small_cells(reply) == []


def test_sums_leave_only_beside_the_counts_they_run_over(probe):
    """A withheld family is zero throughout: no sum of scores remains of it."""
    probed = probe()
    direction, threshold, _ = alone(probed, 3)
    reply = probed.ask(probed.model(direction, threshold, scale=30.0))
    withheld = {n.rpartition("/")[0] for n, t in reply.tables.items() if n.endswith("/released") and not t[0]}
    assert withheld
    for name, table in reply.tables.items():
        if name.rpartition("/")[0] in withheld:
            assert not table.any(), name


def two_thresholds(probed: Probed) -> list[np.ndarray]:
    """Confusion tables released for two models with one patient between their thresholds."""
    direction = np.random.default_rng(0).normal(size=probed.hidden.shape[1])
    scores = np.sort(probed.hidden @ direction)
    tables = []
    for number, place in enumerate((len(scores) // 2, len(scores) // 2 + 1), start=1):
        reply = probed.ask(probed.model(direction, float(scores[place - 1 : place + 1].mean())), number)
        if isinstance(reply, SiteStatistics) and (table := confusion(reply)) is not None:
            tables.append(table)
    return tables


def test_two_crafted_models_would_tell_one_patient_by_their_difference(probe):
    """Every cell of both tables is large; their difference is her class. No smallest cell prevents that."""
    first, second = two_thresholds(probe(test_models=2))
    assert np.abs(first - second).sum() == 2


def test_so_a_study_gets_one_model_evaluated_on_the_held_out_patients(probe):
    assert len(two_thresholds(probe())) == 1
