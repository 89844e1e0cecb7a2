"""Signed, hash-chained receipts of everything that left the hospital, durable before the bytes go.

Each receipt names its predecessor's digest and is signed with the site's Ed25519 key, so a removed or edited
receipt breaks the chain.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

FIRST = "0" * 64
SCHEMA = "CREATE TABLE IF NOT EXISTS receipts (number INTEGER PRIMARY KEY, body TEXT NOT NULL, signature BLOB NOT NULL)"


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One release: when, for which study and round, what, how many bytes."""

    number: int
    at: str
    study_hash: str
    phase: str
    round: int
    kind: str
    size_bytes: int
    payload_digest: str
    previous: str
    """SHA-256 of the receipt before; 64 zeros for the first."""

    def body(self) -> str:
        """Canonical JSON: what is signed."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of the body."""
        return hashlib.sha256(self.body().encode()).hexdigest()


@contextmanager
def durable_database(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """A SQLite connection whose commits survive a power cut (WAL, synchronous=FULL)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(schema)
        with connection:
            yield connection


def write_receipt(  # noqa: PLR0913  # a receipt has that many facts
    path: Path,
    key: Ed25519PrivateKey,
    *,
    study_hash: str,
    phase: str,
    round_number: int,
    kind: str,
    payload: bytes,
) -> Receipt:
    """Append a signed receipt; durable on return."""
    with durable_database(path, SCHEMA) as connection:
        connection.execute("BEGIN IMMEDIATE")
        last = connection.execute("SELECT body FROM receipts ORDER BY number DESC LIMIT 1").fetchone()
        previous = Receipt(**json.loads(last[0])) if last else None
        receipt = Receipt(
            number=previous.number + 1 if previous else 1,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            study_hash=study_hash,
            phase=phase,
            round=round_number,
            kind=kind,
            size_bytes=len(payload),
            payload_digest=hashlib.sha256(payload).hexdigest(),
            previous=previous.digest() if previous else FIRST,
        )
        row = (receipt.number, receipt.body(), key.sign(receipt.body().encode()))
        connection.execute("INSERT INTO receipts VALUES (?, ?, ?)", row)
    return receipt


def read_receipts(path: Path) -> tuple[Receipt, ...]:
    """All receipts, oldest first."""
    if not path.exists():
        return ()
    with durable_database(path, SCHEMA) as connection:
        rows = connection.execute("SELECT body FROM receipts ORDER BY number").fetchall()
    return tuple(Receipt(**json.loads(body)) for (body,) in rows)


def verify_receipts(path: Path, key: Ed25519PublicKey) -> str:
    """Check numbers, chain and signatures; the first fault as a sentence, or nothing."""
    with durable_database(path, SCHEMA) as connection:
        rows = connection.execute("SELECT number, body, signature FROM receipts ORDER BY number").fetchall()
    previous = FIRST
    for position, (number, body, signature) in enumerate(rows, start=1):
        try:
            receipt = Receipt(**json.loads(body))
        except (ValueError, TypeError):
            return f"Receipt {position} cannot be read: it was changed."
        if number != position or receipt.number != position:
            return f"Receipt {position} is missing."
        if receipt.previous != previous:
            return f"Receipt {position} does not follow receipt {position - 1}: one of them was changed."
        try:
            key.verify(signature, body.encode())
        except InvalidSignature:
            return f"Receipt {position} is not signed by this site: it was changed."
        previous = receipt.digest()
    return ""
