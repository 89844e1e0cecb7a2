"""A checkpoint after each round: the model, who contributed, the history. Atomic, synced, verified on load."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import InputError, SettingsError
from face2bone_model.contract.payload import decode, digest, encode
from face2bone_model.contract.update import ModelSignature
from face2bone_model.system.files import write_atomic, write_json


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one site contributed to one round."""

    num_patients: int
    train_loss: float
    epsilon: float
    delta: float
    noise_multiplier: float
    bytes_received: int
    seconds: float
    payload_digest: str


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round."""

    round: int
    contributions: Mapping[str, Contribution]
    faults: Mapping[str, str] = field(default_factory=dict)
    """Sites that did not contribute, and why."""
    bytes_sent: int
    """Size of the request to each site."""


@dataclass(frozen=True)
class Checkpoint:
    """The global model after a round, and its record."""

    record: RoundRecord
    vector: NDArray[np.float32]


def save_checkpoint(folder: StudyFolder, checkpoint: Checkpoint) -> None:
    """Write the round's folder; durable on return. The record is written last: without it the round is not done."""
    path = _round_folder(folder, checkpoint.record.round)
    payload = encode({"vector": checkpoint.vector}, {"round": checkpoint.record.round})
    write_atomic(path / "model.safetensors", payload)
    write_json(path / "record.json", {**asdict(checkpoint.record), "model_digest": digest(payload)})


def load_checkpoint(folder: StudyFolder, round_number: int) -> Checkpoint:
    """Read a round back.

    Raises:
        InputError: the model does not match the digest in its record.
    """
    path = _round_folder(folder, round_number)
    record = json.loads((path / "record.json").read_text(encoding="utf-8"))
    payload = (path / "model.safetensors").read_bytes()
    if digest(payload) != record.pop("model_digest"):
        raise InputError(
            f"{path / 'model.safetensors'} is damaged.", "Remove the folder; the round is run again."
        )
    record["contributions"] = {site: Contribution(**one) for site, one in record["contributions"].items()}
    return Checkpoint(RoundRecord(**record), decode(payload)[0]["vector"])


def finished_rounds(folder: StudyFolder) -> int:
    """Number of the last round of an unbroken series from 1; 0 before the first."""
    number = 0
    while (_round_folder(folder, number + 1) / "record.json").exists():
        number += 1
    return number


def load_history(folder: StudyFolder) -> tuple[RoundRecord, ...]:
    """Records of all finished rounds."""
    return tuple(load_checkpoint(folder, number).record for number in range(1, finished_rounds(folder) + 1))


def load_initial(folder: StudyFolder) -> tuple[NDArray[np.float32], ModelSignature]:
    """The model before round 1 and its signature, as `study new` made them.

    Raises:
        SettingsError: the file is missing.
    """
    if not folder.initial.exists():
        raise SettingsError(f"{folder.initial} is missing.", "Run `f2b-server study check` to make it.")
    tensors, header = decode(folder.initial.read_bytes())
    tensor_list: list[list[Any]] = json.loads(str(header["tensors"]))
    named = tuple((str(name), tuple(int(n) for n in shape)) for name, shape in tensor_list)
    return tensors["vector"], ModelSignature(named, str(header["trunk_digest"]))


def _round_folder(folder: StudyFolder, round_number: int) -> Path:
    return folder.rounds / f"{round_number:03d}"
