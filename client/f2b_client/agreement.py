"""Whether receipts, their anchor and the privacy ledger agree: nothing was cut off, edited or put back."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from f2b_client.anchor import FILE, Anchor
from f2b_client.charges import FIRST, Charge, charges_fault
from f2b_client.receipts import Receipt, SignedReceipt, chain_fault, digest_of

LEDGER_MEND = "Restore ledger.db from a backup: budget that was spent does not come back."
MEMORY_MEND = (
    "Restore disclosure.db from a backup: without it, what was told before is not taken into account."
)
RECEIPTS_MEND = "Restore receipts.db and receipts.head from the same backup."


@dataclass(frozen=True)
class Fault:
    """What does not fit, and how to mend it."""

    what: str
    mend: str


def receipts_fault(
    receipts: Sequence[SignedReceipt], anchor: Anchor | None, key: Ed25519PublicKey, *, whole: bool
) -> Fault | None:
    """The first fault in the receipts.

    Args:
        receipts: all of them, in order.
        anchor: None where `receipts.head` is missing or not signed by this site.
        key: the site's public key.
        whole: look at every receipt; otherwise at those since the anchor, which is quick.
    """
    if whole and (what := chain_fault(receipts, key)):
        return Fault(what, RECEIPTS_MEND)
    if anchor is None:
        return Fault(f"{FILE} is missing or was changed.", RECEIPTS_MEND)
    if what := _anchor_fault(receipts, anchor):
        return Fault(what, RECEIPTS_MEND)
    newer = [signed for signed in receipts if signed.number > anchor.number]
    what = chain_fault(newer, key, after=anchor.number, digest=anchor.digest)
    return Fault(what, RECEIPTS_MEND) if what else None


def ledger_fault(charges: Sequence[Charge], receipt: Receipt | None) -> Fault | None:
    """Whether the ledger is whole and holds all it held when a receipt was written.

    Args:
        charges: all of them, in order.
        receipt: the newest; None before the first.
    """
    if what := charges_fault(charges) or (_told_otherwise(charges, receipt) if receipt else ""):
        return Fault(what, LEDGER_MEND)
    return None


def memory_fault(heads: Sequence[str], receipt: Receipt | None) -> Fault | None:
    """Whether the disclosure memory holds all it held when a receipt was written.

    Args:
        heads: a digest for each of its rows, over it and all before.
        receipt: the newest; None before the first.
    """
    if receipt is None:
        return None
    rows = receipt.memory_rows
    if len(heads) < rows:
        return Fault(
            f"The disclosure memory has {len(heads)} rows; receipt {receipt.number} says that it had {rows}.",
            MEMORY_MEND,
        )
    if (heads[rows - 1] if rows else FIRST) != receipt.memory_head:
        return Fault(
            f"The disclosure memory is not what it was when receipt {receipt.number} was written.",
            MEMORY_MEND,
        )
    return None


def history_fault(charges: Sequence[Charge], receipts: Sequence[Receipt]) -> Fault | None:
    """As `ledger_fault`, against every receipt: names the first charge that one of them contradicts."""
    if what := charges_fault(charges):
        return Fault(what, LEDGER_MEND)
    held = 0
    for receipt in receipts:
        if receipt.ledger_rows < held:
            return Fault(
                f"Receipt {receipt.number} counts {receipt.ledger_rows} charges, fewer than the {held} before.",
                LEDGER_MEND,
            )
        if what := _told_otherwise(charges, receipt):
            return Fault(what, LEDGER_MEND)
        held = receipt.ledger_rows
    return None


def _anchor_fault(receipts: Sequence[SignedReceipt], anchor: Anchor) -> str:
    if anchor.number == 0:
        return ""
    newest = receipts[-1].number if receipts else 0
    named = next((signed for signed in receipts if signed.number == anchor.number), None)
    if named is None:
        return f"The receipts end at {newest}; {FILE} names receipt {anchor.number}: the newest are missing."
    if digest_of(named.body) != anchor.digest:
        return f"Receipt {anchor.number} is not the one that {FILE} names: it was changed."
    return ""


def _told_otherwise(charges: Sequence[Charge], receipt: Receipt) -> str:
    rows = receipt.ledger_rows
    if len(charges) < rows:
        return f"The ledger has {len(charges)} charges; receipt {receipt.number} says that it had {rows}."
    if (charges[rows - 1].chain if rows else FIRST) != receipt.ledger_head:
        return (
            f"Charge {rows} of the ledger, or one before it, is not what it was when receipt "
            f"{receipt.number} was written."
        )
    return ""
