"""How well anybody could do on a synthetic cohort: the generator's own AUC.

Given age, sex, body mass index and the five planted features, the latent T-score is normal with known mean and
variance, because every line of `generator` is linear with normal noise. So the probability of osteoporosis is exact;
only the AUC over the population is a Monte Carlo figure, from `patients` draws of the generator.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import rankdata

from face2bone_model.contract.keys import OSTEOPOROSIS
from face2bone_model.data.synthetic.generator import (
    OSTEOPOROSIS_EDGE,
    T_MEAN,
    T_SD,
    Mode,
    bone_model,
    loadings,
)
from face2bone_model.data.synthetic.patients import Patient, draw_patient
from face2bone_model.data.synthetic.styles import BUILT_IN, style_of

_DEFAULT_PATIENTS = 9_000


def chance_of_osteoporosis(patient: Patient, mode: Mode) -> float:
    """P(T <= -2.5 | planted features, age, sex, body mass index), exactly."""
    bone = bone_model(mode)
    prior = bone.expected_t(age=patient.age_years, male=patient.sex == "male", bmi=patient.bmi)
    loading = np.array(list(loadings(mode).values()))
    noise_variance = 1 - loading**2
    features = np.array(patient.planted.values())
    precision = 1 / bone.residual_sd**2 + float(np.sum((loading / T_SD) ** 2 / noise_variance))
    evidence = float(np.sum(loading / T_SD * (features + loading * T_MEAN / T_SD) / noise_variance))
    mean = (prior / bone.residual_sd**2 + evidence) / precision
    return float(ndtr((OSTEOPOROSIS_EDGE - mean) * np.sqrt(precision)))


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of `scores` (P,): the Mann-Whitney statistic, ties counting half."""
    ranks = rankdata(scores)
    cases, others = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - cases * (cases + 1) / 2) / (cases * others))


def best_possible_auc(
    mode: Mode = "causal",
    seed: int = 0,
    patients: int = _DEFAULT_PATIENTS,
    sites: Sequence[str] = tuple(BUILT_IN),
) -> tuple[float, float]:
    """AUC of osteoporosis against the rest, pooled over `sites`: the best possible, and by age alone.

    Args:
        mode: which generator.
        seed: of the Monte Carlo draw; the standard error at 9 000 patients is about 0.003.
        patients: number of draws, shared equally among the sites.
        sites: whose case mix.
    """
    drawn = [
        draw_patient(site, style_of(site).mix, seed=seed, number=number, mode=mode)
        for site in sites
        for number in range(patients // len(sites))
    ]
    positive = np.array([patient.label == OSTEOPOROSIS for patient in drawn])
    chance = np.array([chance_of_osteoporosis(patient, mode) for patient in drawn])
    ages = np.array([float(patient.age_years) for patient in drawn])
    return auc(chance, positive), auc(ages, positive)
