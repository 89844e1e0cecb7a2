"""Finds the stored bytes of a release by their digest, and what was spent of the privacy budget once they left.

A page asks again every two seconds, so digests are remembered for as long as a file is as it was.
"""

import hashlib
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from f2b_client.charges import Charge as LedgerLine
from f2b_client.ledger import Ledger
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import RequestError
from face2bone_model.contract.payload import decode
from face2bone_model.report.figures_privacy import Charge

REMEMBERED = 4096


def stored_reply(folder: SiteFolder, payload_digest: str) -> bytes | None:
    """The stored bytes with this SHA-256; None where there are none, as for a refusal."""
    for path in sorted(folder.replies.glob("*/*.safetensors")):
        status = path.stat()
        if _digest(path, status.st_mtime_ns, status.st_size) == payload_digest:
            payload = path.read_bytes()
            return payload if hashlib.sha256(payload).hexdigest() == payload_digest else None
    return None


def spendings(folder: SiteFolder, cohort: str, delta: float) -> tuple[Charge, ...]:
    """Every charge of a cohort, oldest first, with epsilon spent in all after it, at this delta.

    Each release says in its header what was spent with it; the accountant, a slow and large library, is asked
    only where a charge has no such release or the delta is another.

    Raises:
        RecordsError: the ledger cannot be read.
    """
    ledger = Ledger(folder.ledger, cohort=cohort)
    charges = ledger.charges
    told = [_told(folder, charge, delta) for charge in charges]
    if any(value is None for value in told):
        told = [spending.epsilon for spending in ledger.history(delta)]
    return tuple(
        Charge(
            at=datetime.fromisoformat(charge.at), study=charge.study_hash, round=charge.round, epsilon=value
        )
        for charge, value in zip(charges, told, strict=True)
        if value is not None
    )


def _told(folder: SiteFolder, charge: LedgerLine, delta: float) -> float | None:
    payload = stored_reply(folder, charge.payload_digest)
    if payload is None:
        return None
    try:
        _, header = decode(payload)
    except RequestError:
        return None
    value = header.get("epsilon")
    return value if isinstance(value, float) and header.get("delta") == delta else None


@lru_cache(maxsize=REMEMBERED)
def _digest(path: Path, mtime_ns: int, size: int) -> str:  # time and size make the cache forget
    return hashlib.sha256(path.read_bytes()).hexdigest()
