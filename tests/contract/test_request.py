"""A request is read back whole or refused by number."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from face2bone_model.contract.errors import ProtocolError, RequestError
from face2bone_model.contract.keys import PROTOCOL_VERSION, Phase, Split
from face2bone_model.contract.payload import decode, digest, encode
from face2bone_model.contract.request import Request, read_request

VECTOR = np.linspace(-1, 1, 7, dtype=np.float32)


def a_request(phase=Phase.TRAIN, **changes):
    vector = None if phase is Phase.DESCRIBE else VECTOR
    fields = {
        "study_hash": "a" * 64,
        "phase": phase,
        "round": 3,
        "signature_digest": "b" * 64,
        "vector": vector,
    }
    return Request(**{**fields, **changes})


def resent(request, *, tensors=None, drop=(), **header):
    """The request's bytes with another header or other tensors."""
    old_tensors, old_header = decode(request.encode())
    kept = {name: value for name, value in old_header.items() if name not in drop}
    return encode(old_tensors if tensors is None else tensors, {**kept, **header})


@given(
    phase=st.sampled_from(list(Phase)),
    split=st.sampled_from(list(Split)),
    number=st.integers(0, 10_000),
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
)
def test_a_request_arrives_as_it_was_sent(phase, split, number, values):
    vector = None if phase is Phase.DESCRIBE else np.array(values, np.float32)
    sent = a_request(phase, split=split, round=number, vector=vector)
    got = read_request(sent.encode())
    assert (got.study_hash, got.phase, got.round, got.signature_digest, got.split) == (
        sent.study_hash,
        sent.phase,
        sent.round,
        sent.signature_digest,
        sent.split,
    )
    assert (got.vector is None) == (vector is None)
    assert vector is None or got.vector.tobytes() == vector.tobytes()
    assert got.digest == sent.digest == digest(sent.encode())


def test_equal_requests_have_equal_bytes_and_other_rounds_other_keys():
    assert a_request().encode() == a_request().encode()
    assert a_request().key != a_request(round=4).key
    assert a_request().key.startswith("train-003-")


def test_the_split_changes_the_key_so_that_a_stored_reply_is_never_of_other_patients():
    request = a_request(Phase.EVALUATE, split=Split.VALIDATION)
    assert request.key != a_request(Phase.EVALUATE, split=Split.TEST).key


@pytest.mark.parametrize("version", [0, PROTOCOL_VERSION + 1, "1", True, 1.0])
def test_another_protocol_version_is_told_before_anything_else(version):
    payload = resent(a_request(), protocol=version, phase="dance")
    with pytest.raises(ProtocolError, match="protocol"):
        read_request(payload)


def test_a_request_without_protocol_version_is_refused():
    with pytest.raises(ProtocolError):
        read_request(resent(a_request(), drop=("protocol",)))


@pytest.mark.parametrize("change", [{"phase": "dance"}, {"split": "everyone"}, {"phase": ""}])
def test_an_unknown_phase_or_split_is_refused(change):
    with pytest.raises(RequestError, match="unknown"):
        read_request(resent(a_request(), **change))


@pytest.mark.parametrize(
    "change",
    [
        {"round": "3"},
        {"round": 3.0},
        {"round": True},
        {"study_hash": 5},
        {"signature_digest": 1.0},
        {"more": 1},
    ],
)
def test_a_field_of_another_type_or_an_extra_field_is_refused(change):
    with pytest.raises(RequestError, match="fields"):
        read_request(resent(a_request(), **change))


@pytest.mark.parametrize("name", ["study_hash", "phase", "round", "signature_digest", "split"])
def test_a_missing_field_is_refused(name):
    with pytest.raises(RequestError, match="fields"):
        read_request(resent(a_request(), drop=(name,)))


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.EVALUATE])
@pytest.mark.parametrize("tensors", [{}, {"vector": VECTOR, "more": VECTOR}, {"weights": VECTOR}])
def test_missing_or_extra_tensors_are_refused(phase, tensors):
    with pytest.raises(RequestError, match="carries the tensors"):
        read_request(resent(a_request(phase), tensors=tensors))


def test_describe_carries_no_model():
    with pytest.raises(RequestError, match="carries the tensors"):
        read_request(resent(a_request(Phase.DESCRIBE), tensors={"vector": VECTOR}))


@pytest.mark.parametrize(
    "vector",
    [
        np.array([1, np.nan], np.float32),
        np.array([1, np.inf], np.float32),
        np.ones(3, np.float64),
        np.ones(3, np.int64),
        np.ones((1, 3), np.float32),
    ],
    ids=["nan", "infinite", "float64", "integers", "matrix"],
)
def test_a_model_that_is_no_finite_float32_vector_is_refused(vector):
    with pytest.raises(RequestError, match="not finite|not a float32 vector"):
        read_request(resent(a_request(), tensors={"vector": vector}))
