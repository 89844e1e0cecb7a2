"""Lines of the privacy ledger, each holding a digest of all before it, so that an edited or missing one shows."""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from f2b_client.durable import read_table

FIRST = "0" * 64
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS charges (number INTEGER PRIMARY KEY, at TEXT NOT NULL, cohort TEXT NOT NULL, "
    "study_hash TEXT NOT NULL, round INTEGER NOT NULL, payload_digest TEXT NOT NULL, "
    "noise_multiplier REAL NOT NULL, sample_rate REAL NOT NULL, steps INTEGER NOT NULL, chain TEXT NOT NULL)"
)


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One training that was paid for."""

    number: int
    at: str
    cohort: str
    study_hash: str
    round: int
    payload_digest: str
    """SHA-256 of the reply it paid for."""
    noise_multiplier: float
    sample_rate: float
    steps: int
    chain: str = ""
    """SHA-256 over this charge and the chain of the one before."""

    def chained(self, previous: str) -> str:
        """What `chain` must be after the charge whose chain is `previous`."""
        content = {**asdict(self), "chain": previous}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


COLUMNS = tuple(field.name for field in fields(Charge))


@dataclass(frozen=True)
class ChainState:
    """How long a chained table is (the ledger, the disclosure memory), and the chain of its last row."""

    rows: int = 0
    head: str = FIRST


NOTHING_SPENT = ChainState()


def read_charges(path: Path) -> tuple[Charge, ...]:
    """Every charge of every cohort, oldest first.

    Raises:
        RecordsError: the file cannot be read as a ledger.
    """
    rows = read_table(path, "charges", ", ".join(COLUMNS))
    return tuple(Charge(**dict(zip(COLUMNS, row, strict=True))) for row in rows)


def add_charge(connection: sqlite3.Connection, charge: Charge) -> None:
    """Insert one charge."""
    values = [getattr(charge, name) for name in COLUMNS]
    connection.execute("INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def state_of(charges: Sequence[Charge]) -> ChainState:
    """Length and head of a ledger."""
    return ChainState(len(charges), charges[-1].chain) if charges else NOTHING_SPENT


def charges_fault(charges: Sequence[Charge]) -> str:
    """The first charge that does not follow the one before, as a sentence, or nothing."""
    previous = FIRST
    for position, charge in enumerate(charges, start=1):
        if charge.number != position:
            return f"Charge {position} of the ledger is missing."
        if charge.chain != charge.chained(previous):
            return f"Charge {position} of the ledger was changed, or does not follow charge {position - 1}."
        previous = charge.chain
    return ""
