"""A reply is read back whole, answers one request, and what it says is checked before it is used."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.contract.errors import EgressError, Face2BoneError, RequestError
from face2bone_model.contract.payload import encode
from face2bone_model.contract.reply import (
    UPDATE_NUMBERS,
    ErrorReply,
    check_step,
    check_update,
    error_content,
    read_reply,
    statistics_content,
    update_content,
)
from face2bone_model.contract.statistics import SiteStatistics, TableSpec
from face2bone_model.contract.update import ModelSignature, Update

REQUEST = "c" * 64
SIGNATURE = ModelSignature((("weight", (2, 2)), ("zero", (1,))), "trunk")
SCHEMA = (TableSpec(name="all/n", shape=(1,)), TableSpec(name="all/loss", shape=(2,), dtype="float64"))
TABLES = SiteStatistics(tables={"all/n": np.array([40]), "all/loss": np.array([1.5, 0.25])})


def an_update(**changes):
    update = Update(
        vector=np.arange(5, dtype=np.float32),
        num_patients=40,
        train_loss=0.7,
        epsilon=1.25,
        delta=1e-5,
        noise_multiplier=2.0,
        validation=TABLES,
    )
    return replace(update, **changes)


def sent(content, request=REQUEST, **changes):
    tensors, header = content
    return encode(tensors, {**header, "request": request, **changes})


def test_an_update_arrives_as_it_was_sent():
    got = read_reply(sent(update_content(an_update())), request_digest=REQUEST)
    assert isinstance(got, Update)
    assert got.vector.tobytes() == an_update().vector.tobytes()
    assert [getattr(got, name) for name in UPDATE_NUMBERS] == [40, 0.7, 1.25, 1e-5, 2.0]
    assert {name: table.tolist() for name, table in got.validation.tables.items()} == {
        "all/n": [40],
        "all/loss": [1.5, 0.25],
    }
    check_update(got, SIGNATURE, SCHEMA)


def test_statistics_arrive_as_they_were_sent():
    got = read_reply(sent(statistics_content(TABLES)), request_digest=REQUEST)
    assert isinstance(got, SiteStatistics)
    assert got["all/loss"].tolist() == [1.5, 0.25]


@given(st.integers(0, 999))
def test_a_refusal_arrives_as_its_number(code):
    assert read_reply(sent(error_content(code)), request_digest=REQUEST) == ErrorReply(code)


@pytest.mark.parametrize(
    "content", [update_content(an_update()), statistics_content(TABLES), error_content(31)]
)
def test_a_reply_to_another_request_is_refused(content):
    with pytest.raises(RequestError, match="another request"):
        read_reply(sent(content, request="d" * 64), request_digest=REQUEST)


def test_a_reply_of_an_unknown_kind_is_refused():
    with pytest.raises(RequestError, match="unknown kind"):
        read_reply(sent(({}, {"kind": "song"})), request_digest=REQUEST)


@pytest.mark.parametrize("missing", [*UPDATE_NUMBERS, "kind"])
def test_a_reply_that_lacks_a_field_is_refused(missing):
    tensors, header = update_content(an_update())
    header.pop(missing)
    with pytest.raises(RequestError, match="lacks a field"):
        read_reply(sent((tensors, header)), request_digest=REQUEST)


def test_an_update_without_its_vector_is_refused():
    tensors, header = update_content(an_update())
    tensors.pop("vector")
    with pytest.raises(RequestError, match="lacks a field"):
        read_reply(sent((tensors, header)), request_digest=REQUEST)


JSON_NUMBERS = (
    st.text(max_size=5)
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
)


@given(name=st.sampled_from([*UPDATE_NUMBERS, "kind", "code"]), value=JSON_NUMBERS)
def test_whatever_a_hostile_site_writes_beside_an_update_is_a_numbered_fault(name, value):
    tensors, header = update_content(an_update())
    payload = sent((tensors, {**header, name: value}))
    try:
        reply = read_reply(payload, request_digest=REQUEST)
        if isinstance(reply, Update):
            check_update(reply, SIGNATURE, SCHEMA)
    except Face2BoneError:
        return
    assert isinstance(reply, Update | ErrorReply | SiteStatistics)
    assert not isinstance(reply, Update) or 1 <= reply.num_patients <= 2**31


@pytest.mark.parametrize("code", ["Infinity", "NaN", "1e999"])
def test_an_error_whose_number_is_not_a_number_is_refused(code):
    payload = sent(error_content(7)).replace(b'code\\":7', b'code\\":' + code.encode())
    length = int.from_bytes(payload[:8], "little") + len(code) - 1
    with pytest.raises(RequestError):
        read_reply(length.to_bytes(8, "little") + payload[8:], request_digest=REQUEST)


@pytest.mark.parametrize(
    "vector",
    [
        np.arange(4, dtype=np.float32),
        np.arange(6, dtype=np.float32),
        np.arange(5, dtype=np.float64),
        np.zeros((5, 1), np.float32),
        np.array([0, 0, np.nan, 0, 0], np.float32),
        np.array([0, 0, np.inf, 0, 0], np.float32),
    ],
    ids=["short", "long", "float64", "matrix", "nan", "infinite"],
)
def test_a_vector_that_is_not_the_declared_model_is_refused(vector):
    with pytest.raises(EgressError, match="update"):
        check_update(an_update(vector=vector), SIGNATURE, SCHEMA)


@pytest.mark.parametrize("name", UPDATE_NUMBERS)
@pytest.mark.parametrize(
    "value", [-1, float("nan"), float("inf"), "many", True, 10**400], ids=lambda value: str(value)[:8]
)
def test_a_number_beside_the_update_that_is_out_of_range_is_refused(name, value):
    with pytest.raises(EgressError, match="number beside the update"):
        check_update(an_update(**{name: value}), SIGNATURE, SCHEMA)


@pytest.mark.parametrize("count", [0, 40.0, 2**31 + 1])
def test_the_weight_of_an_update_is_a_count_of_patients(count):
    with pytest.raises(EgressError, match="number beside the update"):
        check_update(an_update(num_patients=count), SIGNATURE, SCHEMA)


def test_validation_sums_of_an_update_are_checked_too():
    tables = {**TABLES.tables, "all/names": np.array([1])}
    with pytest.raises(EgressError, match="all/names"):
        check_update(an_update(validation=SiteStatistics(tables=tables)), SIGNATURE, SCHEMA)


@pytest.mark.parametrize(
    ("length", "limit", "leaves"), [(5.0, 5.0, True), (5.001, 5.0, False), (0.0, 0.0, True)]
)
def test_a_step_longer_than_the_study_permits_does_not_leave(length, limit, leaves):
    received = np.full(4, 7, np.float32)
    vector = received + np.array([0.6, 0, 0.8, 0], np.float32) * length
    if leaves:
        check_step(vector, received, limit + 1e-5)
    else:
        with pytest.raises(EgressError, match="step of length 5"):
            check_step(vector, received, limit)


@pytest.mark.parametrize("received", [None, np.zeros(3, np.float32)])
def test_a_step_from_no_model_does_not_leave(received):
    with pytest.raises(EgressError, match="cannot be compared"):
        check_step(np.zeros(4, np.float32), received, 1.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_a_step_that_is_not_a_number_or_huge_does_not_leave(value):
    with pytest.raises(EgressError):
        check_step(np.full(4, value, np.float32), np.zeros(4, np.float32), 1e6)
