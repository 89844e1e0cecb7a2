"""The generator's coefficients do what they state, and its own AUC is where the study needs it."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from face2bone_model.data.synthetic.best_possible import auc, best_possible_auc, chance_of_osteoporosis
from face2bone_model.data.synthetic.generator import (
    OSTEOPOROSIS_EDGE,
    T_MEAN,
    T_SD,
    bone_model,
    generator_card,
    loadings,
)
from face2bone_model.data.synthetic.patients import draw_patient
from face2bone_model.data.synthetic.styles import BUILT_IN, style_of


def _draw(mode, sites=tuple(BUILT_IN), each=1000, seed=7):
    return [
        draw_patient(site, style_of(site).mix, seed=seed, number=number, mode=mode)
        for site in sites
        for number in range(each)
    ]


@pytest.fixture(scope="module")
def causal():
    return _draw("causal")


@pytest.fixture(scope="module")
def shortcut():
    return _draw("shortcut")


def test_the_best_possible_auc_lies_between_090_and_095_and_age_alone_reaches_no_more_than_075():
    best, age_alone = best_possible_auc("causal", seed=0, patients=3000)
    assert 0.91 < best < 0.95
    assert 0.60 < age_alone <= 0.75


def test_the_best_possible_auc_hardly_depends_on_the_seed():
    figures = [best_possible_auc("causal", seed=seed, patients=2100)[0] for seed in (1, 2)]
    assert abs(figures[0] - figures[1]) < 0.03


def test_in_shortcut_mode_nothing_does_better_than_age():
    best, age_alone = best_possible_auc("shortcut", seed=0, patients=1500)
    assert best == pytest.approx(age_alone, abs=1e-12)
    assert age_alone > 0.90


def test_classes_are_roughly_40_40_20_over_the_three_sites(causal):
    counts = Counter(patient.label for patient in causal)
    shares = [counts[label] / len(causal) for label in range(3)]
    assert shares == pytest.approx([0.40, 0.40, 0.20], abs=0.04)


def test_prevalence_differs_between_sites(causal):
    shares = [np.mean([patient.label == 2 for patient in causal[k : k + 1000]]) for k in (0, 1000, 2000)]
    assert shares[2] < shares[0] < shares[1]
    assert shares[1] - shares[2] > 0.06


def test_planted_features_correlate_with_t_as_their_loadings_state(causal):
    latent = np.array([patient.latent_t for patient in causal])
    features = np.array([patient.planted.values() for patient in causal])
    for column, (name, loading) in enumerate(loadings("causal").items()):
        slope = np.polyfit((latent - T_MEAN) / T_SD, features[:, column], 1)[0]
        assert slope == pytest.approx(loading, abs=0.06), name


def test_in_shortcut_mode_planted_features_add_nothing_to_age(shortcut):
    ages = np.array([[float(patient.age_years)] for patient in shortcut])
    features = np.array([patient.planted.values() for patient in shortcut])
    positive = np.array([patient.label == 2 for patient in shortcut])
    both = np.hstack([(ages - 66) / 10, features])
    half = len(both) // 2
    order = np.random.default_rng(0).permutation(len(both))
    first, second = order[:half], order[half:]
    with_features = LogisticRegression().fit(both[first], positive[first]).predict_proba(both[second])[:, 1]
    gain = roc_auc_score(positive[second], with_features) - roc_auc_score(positive[second], ages[second, 0])
    assert gain < 0.005
    assert abs(roc_auc_score(positive, features[:, 0]) - 0.5) < 0.05


def test_the_same_patient_looks_the_same_in_both_modes(causal, shortcut):
    assert [patient.skin for patient in causal[:20]] == [patient.skin for patient in shortcut[:20]]


def test_the_exact_chance_agrees_with_integrating_the_generator_numerically(causal):
    bone, loading = bone_model("causal"), np.array(list(loadings("causal").values()))
    latent = np.linspace(-9, 7, 4001)
    for patient in causal[:20]:
        mean = bone.expected_t(age=patient.age_years, male=patient.sex == "male", bmi=patient.bmi)
        density = norm.pdf(latent, mean, bone.residual_sd)
        for value, weight in zip(patient.planted.values(), loading, strict=True):
            density = density * norm.pdf(value, weight * (latent - T_MEAN) / T_SD, np.sqrt(1 - weight**2))
        reference = density[latent < OSTEOPOROSIS_EDGE].sum() / density.sum()
        assert chance_of_osteoporosis(patient, "causal") == pytest.approx(reference, abs=5e-3)


def test_the_exact_chance_is_calibrated(causal):
    chance = np.array([chance_of_osteoporosis(patient, "causal") for patient in causal])
    positive = np.array([patient.label == 2 for patient in causal])
    for low, high in ((0.0, 0.1), (0.1, 0.4), (0.4, 0.7), (0.7, 1.0)):
        inside = (chance >= low) & (chance < high)
        spread = 4 * np.sqrt(0.25 / inside.sum())
        assert positive[inside].mean() == pytest.approx(chance[inside].mean(), abs=spread)


def test_auc_agrees_with_scikit_learn_on_ties_too():
    rng = np.random.default_rng(3)
    scores = rng.integers(0, 8, 200).astype(float)
    positive = rng.random(200) < 0.3
    assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_every_patient_may_be_classed_by_t_score(causal):
    assert all(45 <= patient.age_years <= 88 for patient in causal)
    assert all(patient.age_years >= 50 for patient in causal if patient.sex == "male")


def test_the_label_follows_the_lowest_reported_t_score_at_both_edges(causal):
    for patient in causal:
        lowest = min(patient.t_tenths.values())
        assert lowest == round(10 * patient.latent_t)
        assert patient.label == (2 if lowest <= -25 else 0 if lowest >= -10 else 1)
    assert {-25, -24, -10, -11} <= {min(patient.t_tenths.values()) for patient in causal}


def test_a_patient_does_not_change_with_the_others_but_does_with_seed_and_site():
    def same(site, seed):
        return draw_patient(site, style_of(site).mix, seed=seed, number=4, mode="causal")

    assert same("harbour", 1) == same("harbour", 1)
    assert same("harbour", 1).latent_t != same("harbour", 2).latent_t
    assert same("harbour", 1).latent_t != same("hilltop", 1).latent_t


def test_a_site_of_any_name_has_a_style_of_its_own_that_stays():
    assert style_of("lakeside") == style_of("lakeside")
    assert style_of("lakeside") != style_of("seaside")
    assert style_of("harbour") is BUILT_IN["harbour"]


def test_the_card_states_every_coefficient():
    card = generator_card()
    assert set(card["loadings"]["causal"]) == {
        "mandible_width",
        "mandible_angle",
        "chin_projection",
        "orbital_aperture",
        "maxillary_retrusion",
    }
    assert set(card["loadings"]["shortcut"].values()) == {0.0}
    assert card["bone"]["causal"]["per_decade"] == bone_model("causal").per_decade
