"""Checkpoints: whole, verified, and only finished rounds count."""

import numpy as np
import pytest

from f2b_server.checkpoint import (
    Checkpoint,
    Contribution,
    RoundRecord,
    finished_rounds,
    load_checkpoint,
    load_history,
    load_initial,
    save_checkpoint,
)
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import InputError, SettingsError

VECTOR = np.linspace(-1, 1, 9, dtype=np.float32)


def contribution(**changes):
    values = {"num_patients": 40, "train_loss": 0.5, "epsilon": 1.25, "delta": 1e-5, "noise_multiplier": 2.0}
    more = {"bytes_received": 100, "seconds": 1.5, "payload_digest": "d" * 64}
    return Contribution(**{**values, **more, **changes})


def checkpoint(number=1):
    record = RoundRecord(
        round=number, contributions={"harbour": contribution()}, faults={"hilltop": "silent"}, bytes_sent=5
    )
    return Checkpoint(record, VECTOR * number)


@pytest.fixture
def empty(tmp_path):
    return StudyFolder(tmp_path)


def test_a_checkpoint_is_read_as_it_was_written(empty):
    save_checkpoint(empty, checkpoint())
    found = load_checkpoint(empty, 1)
    assert found.record == checkpoint().record
    assert found.vector.tobytes() == VECTOR.tobytes()


def test_the_same_checkpoint_has_the_same_bytes(empty, tmp_path):
    for name in ("a", "b"):
        save_checkpoint(StudyFolder(tmp_path / name), checkpoint())
    for file in ("model.safetensors", "record.json"):
        one, two = ((tmp_path / n / "rounds" / "001" / file).read_bytes() for n in ("a", "b"))
        assert one == two


def test_rounds_count_as_far_as_their_series_is_unbroken(empty):
    assert finished_rounds(empty) == 0
    for number in (1, 2, 4):
        save_checkpoint(empty, checkpoint(number))
    assert finished_rounds(empty) == 2
    assert [record.round for record in load_history(empty)] == [1, 2]


def test_a_half_written_round_does_not_count_and_is_written_over(empty):
    save_checkpoint(empty, checkpoint(1))
    save_checkpoint(empty, checkpoint(2))
    (empty.rounds / "002" / "record.json").unlink()  # the record is written last
    (empty.rounds / "002" / ".model.safetensors.x1").write_bytes(b"torn")
    assert finished_rounds(empty) == 1
    save_checkpoint(empty, checkpoint(2))
    assert load_checkpoint(empty, 2).record.round == 2


@pytest.mark.parametrize("position", [0, 8, 40, -1])
def test_a_damaged_model_is_refused(empty, position):
    save_checkpoint(empty, checkpoint())
    path = empty.rounds / "001" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"model.safetensors is damaged"):
        load_checkpoint(empty, 1)


def test_a_model_of_another_round_is_refused(empty):
    for number in (1, 2):
        save_checkpoint(empty, checkpoint(number))
    (empty.rounds / "001" / "model.safetensors").write_bytes(
        (empty.rounds / "002" / "model.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(empty, 1)


def test_the_initial_model_and_its_signature_are_read_or_missed_by_name(empty, folder):
    vector, signature = load_initial(folder)
    assert vector.tolist() == [0.0] * 9
    assert (signature.size, signature.tensors) == (9, (("bias", (3,)), ("weight", (2, 3))))
    with pytest.raises(SettingsError, match=r"initial.safetensors is missing"):
        load_initial(empty)
