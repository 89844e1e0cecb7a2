"""Groups, cohort descriptions, checks of what goes in, and the JSON that comes out."""

import json

import numpy as np
import pytest

from face2bone_model.contract.errors import SettingsError, UnexpectedError
from face2bone_model.contract.payload import encode
from face2bone_model.contract.statistics import check_statistics
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.description import describe_schema, describe_update
from face2bone_model.metrics.evaluation import evaluation_update, validation_update
from face2bone_model.metrics.subgroup import groups, locate, membership
from face2bone_model.metrics.summary import describe_summary, evaluation_report, validation_summary

STUDY = EvaluationSettings()


def site(n=90, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet([1, 1, 1], n), rng.integers(0, 3, n), rng.random(n) < 0.6, rng.integers(45, 90, n)


def test_groups_are_named_by_sex_and_age_band():
    assert groups(STUDY) == (
        "all", "sex:female", "sex:male", "age:<50", "age:50-59", "age:60-69", "age:70-79", "age:80+",
    )  # fmt: skip
    assert locate(STUDY, "age:60-69") == ("age", 2)
    with pytest.raises(KeyError):
        locate(STUDY, "age:61")


def test_every_patient_is_in_one_group_of_each_family_and_edges_start_a_band():
    ages = np.array([49, 50, 59, 60, 79, 80, 101])
    members = membership(STUDY, np.array([True, False, True, True, False, True, False]), ages)
    assert members[0].all()
    assert (members[1:3].sum(axis=0) == 1).all()
    assert members[3:].argmax(axis=0).tolist() == [0, 1, 1, 2, 3, 4, 4]
    assert (members[3:].sum(axis=0) == 1).all()


@pytest.mark.parametrize("edges", [(), (60, 50), (50, 50)])
def test_age_edges_that_do_not_rise_are_refused(edges):
    with pytest.raises(SettingsError, match="rising"):
        groups(EvaluationSettings(age_edges=edges))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([np.nan, 0.5, 0.5], "1 of 4 patients"),
        ([0.2, 0.2, 0.2], "1 of 4 patients"),
        ([-0.5, 0.5, 1], "1 of 4 patients"),
    ],
)
def test_what_is_no_probability_is_refused(row, message):
    with pytest.raises(UnexpectedError, match=message):
        validation_update(STUDY, np.array([row] + [[0.2, 0.3, 0.5]] * 3), np.array([0, 1, 2, 0]))


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 3], [0, -1, 2]])
def test_labels_of_other_patients_are_refused(labels):
    with pytest.raises(UnexpectedError, match="do not describe the same patients"):
        validation_update(STUDY, np.full((3, 3), 1 / 3), np.array(labels))


def test_float32_probabilities_are_taken():
    probabilities, labels, *_ = site()
    first = validation_update(STUDY, probabilities.astype(np.float32), labels)
    second = validation_update(STUDY, probabilities, labels)
    assert first["all/losses/brier"] == pytest.approx(second["all/losses/brier"], rel=1e-5)


def test_a_cohort_is_counted_by_split_class_and_group():
    _, labels, female, ages = site(120)
    splits = np.random.default_rng(1).choice(["train", "validation", "test"], 120)
    statistics = describe_update(
        STUDY,
        labels=labels,
        splits=splits,
        female=female,
        ages=ages,
        excluded_patients=7,
        quarantined_photos=3,
    )
    check_statistics(statistics, describe_schema(STUDY))
    summary = describe_summary(statistics + statistics, STUDY)
    assert summary.sites == 2
    assert summary.patients_by_split["test"] == 2 * (splits == "test").sum()
    assert summary.patients_by_class["osteopenia"] == 2 * (labels == 1).sum()
    assert (
        summary.patients_by_split_and_class["train"]["normal"]
        == 2 * ((splits == "train") & (labels == 0)).sum()
    )
    assert summary.patients_by_group["sex:male"] == 2 * (~female).sum()
    assert (
        summary.patients_by_group_and_class["age:80+"]["osteoporosis"]
        == 2 * ((ages >= 80) & (labels == 2)).sum()
    )
    assert (summary.excluded_patients, summary.quarantined_photos) == (14, 6)
    assert json.loads(summary.to_json())["patients_by_group"]["all"] == 240


def test_a_patient_in_no_split_is_refused():
    with pytest.raises(UnexpectedError, match="none of the splits"):
        describe_update(
            STUDY,
            labels=np.array([0]),
            splits=np.array(["holdout"]),
            female=np.array([True]),
            ages=np.array([60]),
            excluded_patients=0,
            quarantined_photos=0,
        )


def test_the_summary_is_json_without_nan():
    probabilities, labels, female, ages = site(12)
    text = evaluation_report(evaluation_update(STUDY, probabilities, labels, female, ages), STUDY).to_json()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert report["groups"]["all"]["n"] == 12
    assert report["groups"]["age:<50"]["metrics"]["auc:osteoporosis"]["exact"] == "bound"
    assert report["groups"]["all"]["reliability"]["top_label"]
    assert (
        json.loads(validation_summary(validation_update(STUDY, probabilities, labels), STUDY).to_json())["n"]
        == 12
    )


def test_a_site_without_patients_has_reasons_and_no_failure():
    nobody = evaluation_update(STUDY, np.zeros((0, 3)), np.zeros(0, int), np.zeros(0, bool), np.zeros(0, int))
    for group in evaluation_report(nobody, STUDY).groups.values():
        assert group.n == 0
        for name, estimate in group.metrics.items():
            assert not estimate.known, name
            assert estimate.reason, name


def test_an_evaluation_stays_small_on_the_wire():
    statistics = evaluation_update(STUDY, *site(300))
    assert len(encode(statistics.tables, {})) < 200_000
    assert len(encode(validation_update(STUDY, *site(300)[:2]).tables, {})) < 10_000
