"""A model's tensors on disk, with a card: safetensors and JSON, written durably, verified when read. No torch.

`NAME.safetensors` is the checkpoint: it carries the tensors, the card and a digest over both, so it is whole or not
there.
`NAME.json` is the card again, for people.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from face2bone_model.contract.errors import WeightsError
from face2bone_model.system.files import write_atomic

Tensors = Mapping[str, NDArray[Any]]


def save_checkpoint(path: Path, tensors: Tensors, card: Mapping[str, Any]) -> str:
    """Write `path` (ending in .safetensors) and the card beside it.

    Args:
        path: where; its folder exists.
        tensors: by name.
        card: what the model is and how it came about; JSON values.

    Returns:
        The digest: SHA-256 over tensors and card.
    """
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    text = _canonical(card)
    digest = _digest(ordered, text)
    envelope = json.dumps({"card": text, "digest": digest}, sort_keys=True)
    write_atomic(path, save(ordered, metadata={"checkpoint": envelope}))
    readable = json.dumps({**card, "sha256": digest}, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path.with_suffix(".json"), f"{readable}\n".encode())
    return digest


def load_checkpoint(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Tensors and card of a checkpoint.

    Raises:
        WeightsError: the file is missing, is not a checkpoint, or was changed since it was written.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- not a mapping
            envelope = json.loads((file.metadata() or {})["checkpoint"])
        text, digest = envelope["card"], envelope["digest"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a checkpoint that can be read ({error}).",
            "Restore it from a copy, or use an earlier one.",
        ) from error
    if _digest(tensors, text) != digest:
        raise WeightsError(
            f"{path} was changed since it was written.", "Restore it from a copy, or use an earlier one."
        )
    return tensors, dict(json.loads(text))


def _canonical(card: Mapping[str, Any]) -> str:
    return json.dumps(card, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(tensors: Tensors, card: str) -> str:
    digest = hashlib.sha256(card.encode())
    for name in sorted(tensors):
        digest.update(f"\n{name} {tensors[name].dtype.str} {tensors[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
