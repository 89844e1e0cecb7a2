"""Named tensors and the one vector they travel in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from face2bone_model.contract.errors import SignatureError
from face2bone_model.contract.update import ModelSignature, pack, signature_of, unpack

NAMED = st.dictionaries(
    st.text("abcdef.", min_size=1, max_size=6),
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=0, max_dims=3, max_side=4),
        elements=st.floats(width=32, allow_nan=False),
    ),
    min_size=1,
    max_size=5,
)


@given(NAMED)
def test_unpacking_undoes_packing(tensors):
    signature = signature_of(tensors, "trunk")
    vector = pack(tensors, signature)
    assert vector.shape == (signature.size,)
    assert vector.dtype == np.float32
    found = unpack(vector, signature)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].shape == tensor.shape


@given(NAMED)
def test_the_order_in_which_tensors_are_named_does_not_matter(tensors):
    backwards = {name: tensors[name] for name in reversed(tensors)}
    signature = signature_of(tensors, "trunk")
    assert signature_of(backwards, "trunk") == signature
    np.testing.assert_array_equal(pack(backwards, signature), pack(tensors, signature))


def test_the_digest_changes_with_name_shape_and_trunk():
    digests = {
        ModelSignature((("a", (2, 3)),), "t").digest(),
        ModelSignature((("b", (2, 3)),), "t").digest(),
        ModelSignature((("a", (3, 2)),), "t").digest(),
        ModelSignature((("a", (2, 3)),), "u").digest(),
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": np.zeros(2)},
        {"a": np.zeros(2), "b": np.zeros(3), "c": np.zeros(1)},
        {"a": np.zeros(2), "c": np.zeros(3)},
        {"a": np.zeros(2), "b": np.zeros((3, 1))},
    ],
    ids=["missing", "extra", "renamed", "reshaped"],
)
def test_tensors_of_another_model_are_not_packed(tensors):
    signature = ModelSignature((("a", (2,)), ("b", (3,))), "trunk")
    with pytest.raises(SignatureError, match="study's model"):
        pack(tensors, signature)


@pytest.mark.parametrize(
    "vector", [np.zeros(4, np.float32), np.zeros(6, np.float32), np.zeros((5, 1), np.float32)]
)
def test_a_vector_of_another_length_is_not_unpacked(vector):
    signature = ModelSignature((("a", (2,)), ("b", (3,))), "trunk")
    with pytest.raises(SignatureError, match="scalars"):
        unpack(vector, signature)
