"""The model card: Markdown and JSON tell the same, free text stays text, and limits are said."""

import json
from dataclasses import replace

import numpy as np
import pytest

from face2bone_model.contract.study import ModelSettings, PrivacySettings, StrategySettings, Study
from face2bone_model.metrics.description import describe_update
from face2bone_model.metrics.evaluation import evaluation_update, validation_update
from face2bone_model.metrics.summary import describe_summary, evaluation_report, validation_summary
from face2bone_model.report.formats import plain_estimate
from face2bone_model.report.model_card import CardSite, ModelCard
from face2bone_model.report.model_card_files import card_json, card_markdown
from face2bone_model.report.model_card_words import limitations

STUDY = Study(
    name="Bones", question="Can a face tell?", sites=("north",), trunk_name="facenet", trunk_digest="00"
)
NORTH = CardSite(
    name="north",
    patients={"train": 50, "validation": 20, "test": 30},
    rounds_contributed=2,
    epsilon=1.25,
    delta=1e-5,
    noise_multiplier=1.5,
)


def card_of(**changed):
    rng = np.random.default_rng(0)
    labels, ages, female = np.arange(120) % 3, rng.integers(45, 90, 120), rng.random(120) < 0.6
    scores = rng.dirichlet(np.ones(3), 120)
    splits = np.where(np.arange(120) % 5 == 0, "test", "train")
    counts = {"excluded_patients": 1, "quarantined_photos": 2}
    settings = STUDY.evaluation
    described = describe_update(
        settings, labels=labels, splits=splits, female=female, ages=ages, ellipse_only=True, **counts
    )
    card = ModelCard(
        study=STUDY,
        round=2,
        chosen_round=2,
        checkpoint="c0",
        scalars=1234567,
        software_version="1",
        synthetic=False,
        cohort=describe_summary(described, settings),
        sites=(NORTH,),
        missing={},
        validation=validation_summary(validation_update(settings, scores, labels), settings),
        evaluation=evaluation_report(evaluation_update(settings, scores, labels, female, ages), settings),
    )
    return replace(card, **changed)


def both(card):
    return card_markdown(card).decode(), json.loads(card_json(card))


def test_both_forms_tell_the_same_figures():
    card = card_of()
    text, record = both(card)
    for name, figure in record["evaluation"]["groups"]["all"]["figures"].items():
        estimate = card.evaluation.groups["all"].metrics[name]
        expected = None if np.isnan(estimate.value) else estimate.value
        assert figure["value"] == expected
    for name in ("auc:osteoporosis", "brier", "log_loss"):
        assert plain_estimate(card.evaluation.groups["all"].metrics[name]) in text
    assert record["definitions"]
    assert all(one["source"] and one["definition"] for one in record["definitions"])
    assert record["cohort"]["patients_by_class"] == {"normal": 40, "osteopenia": 40, "osteoporosis": 40}


def test_every_card_says_what_it_is_not_for():
    text, record = both(card_of(evaluation=None, validation=None, cohort=None, chosen_round=0))
    for words in (
        "Not a medical device",
        "Clinical decisions about any patient",
        "A reconstruction of a published idea",
    ):
        assert words in text
    assert record["not_for"]
    assert record["evaluation"] is None
    assert "Cohort sizes were not released" in text
    assert "Preliminary" in text


def test_privacy_is_told_for_each_hospital():
    off = replace(NORTH, name="south", noise_multiplier=0.0, epsilon=0.0, patients=None)
    text, record = both(card_of(sites=(NORTH, off)))
    assert "| north | 50 | 20 | 30 | 2 | ε 1.25, δ 10⁻⁵, noise 1.5 |" in text
    assert "| south | withheld | withheld | withheld | 2 | off |" in text
    assert [site["private"] for site in record["sites"]] == [True, False]
    assert record["privacy"]["every_site"] is False
    assert both(card_of())[1]["privacy"]["every_site"] is True


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"synthetic": True}, "drawn by a program"),
        ({"chosen_round": 3}, "NOT the study's chosen model"),
        ({"study": replace(STUDY, trunk_name="random")}, "seeded random numbers"),
        (
            {"study": replace(STUDY, strategy=StrategySettings(personal=("head.*",)))},
            "head.* stayed at each hospital",
        ),
        (
            {"study": replace(STUDY, evaluation=replace(STUDY.evaluation, min_cell=1))},
            "Small cells were not withheld",
        ),
        (
            {"sites": (replace(NORTH, noise_multiplier=0.0),)},
            "Not every hospital trained with differential privacy",
        ),
        ({"missing": {2: {"south": "late"}, 5: {"south": "late"}}}, "in these rounds: 2, 5."),
    ],
)
def test_what_limits_this_model_is_said_and_only_then(changed, words):
    assert any(words in sentence for sentence in limitations(card_of(**changed)))
    assert not any(words in sentence for sentence in limitations(card_of()))


def test_a_hospital_without_a_background_network_is_said():
    assert any("elliptical mask" in sentence for sentence in limitations(card_of()))


def test_free_text_cannot_become_markup():
    study = replace(STUDY, name="<script>x</script> | [a](http://b)", question="line\n# heading")
    text, record = both(card_of(study=study))
    assert "<script>" not in text
    assert "[a](" not in text.replace("\\[a\\](", "")
    assert "\n# heading" not in text
    assert record["name"] == study.name


def test_terms_of_the_study_are_on_the_card():
    study = replace(
        STUDY, model=ModelSettings(inputs="both"), privacy=PrivacySettings(required=True, epsilon=3.0)
    )
    text, record = both(card_of(study=study))
    assert "required of every hospital" in text
    assert "ε 3 at δ 1e-05" in text
    assert record["model"]["inputs"] == "both"
    assert study.hash() in text
