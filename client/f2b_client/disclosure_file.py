"""The disclosure memory as a file: its table, its rows, and the digests by which receipts name it."""

import hashlib
import json
from pathlib import Path

from f2b_client.durable import read_table
from f2b_client.settings import SiteFolder

MEMORY = "disclosure.db"
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS disclosures (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, "
    "body TEXT NOT NULL, UNIQUE (kind, name))"
)


def memory_rows(path: Path) -> list[tuple[str, str, str]]:
    """Kind, name and body of every row, oldest first.

    Raises:
        RecordsError: the file cannot be read.
    """
    return [(str(k), str(n), str(b)) for k, n, b in read_table(path, "disclosures", "kind, name, body")]


def memory_heads(folder: SiteFolder) -> tuple[str, ...]:
    """A digest for each row of the memory, over it and all before: what receipts name, so that a loss shows.

    Raises:
        RecordsError: the file cannot be read.
    """
    heads: list[str] = []
    last = ""
    for row in memory_rows(folder.path / MEMORY):
        last = hashlib.sha256(json.dumps([last, *row]).encode()).hexdigest()
        heads.append(last)
    return tuple(heads)
