"""What an auditor gets to check: a site folder, a copy of its databases, or an export; and the verdict on it.

Nothing is written and nothing but the site's public key is needed, so a copy can be checked anywhere.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from f2b_client import anchor
from f2b_client.agreement import RECEIPTS_MEND, Fault, history_fault, memory_fault, receipts_fault
from f2b_client.charges import Charge, read_charges
from f2b_client.disclosure_file import memory_heads
from f2b_client.keys import receipt_public_key
from f2b_client.receipts import ONCE, Receipt, SignedReceipt, chain_fault, read_signed
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import InputError, RecordsError
from face2bone_model.system.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What there is to check. A part that is None is not at hand."""

    receipts: tuple[SignedReceipt, ...]
    anchor: bytes | None
    charges: tuple[Charge, ...] | None
    memory: tuple[str, ...] | None = None
    """A digest for each row of the disclosure memory."""
    replies: tuple[Path, ...] | None = None
    """The stored replies."""
    complete: bool = False
    """Whether this is the site's own folder, where a missing part is a fault."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was checked, and the first thing that does not fit."""

    receipts: int
    charges: int | None
    replies: int | None
    fault: Fault | None = None
    unchecked: tuple[str, ...] = field(default=())
    """What could not be checked for want of a file, as sentences."""


def gather(path: Path) -> Evidence:
    """Everything at a path.

    Args:
        path: a site folder; a folder or a file of copied databases; or a file that `egress export` wrote.

    Raises:
        InputError: there is nothing of the kind.
        RecordsError: a file cannot be read.
    """
    if path.is_dir():
        return _of_folder(SiteFolder(path))
    if not path.exists():
        raise InputError(f"{path} does not exist.", "Name a site folder, a receipts.db, or an export.")
    if path.read_bytes()[:15] == b"SQLite format 3":
        return _of_copies(path)
    return _of_export(path)


def verify(evidence: Evidence, key: Ed25519PublicKey) -> Verdict:
    """Check signatures, chain, anchor, ledger and stored replies; stop at the first fault."""
    return Verdict(
        receipts=len(evidence.receipts),
        charges=None if evidence.charges is None else len(evidence.charges),
        replies=None if evidence.replies is None else len(evidence.replies),
        fault=_first_fault(evidence, key),
        unchecked=tuple(_unchecked(evidence)),
    )


def refuse_broken_records(folder: SiteFolder) -> None:
    """Look at every receipt and charge of a site, as `start` does before anything is asked.

    Raises:
        RecordsError: one of them does not fit.
        EnrolmentError: the site has no key to check them with.
    """
    evidence = replace(
        _of_folder(folder), replies=None
    )  # each is compared with its receipt before it leaves again
    fault = _first_fault(evidence, receipt_public_key(folder))
    if fault is not None:
        raise RecordsError(fault.what, fault.mend)


def export(evidence: Evidence, path: Path) -> None:
    """Write receipts, charges and anchor as JSON lines: enough to verify them elsewhere."""
    write_atomic(path, "".join(f"{line}\n" for line in export_lines(evidence)).encode())


def export_lines(evidence: Evidence) -> Iterator[str]:
    """The lines of an export.

    Raises:
        RecordsError: a receipt cannot be read.
    """
    for signed in evidence.receipts:
        yield _line({"receipt": asdict(signed.read()), "signature": signed.signature.hex()})
    for charge in evidence.charges or ():
        yield _line({"charge": asdict(charge)})
    if evidence.charges == ():
        yield _line({"charges": 0})
    if evidence.anchor is not None:
        yield _line({"newest": evidence.anchor.decode()})


def _line(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)


def _of_folder(folder: SiteFolder) -> Evidence:
    complete = (folder.keys / "receipts").exists()
    if not complete and not folder.receipts.exists():
        raise InputError(
            f"{folder.path} is no site folder and holds no receipts.db.",
            "Name a site folder, a receipts.db, or an export.",
        )
    copies = _of_copies(folder.receipts)
    return Evidence(
        receipts=copies.receipts,
        anchor=copies.anchor,
        charges=() if complete and copies.charges is None else copies.charges,
        memory=memory_heads(folder) if complete else None,
        replies=tuple(sorted(folder.replies.glob("*/*.safetensors"))),
        complete=complete,
    )


def _of_copies(receipts: Path) -> Evidence:
    head, ledger = receipts.with_name(anchor.FILE), receipts.with_name("ledger.db")
    return Evidence(
        receipts=read_signed(receipts),
        anchor=head.read_bytes() if head.exists() else None,
        charges=read_charges(ledger) if ledger.exists() else None,
    )


def _of_export(path: Path) -> Evidence:
    receipts: list[SignedReceipt] = []
    charges: list[Charge] | None = None
    head: bytes | None = None
    for number, text in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line = json.loads(text)
            if "receipt" in line:
                body = Receipt(**line["receipt"])
                receipts.append(SignedReceipt(body.number, body.body(), bytes.fromhex(line["signature"])))
            elif "charge" in line:
                charges = [*(charges or []), Charge(**line["charge"])]
            elif "charges" in line:
                charges = []
            else:
                head = str(line["newest"]).encode()
        except (ValueError, TypeError, KeyError) as error:
            raise RecordsError(
                f"Line {number} of {path} cannot be read: it was changed, or this is not an export.",
                "Ask the site for `f2b-client egress export FILE`.",
            ) from error
    return Evidence(
        receipts=tuple(receipts), anchor=head, charges=None if charges is None else tuple(charges)
    )


def _first_fault(evidence: Evidence, key: Ed25519PublicKey) -> Fault | None:
    if evidence.anchor is None and not evidence.complete:
        what = chain_fault(evidence.receipts, key)
        fault = Fault(what, RECEIPTS_MEND) if what else None
    else:
        note = anchor.read_anchor(evidence.anchor or b"", key)
        fault = receipts_fault(evidence.receipts, note, key, whole=True)
    if fault is not None:
        return fault
    receipts = [signed.read() for signed in evidence.receipts]
    if evidence.charges is not None:
        fault = history_fault(evidence.charges, receipts)
    if fault is None and evidence.memory is not None:
        fault = memory_fault(evidence.memory, receipts[-1] if receipts else None)
    return fault or _replies_fault(evidence.replies or (), receipts)


def _replies_fault(replies: Sequence[Path], receipts: Sequence[Receipt]) -> Fault | None:
    known = {receipt.payload_digest for receipt in receipts if receipt.kind in ONCE}
    for path in replies:
        if hashlib.sha256(path.read_bytes()).hexdigest() not in known:
            return Fault(
                f"{path} has no receipt: the stored reply was changed, or its receipt is gone.",
                "Restore the folder 'replies' and the receipts from the same backup.",
            )
    return None


def _unchecked(evidence: Evidence) -> Iterator[str]:
    if evidence.anchor is None and not evidence.complete:
        yield f"{anchor.FILE} is not at hand: whether the newest receipts were cut off cannot be told."
    if evidence.charges is None:
        yield "The ledger is not at hand: what was charged cannot be compared with the receipts."
    if evidence.memory is None:
        yield "The disclosure memory is not at hand: it stays at the site, where `egress verify` compares it."
