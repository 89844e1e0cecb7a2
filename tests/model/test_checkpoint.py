"""Checkpoints: what was written is what is read, or a numbered error."""

import json

import numpy as np
import pytest

from face2bone_model.contract.errors import WeightsError
from face2bone_model.models.checkpoint import load_checkpoint, save_checkpoint

TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([1, 2], np.int64)}
CARD = {"study": "Knochen Ü", "round": 3, "sites": ["A", "B"], "auc": 0.5}


def test_tensors_and_card_come_back_as_they_were(tmp_path):
    save_checkpoint(tmp_path / "model.safetensors", TENSORS, CARD)
    tensors, card = load_checkpoint(tmp_path / "model.safetensors")
    assert card == CARD
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert np.array_equal(tensor, TENSORS[name])


def test_the_card_beside_it_can_be_read_by_a_person(tmp_path):
    digest = save_checkpoint(tmp_path / "model.safetensors", TENSORS, CARD)
    text = (tmp_path / "model.json").read_text(encoding="utf-8")
    assert json.loads(text) == {**CARD, "sha256": digest}
    assert "Knochen Ü" in text


def test_the_same_model_gives_the_same_bytes(tmp_path):
    first = save_checkpoint(tmp_path / "one.safetensors", TENSORS, CARD)
    second = save_checkpoint(tmp_path / "two.safetensors", dict(reversed(TENSORS.items())), CARD)
    assert first == second
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.parametrize("place", [-1, -30, 200])
def test_a_changed_byte_is_noticed(tmp_path, place):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, TENSORS, CARD)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path, content):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a checkpoint"):
        load_checkpoint(path)


def test_overwriting_leaves_no_other_file(tmp_path):
    for number in range(3):
        save_checkpoint(tmp_path / "model.safetensors", TENSORS, {"round": number})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    assert load_checkpoint(tmp_path / "model.safetensors")[1] == {"round": 2}
