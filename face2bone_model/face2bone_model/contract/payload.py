"""Bytes on the wire: raw arrays and a flat JSON header in one safetensors container. No pickle, no code."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from face2bone_model.contract.errors import RequestError

Scalar = str | int | float | bool
HEADER_LIMIT_BYTES = 65_536
BLOCK_BYTES = 4_000_000
_NOT_OURS = "The payload is not a face2bone container."
_KINDS = {
    "BOOL": np.dtype(bool),
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Scalar]) -> bytes:
    """Pack arrays and header. The same input gives the same bytes on every machine."""
    text = json.dumps(dict(header), sort_keys=True, separators=(",", ":"), allow_nan=False)
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    # One metadata key: safetensors does not fix the order of several.
    return save_tensors(ordered, metadata={"header": text})


def encoded(tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Scalar]) -> Iterator[bytes]:
    """What `encode` packs, in pieces: memory-mapped arrays of any length pass without being held in memory."""
    text = json.dumps(dict(header), sort_keys=True, separators=(",", ":"), allow_nan=False)
    about: dict[str, Any] = {"__metadata__": {"header": text}}
    # safetensors wants the arrays of the largest element first, so that each lies aligned.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    end = 0
    for name in names:
        array = tensors[name]
        start, end = end, end + array.nbytes
        about[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
    front = json.dumps(about, separators=(",", ":")).encode()
    front += b" " * (-len(front) % 8)
    yield len(front).to_bytes(8, "little") + front
    for name in names:
        flat = np.ascontiguousarray(tensors[name]).reshape(-1)
        step = max(1, BLOCK_BYTES // flat.itemsize)
        yield from (flat[start : start + step].tobytes() for start in range(0, flat.size, step))


def decode(payload: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Scalar]]:
    """Unpack what `encode` made.

    Raises:
        RequestError: the bytes are not such a container, or its header is not a flat table of scalars.
    """
    try:
        tensors = load_tensors(payload)
        header = _own_header(_front(payload)[0])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(_NOT_OURS) from error
    return tensors, header


def decode_view(payload: bytes | NDArray[np.uint8]) -> tuple[dict[str, NDArray[Any]], dict[str, Scalar]]:
    """Unpack what `encode` made without copying: the arrays are windows onto the payload, and read-only.

    Args:
        payload: the bytes, or a mapped file (`map_file`).

    Raises:
        RequestError: the bytes are not such a container, or its header is not a flat table of scalars.
    """
    content = np.frombuffer(payload, np.uint8)
    try:
        about, start = _front(content)
        header = _own_header(about)
        del about["__metadata__"]
        tensors = _windows(content[start:], about)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(_NOT_OURS) from error
    return tensors, header


def map_file(path: Path) -> NDArray[np.uint8]:
    """A file's bytes, memory-mapped and read-only, shape (bytes,). It may be removed while it is mapped.

    Raises:
        OSError: it cannot be read.
    """
    if path.stat().st_size == 0:
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "r")


def _front(payload: bytes | NDArray[np.uint8]) -> tuple[dict[str, Any], int]:
    """The container's own table of arrays and metadata, and where its data begin."""
    length = int.from_bytes(bytes(payload[:8]), "little")
    if length > HEADER_LIMIT_BYTES:
        raise RequestError("The payload's header is too large.")
    about = json.loads(bytes(payload[8 : 8 + length]))
    if not isinstance(about, dict):
        raise TypeError
    return about, 8 + length


def _own_header(about: Mapping[str, Any]) -> dict[str, Scalar]:
    header = json.loads(about["__metadata__"]["header"])
    if not isinstance(header, dict) or not all(isinstance(value, Scalar) for value in header.values()):
        raise RequestError("The payload's header is not a flat table.")
    return header


def _windows(data: NDArray[np.uint8], about: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays. They lie one behind the other and fill the data, so that nothing hides between them."""
    tensors: dict[str, NDArray[Any]] = {}
    end = 0
    for name, entry in sorted(about.items(), key=lambda item: item[1]["data_offsets"]):
        kind, shape, (start, stop) = _KINDS[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        sizes = (*shape, start, stop)
        if not all(type(size) is int and size >= 0 for size in sizes) or start != end:
            raise ValueError(name)
        if stop - start != math.prod(shape) * kind.itemsize or stop > data.size:
            raise ValueError(name)
        tensors[name] = data[start:stop].view(kind).reshape(shape)
        end = stop
    if end != data.size:
        raise ValueError
    return tensors


def digest(payload: bytes | NDArray[np.uint8]) -> str:
    """SHA-256 of the bytes, in hexadecimal."""
    return hashlib.sha256(payload if isinstance(payload, bytes) else payload.data).hexdigest()
