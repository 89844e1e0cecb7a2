"""Whether federated learning pays: against the data in one place, each hospital alone, and the best possible.

Three rendered hospitals of 300 patients, trained by a real federation (processes, TLS), no differential privacy.
Takes about fifteen minutes the first time; the cohorts are kept in .cache/learning. Run with `make test-slow`.
"""

import csv
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from federation_runs import Demo, run_demo
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from f2b_client.prepare import load_prepared
from f2b_client.settings import SiteFolder
from face2bone_model.contract.keys import OSTEOPOROSIS, Split
from face2bone_model.contract.release import verified_release
from face2bone_model.contract.study import Study, load_study
from face2bone_model.data.cohort import Cohort
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import load_trainable
from face2bone_model.training.evaluate import predict
from face2bone_model.training.train import train_round

SITES = ("harbour", "hilltop", "riverside")
PATIENTS, ROUNDS = 300, 10
BOOTSTRAPS = 2000
KEPT = Path(__file__).parents[2] / ".cache" / "learning"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@dataclass(frozen=True)
class Scores:
    """Osteoporosis scores of every held-out patient, by who trained the model."""

    labels: NDArray[np.bool_]
    strata: NDArray[np.int64]
    """Site and class: what the bootstrap keeps."""
    federated: NDArray[np.float64]
    pooled: NDArray[np.float64]
    alone: tuple[NDArray[np.float64], ...]
    best: NDArray[np.float64]
    """The generator's own posterior given everything it drew the label from."""


@pytest.fixture(scope="module")
def scores() -> Scores:
    demo = run_demo(
        KEPT, "--patients", str(PATIENTS), "--rounds", str(ROUNDS), "--private-site", "none", timeout=5400
    )
    study = load_study(demo.study / "study.toml")
    cohorts = [load_prepared(SiteFolder(demo.site(site))).cohort for site in SITES]
    together = combine(cohorts)
    chance = chances(demo)
    known = np.array([patient in chance for patient in together.patient_ids])  # not those of the odd photos
    held_out = np.flatnonzero(known & (together.splits == Split.TEST.value))
    test = together.take(held_out)
    sites = np.concatenate([np.full(cohort.num_patients, i) for i, cohort in enumerate(cohorts)])[held_out]
    return Scores(
        labels=test.labels == OSTEOPOROSIS,
        strata=sites * 3 + test.labels,
        federated=scores_of_release(demo, study, test),
        pooled=trained_on(together, study, test),
        alone=tuple(trained_on(combine([cohort]), study, test) for cohort in cohorts),
        best=np.array([chance[patient] for patient in test.patient_ids]),
    )


def combine(cohorts: list[Cohort]) -> Cohort:
    """The cohorts in one place: what no hospital would permit, and what federated learning is measured against."""
    offsets = np.cumsum([0, *(len(cohort.features) for cohort in cohorts)])
    rows = tuple(r + o for cohort, o in zip(cohorts, offsets, strict=False) for r in cohort.photo_rows)
    return replace(
        cohorts[0],
        features=np.concatenate([cohort.features for cohort in cohorts]),
        faces=np.concatenate([cohort.faces for cohort in cohorts]),
        photo_rows=rows,
        patient_ids=tuple(patient for cohort in cohorts for patient in cohort.patient_ids),
        **{
            name: np.concatenate([getattr(cohort, name) for cohort in cohorts])
            for name in ("labels", "ages", "female", "clinical", "splits")
        },
    )


def trained_on(cohort: Cohort, study: Study, test: Cohort) -> NDArray[np.float64]:
    """Same network, same start, as many passes over the data as the federation; the best pass by validation loss."""
    model = build_model(study.model, seed=study.training.seed)
    passes = study.training.rounds * study.training.local_epochs
    settings = replace(study.training, local_epochs=passes, patience=passes)
    train_round(
        model, cohort.select(Split.TRAIN), cohort.select(Split.VALIDATION), settings, seed=1, device="cpu"
    )
    return predict(model, test, device="cpu")[:, OSTEOPOROSIS]


def scores_of_release(demo: Demo, study: Study, test: Cohort) -> NDArray[np.float64]:
    model = build_model(study.model, seed=0)
    released = sorted((demo.study / "models").glob("*.release.zip"))[-1]
    load_trainable(model, verified_release(released, demo.study / "ca" / "ca.pem").tensors())
    return predict(model, test, device="cpu")[:, OSTEOPOROSIS]


def chances(demo: Demo) -> dict[str, float]:
    """Each patient's exact chance of osteoporosis, from the generator's truth."""
    found: dict[str, float] = {}
    for site in SITES:
        with (demo.site(site) / "truth" / "truth.csv").open() as file:
            found |= {row["patient"]: float(row["chance_of_osteoporosis"]) for row in csv.DictReader(file)}
    return found


def auc(scores: Scores, of: NDArray[np.float64], chosen: NDArray[np.int64] | None = None) -> float:
    index = np.arange(len(of)) if chosen is None else chosen
    return float(roc_auc_score(scores.labels[index], of[index]))


def difference(scores: Scores, other: list[NDArray[np.float64]], name: str) -> tuple[float, float, float]:
    """AUC of the federated model minus the mean of the others', with a 95 % bootstrap interval over patients.

    Patients are drawn with replacement within site and class, the same for both models (paired), percentile interval.
    """
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(scores.strata == stratum) for stratum in np.unique(scores.strata)]

    def once(chosen: NDArray[np.int64] | None) -> float:
        return auc(scores, scores.federated, chosen) - float(
            np.mean([auc(scores, one, chosen) for one in other])
        )

    draws = [
        once(np.concatenate([rng.choice(group, len(group)) for group in groups])) for _ in range(BOOTSTRAPS)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    value = once(None)
    federated, compared = auc(scores, scores.federated), auc(scores, scores.federated) - value
    sys.stderr.write(
        f"\nAUC, osteoporosis against the rest, {len(scores.labels)} held-out patients: federated {federated:.3f}, "
        f"{name} {compared:.3f}; difference {value:+.3f} ({low:+.3f} to {high:+.3f})\n"
    )
    return value, float(low), float(high)


def test_federated_learning_loses_at_most_two_hundredths_to_the_same_data_in_one_place(
    scores: Scores,
) -> None:
    assert difference(scores, [scores.pooled], "all data in one place")[0] >= -0.02


def test_federated_learning_beats_the_mean_hospital_alone(scores: Scores) -> None:
    assert difference(scores, list(scores.alone), "mean of three hospitals alone")[0] > 0


def test_federated_learning_comes_within_five_hundredths_of_the_best_possible(scores: Scores) -> None:
    assert difference(scores, [scores.best], "best possible")[0] >= -0.05
