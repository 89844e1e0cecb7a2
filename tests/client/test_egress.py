"""The gate: nothing leaves that the approved study does not declare, and nothing leaves unrecorded."""

import dataclasses
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from subjects import measured, subject_of

from f2b_client.egress import Gate, Release
from f2b_client.keys import make_keys, receipt_key
from f2b_client.receipts import read_receipts, verify_receipts
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import (
    BudgetError,
    EgressError,
    Face2BoneError,
    RecordsError,
    RequestError,
)
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.payload import decode
from face2bone_model.contract.policy import Policy, PrivacyPolicy, ReleasePolicy
from face2bone_model.contract.reply import ErrorReply, read_reply
from face2bone_model.contract.request import Request
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import EvaluationSettings, PrivacySettings, Study
from face2bone_model.contract.update import ModelSignature, Update
from face2bone_model.metrics.description import describe_schema, describe_update
from face2bone_model.metrics.evaluation import validation_schema, validation_update
from face2bone_model.metrics.schemas import schema_of
from face2bone_model.training.privacy import DpSegment

EVALUATION = EvaluationSettings(score_bins=20, calibration_bins=5, min_cell=1)
STUDY = Study(
    name="Bones",
    question="?",
    sites=("harbour",),
    trunk_name="random",
    trunk_digest="t",
    evaluation=EVALUATION,
)
PRIVATE_STUDY = replace(STUDY, privacy=PrivacySettings(required=True, epsilon=5.0))
SIGNATURE = ModelSignature((("weight", (4, 2)),), "t")
SCHEMA = validation_schema(EVALUATION)
DESCRIBE = describe_schema(EVALUATION)
SEGMENT = DpSegment(noise_multiplier=2.0, sample_rate=0.2, steps=4)
LABELS = np.arange(60) % 3
PROBABILITIES = np.full((60, 3), 0.2) + 0.4 * np.eye(3)[LABELS]
OPEN = Policy(release=ReleasePolicy(min_cell=1))


def new_gate(path, policy=OPEN):
    folder = SiteFolder(path)
    make_keys(folder)
    return Gate(folder, "harbour", policy)


@pytest.fixture
def gate(tmp_path):
    return new_gate(tmp_path / "site")


def asked(phase=Phase.TRAIN, number=1, study=STUDY):
    vector = None if phase is Phase.DESCRIBE else np.zeros(8, np.float32)
    return Request(
        study_hash=study.hash(), phase=phase, round=number, signature_digest=SIGNATURE.digest(), vector=vector
    )


def an_update(**changes):
    update = Update(
        vector=np.linspace(-1, 1, 8, dtype=np.float32),
        num_patients=48,
        train_loss=0.0,
        epsilon=0.0,
        delta=0.0,
        noise_multiplier=0.0,
        validation=validation_update(EVALUATION, PROBABILITIES, LABELS),
    )
    return replace(update, **changes)


def description(num_osteoporosis=20):
    labels = np.array([0] * 20 + [1] * 20 + [2] * num_osteoporosis)
    return describe_update(
        EVALUATION,
        labels=labels,
        splits=np.full(len(labels), "train"),
        female=np.ones(len(labels), bool),
        ages=np.full(len(labels), 65),
        excluded_patients=0,
        quarantined_photos=0,
    )


def let_out(gate, update, *, request=None, study=STUDY, segment=None):
    return gate.release_update(
        request or asked(study=study),
        update,
        subject=subject_of(LABELS, "validation"),
        study=study,
        signature=SIGNATURE,
        segment=segment,
    )


def describe(gate, statistics, *, request=None, study=STUDY, labels=LABELS):
    return gate.release_statistics(
        request or asked(Phase.DESCRIBE, 0), measured(statistics, labels), study=study
    )


def stored(gate):
    return [path for path in gate.folder.replies.rglob("*") if path.is_file()]


def left_nothing(gate):
    return not stored(gate) and not read_receipts(gate.folder.receipts) and not gate.ledger.segments()


def test_a_declared_update_leaves_as_it_is(gate):
    request = asked()
    reply = read_reply(let_out(gate, an_update(), request=request).payload, request_digest=request.digest)
    assert isinstance(reply, Update)
    np.testing.assert_array_equal(reply.vector, an_update().vector)
    assert reply.num_patients == 48
    for name, table in an_update().validation.tables.items():
        np.testing.assert_array_equal(reply.validation[name], table)


def test_declared_statistics_leave_as_they_are(gate):
    request = asked(Phase.DESCRIBE, 0)
    reply = read_reply(describe(gate, description(), request=request).payload, request_digest=request.digest)
    assert isinstance(reply, SiteStatistics)
    for name, table in description().tables.items():
        np.testing.assert_array_equal(reply[name], table)


def test_the_bytes_hold_the_declared_fields_and_nothing_beside_them(gate):
    tensors, header = decode(let_out(gate, an_update()).payload)
    declared = {"vector"} | {f"table/{spec.name}" for spec in SCHEMA}
    assert set(tensors) == declared
    assert set(header) == {
        "kind",
        "request",
        "num_patients",
        "train_loss",
        "epsilon",
        "delta",
        "noise_multiplier",
    }


@st.composite
def undeclared_updates(draw):
    """A valid update with one thing wrong, whatever it is."""
    update = an_update()
    kind = draw(st.sampled_from(["vector", "number", "drop", "add", "table", "value"]))
    tables = dict(update.validation.tables)
    spec = draw(st.sampled_from(SCHEMA))
    if kind == "vector":
        size = draw(st.integers(0, 20).filter(lambda size: size != 8))
        bad = np.where(np.arange(8) == draw(st.integers(0, 7)), draw(st.sampled_from([np.nan, np.inf])), 0)
        vectors = [
            np.zeros(size, np.float32),
            np.zeros(8),
            np.zeros((8, 1), np.float32),
            bad.astype(np.float32),
        ]
        return replace(update, vector=draw(st.sampled_from(vectors)))
    if kind == "number":
        names = ["num_patients", "train_loss", "epsilon", "delta", "noise_multiplier"]
        values = [-1, -0.5, float("nan"), float("inf"), "P-0001", None, [1], 2**40]
        return replace(update, **{draw(st.sampled_from(names)): draw(st.sampled_from(values))})
    if kind == "drop":
        tables.pop(spec.name)
    elif kind == "add":
        tables[draw(st.text(min_size=1).filter(lambda name: name not in tables))] = np.zeros(1, np.int64)
    elif kind == "table":
        shape = draw(st.sampled_from([(*spec.shape, 2), (7, 7), ()]))
        tables[spec.name] = np.zeros(shape, spec.dtype)
    else:
        table = tables[spec.name].astype(np.float64)
        table.flat[draw(st.integers(0, table.size - 1))] = draw(
            st.sampled_from([-1, spec.high * 2 + 1, np.nan])
        )
        fits = spec.dtype == "float64" or not np.isnan(table).any()
        tables[spec.name] = table.astype(spec.dtype) if fits else table
    return replace(update, validation=SiteStatistics(tables=tables))


@pytest.fixture(scope="module")
def shared_gate(tmp_path_factory):
    return new_gate(tmp_path_factory.mktemp("gate") / "site")


@given(undeclared_updates())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_no_undeclared_update_leaves_and_none_leaves_a_trace(shared_gate, update):
    with pytest.raises(EgressError):
        let_out(shared_gate, update)
    assert left_nothing(shared_gate)


@given(
    st.sampled_from(DESCRIBE), st.sampled_from(["drop", "rename", "float", "negative", "grow", "per patient"])
)
def test_no_undeclared_statistics_leave_and_none_leave_a_trace(shared_gate, spec, change):
    tables = dict(description().tables)
    table = tables.pop(spec.name)
    if change != "drop":
        tables |= {
            "rename": {f"{spec.name}x": table},
            "float": {spec.name: table.astype(np.float64)},
            "negative": {spec.name: table - 2**32},
            "grow": {spec.name: np.concatenate([table, table])},
            "per patient": {spec.name: np.arange(60)},
        }[change]
    with pytest.raises(EgressError):
        describe(shared_gate, SiteStatistics(tables=tables))
    assert left_nothing(shared_gate)


def test_tables_with_a_small_cell_are_zeroed_before_they_leave(tmp_path):
    gate = new_gate(tmp_path / "strict", Policy(release=ReleasePolicy(min_cell=11)))
    request = asked(Phase.DESCRIBE, 0)
    statistics = description(num_osteoporosis=10)
    labels = np.repeat([0, 1, 2], [20, 20, 10])
    left = describe(gate, statistics, request=request, labels=labels)
    reply = read_reply(left.payload, request_digest=request.digest)
    assert statistics["all/classes/counts"].tolist() == [[20, 20, 10]]
    assert reply["all/classes/counts"].tolist() == [[0, 0, 0]]
    assert reply["all/classes/released"].tolist() == [0]
    assert reply["all/totals/counts"].tolist() == [[50]]


@pytest.mark.parametrize(("of_study", "of_policy"), [(11, 5), (5, 11), (11, 11)])
def test_the_stricter_minimum_cell_holds(tmp_path, of_study, of_policy):
    gate = new_gate(tmp_path, Policy(release=ReleasePolicy(min_cell=of_policy)))
    assert gate.min_cell(replace(STUDY, evaluation=replace(EVALUATION, min_cell=of_study))) == 11


@pytest.mark.parametrize(
    ("study", "policy", "epsilon", "delta"),
    [
        (PrivacySettings(epsilon=3, delta=1e-6), PrivacyPolicy(epsilon_limit=8, delta_limit=1e-5), 3, 1e-6),
        (PrivacySettings(epsilon=8, delta=1e-5), PrivacyPolicy(epsilon_limit=3, delta_limit=1e-6), 3, 1e-6),
        (PrivacySettings(epsilon=3, delta=1e-5), PrivacyPolicy(epsilon_limit=8, delta_limit=1e-6), 3, 1e-6),
    ],
)
def test_the_stricter_privacy_holds(tmp_path, study, policy, epsilon, delta):
    gate = new_gate(tmp_path, Policy(privacy=policy))
    terms = gate.privacy_terms(replace(STUDY, privacy=study))
    assert (terms.epsilon, terms.delta) == (epsilon, delta)
    assert (gate.epsilon_limit(replace(STUDY, privacy=study)), gate.delta(replace(STUDY, privacy=study))) == (
        epsilon,
        delta,
    )


@pytest.mark.parametrize("demanded_by", ["study", "hospital"])
def test_an_update_without_privacy_stays_where_privacy_is_demanded(tmp_path, demanded_by):
    policy = replace(OPEN, privacy=PrivacyPolicy(require_dp=demanded_by == "hospital"))
    gate = new_gate(tmp_path / "site", policy)
    study = PRIVATE_STUDY if demanded_by == "study" else STUDY
    with pytest.raises(EgressError, match="differential privacy"):
        let_out(gate, an_update(), study=study)
    assert left_nothing(gate)


def test_a_private_update_is_charged_once_and_says_what_was_spent(gate):
    request = asked(study=PRIVATE_STUDY)
    release = let_out(
        gate, an_update(noise_multiplier=2.0), request=request, study=PRIVATE_STUDY, segment=SEGMENT
    )
    reply = read_reply(release.payload, request_digest=request.digest)
    assert isinstance(reply, Update)
    assert gate.ledger.segments() == (SEGMENT,)
    assert reply.epsilon == gate.ledger.spent(PRIVATE_STUDY.privacy.delta) > 0
    assert reply.delta == PRIVATE_STUDY.privacy.delta


def test_a_site_cannot_understate_what_it_spent(gate):
    update = an_update(epsilon=0.001, delta=1e-9)
    request = asked(study=PRIVATE_STUDY)
    release = let_out(gate, update, request=request, study=PRIVATE_STUDY, segment=SEGMENT)
    reply = read_reply(release.payload, request_digest=request.digest)
    assert reply.epsilon == gate.ledger.spent(1e-5) > 0.001


def test_a_loss_on_private_patients_stays(gate):
    with pytest.raises(EgressError, match="loss"):
        let_out(gate, an_update(train_loss=0.7), study=PRIVATE_STUDY, segment=SEGMENT)
    assert left_nothing(gate)


def test_past_the_budget_nothing_leaves_and_nothing_more_is_charged(gate):
    def one_more():
        left = len(gate.ledger.segments())
        request = asked(number=left + 1, study=PRIVATE_STUDY)
        return let_out(gate, an_update(), request=request, study=PRIVATE_STUDY, segment=SEGMENT)

    while gate.ledger.spent(1e-5) < 4.8:
        one_more()
    rounds, spent = len(gate.ledger.segments()), gate.ledger.spent(1e-5)
    with pytest.raises(BudgetError):
        [one_more() for _ in range(20)]
    assert len(gate.ledger.segments()) == len(read_receipts(gate.folder.receipts)) >= rounds > 1
    assert spent <= gate.ledger.spent(1e-5) <= 5.0


def test_asked_again_the_same_bytes_leave_and_nothing_is_charged(gate):
    request = asked(study=PRIVATE_STUDY)
    assert gate.again(request) is None
    first = let_out(gate, an_update(), request=request, study=PRIVATE_STUDY, segment=SEGMENT)
    restarted = Gate(gate.folder, gate.site, gate.policy)
    again = restarted.again(asked(study=PRIVATE_STUDY))
    assert again == first
    assert len(restarted.ledger.segments()) == 1
    assert [receipt.kind for receipt in read_receipts(gate.folder.receipts)] == ["update", "repeat"]


def test_a_round_is_answered_for_one_model_only(gate):
    """The difference of two models' sums would tell about single patients."""
    request = asked()
    other = replace(request, vector=np.ones(8, np.float32))
    let_out(gate, an_update(), request=request)
    with pytest.raises(RequestError, match="answered for 1 other models"):
        gate.again(other)
    with pytest.raises(RequestError):
        let_out(gate, an_update(), request=other)
    assert gate.again(replace(request, round=2)) is None
    lenient = replace(gate, policy=Policy(release=ReleasePolicy(min_cell=1, max_models_per_round=2)))
    assert lenient.again(other) is None


def test_the_held_out_patients_are_asked_about_one_model_in_a_study(gate):
    def evaluation(number, split=Split.TEST):
        return replace(asked(Phase.EVALUATE, number), split=split)

    for split, labels in ((Split.TEST, "test"), (Split.VALIDATION, "validation")):
        schema = schema_of(Phase.EVALUATE, split, EVALUATION)
        tables = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in schema}
        gate.release_statistics(
            evaluation(1, split), measured(SiteStatistics(tables=tables), LABELS, labels), study=STUDY
        )
    with pytest.raises(RequestError, match="held-out"):
        gate.again(evaluation(2))
    assert gate.again(evaluation(2, Split.VALIDATION)) is None


def test_every_release_has_a_receipt_of_its_very_bytes(gate):
    releases = [
        describe(gate, description()),
        let_out(gate, an_update()),
        gate.again(asked()),
        gate.release_error(asked(number=2), "d" * 64, 31),
        gate.release_error(None, "d" * 64, 23),
    ]
    receipts = read_receipts(gate.folder.receipts)
    assert [r.payload_digest for r in receipts] == [hashlib.sha256(r.payload).hexdigest() for r in releases]
    assert [r.kind for r in receipts] == ["statistics", "update", "repeat", "error 31", "error 23"]
    assert [r.size_bytes for r in receipts] == [len(r.payload) for r in releases]
    assert verify_receipts(gate.folder.receipts, receipt_key(gate.folder).public_key()) == ""


def test_without_a_receipt_nothing_is_stored_and_nothing_leaves(gate):
    gate.folder.receipts.mkdir()  # the receipts cannot be written
    with pytest.raises(RecordsError, match="unable to open"):
        let_out(gate, an_update())
    assert not stored(gate)


def test_without_the_key_nothing_leaves_not_even_an_error(gate):
    (gate.folder.keys / "receipts").unlink()
    with pytest.raises(Face2BoneError):
        let_out(gate, an_update())
    with pytest.raises(Face2BoneError):
        gate.release_error(None, "d" * 64, 23)
    assert left_nothing(gate)


def test_a_reply_that_cannot_be_stored_costs_nothing_and_stays(gate):
    gate.folder.replies.write_text("in the way", encoding="utf-8")
    with pytest.raises(OSError, match="replies"):
        let_out(gate, an_update(), study=PRIVATE_STUDY, segment=SEGMENT)
    assert read_receipts(gate.folder.receipts) == ()
    assert gate.ledger.segments() == ()


def test_a_step_longer_than_the_study_permits_stays(gate):
    study = replace(STUDY, training=replace(STUDY.training, max_update_norm=1.0))
    with pytest.raises(EgressError, match="the study permits 1"):
        let_out(gate, an_update(), study=study)
    assert left_nothing(gate)


def test_receipts_say_to_whom(tmp_path):
    gate = replace(new_gate(tmp_path / "site"), to="centre.example:9092")
    let_out(gate, an_update())
    gate.release_error(None, "d" * 64, 23)
    assert {receipt.to for receipt in read_receipts(gate.folder.receipts)} == {"centre.example:9092"}


def test_a_reply_past_the_hospitals_size_stays_and_costs_nothing(tmp_path):
    policy = Policy(release=ReleasePolicy(min_cell=1, max_bytes_per_reply=500))
    gate = new_gate(tmp_path / "site", policy)
    with pytest.raises(EgressError, match="permits 500"):
        let_out(gate, an_update(), study=PRIVATE_STUDY, segment=SEGMENT)
    with pytest.raises(EgressError, match="permits 500"):
        describe(gate, description())
    assert left_nothing(gate)


def test_rounds_past_the_hospitals_limit_stay(tmp_path):
    gate = new_gate(tmp_path / "site", Policy(release=ReleasePolicy(min_cell=1, max_rounds=3)))
    let_out(gate, an_update(), request=asked(number=3))
    with pytest.raises(EgressError, match="limit of 3 rounds"):
        let_out(gate, an_update(), request=asked(number=4))
    assert len(stored(gate)) == 1


def test_an_error_leaves_as_its_number_and_is_not_stored(gate):
    release = gate.release_error(asked(), "d" * 64, 32)
    tensors, header = decode(release.payload)
    assert tensors == {}
    assert header == {"kind": "error", "code": 32, "request": "d" * 64}
    assert read_reply(release.payload, request_digest="d" * 64) == ErrorReply(32)
    assert gate.again(asked()) is None


def test_a_release_is_bytes_and_nothing_else():
    assert [(field.name, field.type) for field in dataclasses.fields(Release)] == [("payload", bytes)]


def test_receipts_name_study_phase_and_round(gate):
    let_out(gate, an_update(), request=asked(number=7))
    gate.release_error(None, "d" * 64, 23)
    known, unknown = read_receipts(gate.folder.receipts)
    assert (known.study_hash, known.phase, known.round) == (STUDY.hash(), "train", 7)
    assert (unknown.study_hash, unknown.phase) == ("0" * 64, "unknown")
    assert "train" in json.loads(known.body())["phase"]
