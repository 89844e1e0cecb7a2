"""What a site answers: an update, statistics, or the number of an error. Only the client's gate writes one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import EgressError, RequestError
from face2bone_model.contract.payload import Scalar, decode
from face2bone_model.contract.statistics import SiteStatistics, TableSpec, check_statistics
from face2bone_model.contract.update import ModelSignature, Update

UPDATE_NUMBERS = ("num_patients", "train_loss", "epsilon", "delta", "noise_multiplier")
TABLE_PREFIX = "table/"
LARGEST_NUMBER = 2**31
BLOCK = 1_000_000
"""Scalars of an update that are looked at together."""


@dataclass(frozen=True)
class ErrorReply:
    """A site's refusal: a number of `docs/exit-codes/`, nothing else."""

    code: int


Reply = Update | SiteStatistics | ErrorReply


def update_content(update: Update) -> tuple[dict[str, NDArray[Any]], dict[str, Scalar]]:
    """Arrays and header of an update."""
    header: dict[str, Scalar] = {"kind": "update"}
    header |= {name: getattr(update, name) for name in UPDATE_NUMBERS}
    return {"vector": update.vector, **_prefixed(update.validation)}, header


def statistics_content(statistics: SiteStatistics) -> tuple[dict[str, NDArray[Any]], dict[str, Scalar]]:
    """Arrays and header of statistics."""
    return _prefixed(statistics), {"kind": "statistics"}


def error_content(code: int) -> tuple[dict[str, NDArray[Any]], dict[str, Scalar]]:
    """Arrays and header of an error: its number."""
    return {}, {"kind": "error", "code": code}


def read_reply(payload: bytes, *, request_digest: str) -> Reply:
    """Parse a reply to the request with this digest.

    Raises:
        RequestError: the bytes are no reply, or answer another request.
    """
    tensors, header = decode(payload)
    if header.get("request") != request_digest:
        raise RequestError("The reply answers another request.")
    return reply_of(tensors, header)


def reply_of(tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Scalar]) -> Reply:
    """The reply that these arrays and this header are.

    Raises:
        RequestError: they are none.
    """
    tables = {name.removeprefix(TABLE_PREFIX): table for name, table in tensors.items() if name != "vector"}
    try:
        match header["kind"]:
            case "error":
                return ErrorReply(int(header["code"]))
            case "statistics":
                return SiteStatistics(tables=tables)
            case "update":
                numbers: Mapping[str, Any] = {name: header[name] for name in UPDATE_NUMBERS}
                return Update(vector=tensors["vector"], validation=SiteStatistics(tables=tables), **numbers)
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise RequestError("The reply lacks a field.") from error
    raise RequestError(f"The reply is of an unknown kind, '{header['kind']}'.")


def check_update(update: Update, signature: ModelSignature, validation_schema: Sequence[TableSpec]) -> None:
    """Refuse an update that is not exactly what the study declares. Site and coordinator both call it.

    Raises:
        EgressError: the vector has another length or dtype or is not finite, or a number is out of range.
    """
    if update.vector.shape != (signature.size,) or update.vector.dtype != np.float32:
        raise EgressError(
            f"The update is {update.vector.dtype}{update.vector.shape}, declared float32({signature.size},)."
        )
    if not np.isfinite(update.vector).all():
        raise EgressError("The update holds values that are not finite.", "Lower the learning rate.")
    in_range = all(_in_range(getattr(update, name)) for name in UPDATE_NUMBERS)
    if not in_range or type(update.num_patients) is not int or update.num_patients < 1:
        raise EgressError("A number beside the update is negative, too large or of the wrong type.")
    check_statistics(update.validation, validation_schema)


def check_step(
    vector: NDArray[np.float32], received: NDArray[np.float32] | None, max_update_norm: float
) -> None:
    """Refuse an update that lies farther from the model received than the study permits.

    Args:
        vector: what would leave, shape (signature.size,).
        received: the global model of the request, of the same shape.
        max_update_norm: of the study, L2.

    Raises:
        EgressError: there is no model to compare with, or the step is too long or not a number.
    """
    if received is None or received.shape != vector.shape:
        raise EgressError("The update cannot be compared with a model: the request carried none of its size.")
    length = math.sqrt(sum(_squares(vector, received, start) for start in range(0, vector.size, BLOCK)))
    if not length <= max_update_norm:  # so that NaN is refused too
        raise EgressError(
            f"The update is a step of length {length:.3g}; the study permits {max_update_norm:g}.",
            "Lower the learning rate, or look for broken labels at this site.",
        )


def _squares(vector: NDArray[np.float32], received: NDArray[np.float32], start: int) -> float:
    """Sum of the squared differences in one block: whole vectors in double precision would be four models."""
    block = slice(start, start + BLOCK)
    step = vector[block].astype(np.float64) - received[block]
    return float(step @ step)


def _in_range(value: object) -> bool:
    """Whether it is a number from 0 to `LARGEST_NUMBER`; NaN and infinity are not, nor is a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST_NUMBER


def _prefixed(statistics: SiteStatistics) -> dict[str, NDArray[Any]]:
    return {TABLE_PREFIX + name: table for name, table in statistics.tables.items()}
