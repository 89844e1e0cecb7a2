"""The container on the wire: whole both ways, equal bytes for equal content, and nothing else gets in."""

import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from safetensors.numpy import save as save_tensors

from face2bone_model.contract.errors import RequestError
from face2bone_model.contract.payload import (
    HEADER_LIMIT_BYTES,
    decode,
    decode_view,
    digest,
    encode,
    encoded,
    map_file,
)

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
    lambda name: name != "__metadata__"
)
ARRAYS = st.sampled_from([np.float32, np.float64, np.int64, np.uint8]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=1, max_dims=3, max_side=4))
)
SCALARS = (
    st.text(max_size=20)
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)
TENSORS = st.dictionaries(NAMES, ARRAYS, max_size=4)
HEADERS = st.dictionaries(st.text(max_size=12), SCALARS, max_size=5)


@given(tensors=TENSORS, header=HEADERS)
def test_what_was_encoded_is_decoded_whole(tensors, header):
    found, found_header = decode(encode(tensors, header))
    assert found_header == header
    assert found.keys() == tensors.keys()
    for name, table in tensors.items():
        assert found[name].dtype == table.dtype
        assert found[name].shape == table.shape
        assert found[name].tobytes() == table.tobytes()


@given(tensors=TENSORS, header=HEADERS)
def test_the_order_of_names_does_not_change_the_bytes(tensors, header):
    backwards = {name: tensors[name] for name in reversed(tensors)}
    header_backwards = {name: header[name] for name in reversed(header)}
    assert encode(tensors, header) == encode(backwards, header_backwards)


def test_the_layout_of_an_array_in_memory_does_not_change_the_bytes():
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert encode({"a": table}, {}) == encode({"a": np.asfortranarray(table)}, {})


def test_the_bytes_of_a_known_payload_are_the_same_on_every_machine():
    payload = encode(
        {"b": np.arange(3, dtype=np.float32), "a": np.ones((1, 2), np.int64)}, {"round": 1, "k": "x"}
    )
    assert digest(payload) == "f7a8e4f1fea0632d1a8996a281f111419ab2adf10aeb225a7a0ebc2baddfa52a"


@given(st.binary(max_size=400))
@example(pickle.dumps({"vector": [1.0]}))
@example(b"")
@example(b"\x00" * 8)
@example((2**63 - 1).to_bytes(8, "little") + b"{}")
def test_garbage_and_pickles_are_refused(payload):
    with pytest.raises(RequestError):
        decode(payload)


def test_a_numpy_file_with_a_pickled_object_is_refused():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RequestError):
        decode(buffer.getvalue())


@given(st.integers(0, 400), st.integers(1, 255))
@settings(suppress_health_check=[HealthCheck.filter_too_much])
def test_a_damaged_payload_never_fails_in_another_way(position, change):
    payload = bytearray(encode({"vector": np.arange(8, dtype=np.float32)}, {"round": 1, "phase": "train"}))
    payload[position % len(payload)] ^= change
    try:
        tensors, header = decode(bytes(payload))
    except RequestError:
        return
    assert isinstance(tensors, dict)
    assert isinstance(header, dict)


def test_a_header_past_the_limit_is_refused():
    payload = encode({}, {"text": "x" * HEADER_LIMIT_BYTES})
    with pytest.raises(RequestError, match="header is too large"):
        decode(payload)


@pytest.mark.parametrize("header", ['{"a": [1]}', '{"a": {"b": 1}}', '{"a": null}', "[1]", '"text"', "{"])
def test_a_header_that_is_not_a_flat_table_is_refused(header):
    with pytest.raises(RequestError):
        decode(save_tensors({}, metadata={"header": header}))


def test_a_header_nested_past_pythons_stack_is_refused():
    with pytest.raises(RequestError):
        decode(save_tensors({}, metadata={"header": "[" * 60_000}))


def test_a_container_without_our_header_is_refused():
    with pytest.raises(RequestError):
        decode(save_tensors({"a": np.ones(1, np.float32)}, metadata={"other": "{}"}))


def test_a_tensor_of_a_kind_numpy_does_not_have_is_refused_or_read():
    header = json.dumps(
        {"__metadata__": {"header": "{}"}, "a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}
    ).encode()
    try:
        tensors, _ = decode(len(header).to_bytes(8, "little") + header + b"\x00")
    except RequestError:
        return
    assert set(tensors) == {"a"}


def test_numbers_that_json_does_not_have_are_not_encoded():
    with pytest.raises(ValueError, match="JSON"):
        encode({}, {"loss": float("nan")})


def same(found, tensors):
    assert found.keys() == tensors.keys()
    for name, table in tensors.items():
        assert (found[name].dtype, found[name].shape) == (table.dtype, table.shape)
        assert found[name].tobytes() == table.tobytes()


@given(tensors=TENSORS, header=HEADERS)
def test_what_was_encoded_is_seen_whole_without_a_copy(tensors, header):
    payload = encode(tensors, header)
    found, found_header = decode_view(payload)
    assert found_header == header
    same(found, tensors)
    whole = np.frombuffer(payload, np.uint8)
    assert all(np.shares_memory(table, whole) and not table.flags.writeable for table in found.values())


@given(tensors=TENSORS, header=HEADERS)
def test_what_is_encoded_in_pieces_is_what_safetensors_reads(tensors, header):
    payload = b"".join(encoded(tensors, header))
    found, found_header = decode(payload)
    assert found_header == header
    same(found, tensors)
    assert b"".join(encoded(dict(reversed(tensors.items())), header)) == payload


def test_pieces_of_a_long_array_stay_small():
    table = np.arange(3_000_001, dtype=np.float32).reshape(3_000_001, 1)
    pieces = list(encoded({"a": table}, {}))
    assert max(map(len, pieces)) <= 4_000_000
    same(decode(b"".join(pieces))[0], {"a": table})


def test_a_file_is_seen_as_its_bytes_and_an_empty_one_is_no_container(tmp_path):
    (tmp_path / "a").write_bytes(encode({"x": np.arange(5)}, {"k": 1}))
    tensors, header = decode_view(map_file(tmp_path / "a"))
    assert (tensors["x"].tolist(), header) == ([0, 1, 2, 3, 4], {"k": 1})
    assert digest(map_file(tmp_path / "a")) == digest((tmp_path / "a").read_bytes())
    (tmp_path / "b").write_bytes(b"")
    with pytest.raises(RequestError):
        decode_view(map_file(tmp_path / "b"))


VALID = encode({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4)}, {"k": "v"})


@given(position=st.integers(0, len(VALID) - 1), value=st.integers(0, 255), end=st.integers(0, len(VALID)))
def test_whatever_bytes_come_the_view_refuses_or_agrees_with_safetensors(position, value, end):
    damaged = bytearray(VALID)
    damaged[position] = value
    for payload in (bytes(damaged), VALID[:end], VALID + bytes(damaged[:3])):
        try:
            found, header = decode_view(payload)
        except RequestError:
            continue
        expected, expected_header = decode(payload)
        assert header == expected_header
        same(found, expected)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]},
        {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "U8", "shape": [2**70], "data_offsets": [0, 2**70]},
        {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]},
        [],
        {},
    ],
)
def test_a_table_that_does_not_describe_the_data_is_refused(entry):
    front = json.dumps({"__metadata__": {"header": "{}"}, "a": entry}).encode()
    with pytest.raises(RequestError):
        decode_view(len(front).to_bytes(8, "little") + front + b"\0" * 4)
