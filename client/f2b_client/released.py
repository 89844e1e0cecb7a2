"""The very numbers that left with one receipt, decoded from the stored reply."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from f2b_client.receipts import ERROR, Receipt
from f2b_client.replies import ReplyStore
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import InputError, error_types
from face2bone_model.contract.payload import Scalar, decode
from face2bone_model.contract.reply import TABLE_PREFIX


@dataclass(frozen=True, kw_only=True)
class Released:
    """What one reply says."""

    header: dict[str, Scalar]
    vector: NDArray[np.float32] | None
    """Trained numbers; None where none left."""
    tables: dict[str, NDArray[Any]]
    """Sums and counts."""


def released(folder: SiteFolder, receipt: Receipt) -> Released | None:
    """What left with a receipt; None where the reply is no longer stored."""
    number = refused_with(receipt)
    if number is not None:
        return Released(header={"kind": "error", "code": number}, vector=None, tables={})
    payload = ReplyStore(folder.replies).named(receipt.payload_digest)
    if payload is None:
        return None
    tensors, header = decode(payload)
    vector = tensors.pop("vector", None)
    tables = {name.removeprefix(TABLE_PREFIX): table for name, table in tensors.items()}
    return Released(header=header, vector=vector, tables=tables)


def refused_with(receipt: Receipt) -> int | None:
    """The number of the error that left; None where a reply left."""
    number = receipt.kind.removeprefix(ERROR)
    return int(number) if receipt.kind.startswith(ERROR) and number.isdecimal() else None


def meaning_of(number: int) -> str:
    """What an error's number says."""
    kind = error_types().get(number)
    return (kind.__doc__ or "").partition("\n")[0] if kind else "An unknown number."


def receipt_numbered(receipts: tuple[Receipt, ...], number: int) -> Receipt:
    """The receipt with a number.

    Raises:
        InputError: there is none.
    """
    for receipt in receipts:
        if receipt.number == number:
            return receipt
    have = f"There are receipts 1 to {len(receipts)}." if receipts else "Nothing has left yet."
    raise InputError(f"There is no receipt {number}.", have)
