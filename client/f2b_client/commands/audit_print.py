"""Releases on the terminal: a list, one in full, and the verdict on all of them."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from f2b_client.approval import approved_studies
from f2b_client.evidence import Verdict
from f2b_client.receipts import Receipt
from f2b_client.released import Released, meaning_of, refused_with
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import Face2BoneError

WIDE = 100
"""From this many characters on, whole digests' beginnings and seconds fit."""


def study_names(folder: SiteFolder) -> dict[str, str]:
    """Names of approved studies by hash; none where they cannot be read, since the list must still be shown."""
    try:
        return {study.hash(): study.name for study in approved_studies(folder)}
    except Face2BoneError:
        return {}


def print_list(
    console: Console, receipts: Sequence[Receipt], shown: Sequence[Receipt], names: Mapping[str, str]
) -> None:
    """A table of releases, the newest last."""
    if not receipts:
        console.print("Nothing has left yet.")
        return
    wide, addresses = console.width >= WIDE, sorted({receipt.to for receipt in receipts} - {""})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("when", no_wrap=True)
    if len(addresses) > 1:
        table.add_column("to", overflow="fold")
    table.add_column("study", overflow="ellipsis", no_wrap=True, max_width=22)
    table.add_column("asked", no_wrap=True)
    table.add_column("what left", no_wrap=True)
    table.add_column("bytes", justify="right", no_wrap=True)
    table.add_column("digest", no_wrap=True)
    for receipt in shown:
        cells = [str(receipt.number), _when(receipt, "seconds" if wide else "minutes")]
        cells += [receipt.to] if len(addresses) > 1 else []
        cells += [_study(receipt, names), _asked(receipt), _what(receipt), f"{receipt.size_bytes:,}"]
        refused = refused_with(receipt) is not None
        table.add_row(
            *cells, receipt.payload_digest[: 16 if wide else 8], style="bold red" if refused else ""
        )
    console.print(table)
    console.print(_totals(receipts, shown, addresses), markup=False)


def print_receipt(console: Console, receipt: Receipt, names: Mapping[str, str]) -> None:
    """Every field of one receipt."""
    facts = {
        "when": _when(receipt, "milliseconds"),
        "to": receipt.to or "not recorded",
        "study": _study(receipt, names),
        "study hash": receipt.study_hash,
        "asked": _asked(receipt),
        "what left": _what(receipt),
        "bytes": f"{receipt.size_bytes:,}",
        "digest": receipt.payload_digest,
        "ledger": _count(receipt.ledger_rows, "charge"),
        "ledger head": receipt.ledger_head,
        "previous": receipt.previous,
    }
    console.print(f"Receipt {receipt.number}", style="bold")
    _print_facts(console, facts)


def print_released(console: Console, receipt: Receipt, content: Released | None) -> None:
    """The very numbers."""
    number = refused_with(receipt)
    console.print()
    if number is not None:
        console.print(f"Refused: the number {number} left, and nothing else.", style="bold red")
        console.print(f"{meaning_of(number)} See docs/exit-codes/{number:02d}.md.", markup=False)
        return
    if content is None:
        console.print("The reply is no longer stored here; the receipt names its bytes by their digest.")
        return
    console.print("Beside the numbers", style="bold")
    _print_facts(console, {name: str(value) for name, value in content.header.items()})
    if content.vector is not None:
        console.print("\nTrained numbers", style="bold")
        _print_facts(console, _vector_facts(content.vector))
    for name, table in sorted(content.tables.items()):
        console.print(f"\n[bold]{name}[/]  {table.dtype} {'×'.join(map(str, table.shape))}")
        text = np.array2string(table, threshold=sys.maxsize, max_line_width=console.width - 2)
        console.print("  " + text.replace("\n", "\n  "), markup=False, soft_wrap=True)


def print_verdict(console: Console, verdict: Verdict) -> None:
    """What was checked and holds, then what could not be checked."""
    if verdict.receipts == 0:
        console.print("Nothing has left yet, and nothing is missing.")
    else:
        console.print(f"[bold green]Whole.[/] {_checked(verdict)}")
    for sentence in verdict.unchecked:
        console.print(f"• {sentence}", markup=False)


def as_plain(content: Released | None) -> dict[str, Any]:
    """The very numbers for programs, all of them."""
    if content is None:
        return {"header": None, "vector": None, "tables": None}
    vector = content.vector
    return {
        "header": content.header,
        "vector": None if vector is None else {**_described(vector), "values": vector.tolist()},
        "tables": {name: {**_described(t), "values": t.tolist()} for name, t in content.tables.items()},
    }


def _described(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "shape": list(array.shape)}


def _vector_facts(vector: np.ndarray[Any, Any]) -> dict[str, str]:
    return {
        "how many": f"{vector.size:,} ({vector.dtype})",
        "least": f"{vector.min():.6g}",
        "greatest": f"{vector.max():.6g}",
        "length": f"{np.linalg.norm(vector.astype(np.float64)):.6g} (Euclidean); --json prints all of them",
    }


def _print_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Name and value a line; a digest stays in one piece, so that it can be copied."""
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        console.print(f"  {name:<{width}}  {value}", markup=False, soft_wrap=True)


def _totals(receipts: Sequence[Receipt], shown: Sequence[Receipt], addresses: Sequence[str]) -> str:
    total, refused = len(receipts), sum(refused_with(one) is not None for one in receipts)
    size = sum(receipt.size_bytes for receipt in receipts)
    to = f", to {addresses[0]}" if len(addresses) == 1 else ""
    older = (
        f" {total - len(shown)} older ones are not shown; --last 0 shows all." if total > len(shown) else ""
    )
    return f"{_count(total, 'release')}, {size:,} bytes{to}; {refused} of them refusals.{older}"


def _checked(verdict: Verdict) -> str:
    parts = [_count(verdict.receipts, "receipt")]
    parts += [] if verdict.charges is None else [_count(verdict.charges, "charge")]
    parts += [] if verdict.replies is None else [_count(verdict.replies, "stored reply", "stored replies")]
    return f"{', '.join(parts)}: each is signed for, none is missing, none was changed."


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _when(receipt: Receipt, timespec: str) -> str:
    return datetime.fromisoformat(receipt.at).astimezone().replace(tzinfo=None).isoformat(" ", timespec)


def _study(receipt: Receipt, names: Mapping[str, str]) -> str:
    if not receipt.study_hash.strip("0"):
        return "none"
    return names.get(receipt.study_hash, f"{receipt.study_hash[:8]}…")


def _asked(receipt: Receipt) -> str:
    return f"{receipt.phase} {receipt.round}" if receipt.round else receipt.phase


def _what(receipt: Receipt) -> str:
    number = refused_with(receipt)
    return receipt.kind if number is None else f"refused {number}"
