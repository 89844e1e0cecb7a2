"""Bytes on the wire: raw arrays and a flat JSON header in one safetensors container. No pickle, no code."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from face2bone_model.contract.errors import RequestError

Scalar = str | int | float | bool
HEADER_LIMIT_BYTES = 65_536


def encode(tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Scalar]) -> bytes:
    """Pack arrays and header. The same input gives the same bytes on every machine."""
    text = json.dumps(dict(header), sort_keys=True, separators=(",", ":"), allow_nan=False)
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    # One metadata key: safetensors does not fix the order of several.
    return save_tensors(ordered, metadata={"header": text})


def decode(payload: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Scalar]]:
    """Unpack what `encode` made.

    Raises:
        RequestError: the bytes are not such a container, or its header is not a flat table of scalars.
    """
    try:
        tensors = load_tensors(payload)
        length = int.from_bytes(payload[:8], "little")
        if length > HEADER_LIMIT_BYTES:
            raise RequestError("The payload's header is too large.")
        header = json.loads(json.loads(payload[8 : 8 + length])["__metadata__"]["header"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError("The payload is not a face2bone container.") from error
    if not isinstance(header, dict) or not all(isinstance(value, Scalar) for value in header.values()):
        raise RequestError("The payload's header is not a flat table.")
    return tensors, header


def digest(payload: bytes) -> str:
    """SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(payload).hexdigest()
