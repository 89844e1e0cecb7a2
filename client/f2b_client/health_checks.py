"""What the health service asks of the disk and of the records: quick, and without waiting for anybody."""

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from f2b_client import anchor
from f2b_client.agreement import ledger_fault, memory_fault, receipts_fault
from f2b_client.charges import read_charges
from f2b_client.disclosure_file import memory_heads
from f2b_client.keys import receipt_key
from f2b_client.receipts import read_signed
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import Face2BoneError

SLOW_CHECK_SECONDS = 15.0
LEAST_FREE_BYTES = 1_000_000_000
LOCK_SECONDS = 5.0

Check = Callable[[], bool]


def every(seconds: float, check: Check, clock: Callable[[], float] = time.monotonic) -> Check:
    """The same check, asked at most every so many seconds."""
    last: list[tuple[float, bool]] = []

    def cached() -> bool:
        if not last or clock() - last[0][0] >= seconds:
            last[:] = [(clock(), check())]
        return last[0][1]

    return cached


def records_serve(folder: SiteFolder) -> bool:
    """Whether receipts, ledger and disclosure memory agree; while they do not, the gate lets nothing out.

    The pages of both files, the ledger's chain, and the receipts since their anchor; `f2b-client egress verify` looks
    at every receipt.
    """
    try:
        return all(_reads_whole(path) for path in (folder.ledger, folder.receipts)) and _agree(folder)
    except (Face2BoneError, OSError, sqlite3.Error):
        return False


def _reads_whole(path: Path) -> bool:
    """Whether SQLite finds a file's pages in order; a file that does not exist yet is."""
    if not path.exists():
        return True
    with closing(
        sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=LOCK_SECONDS)
    ) as file:
        return bool(file.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))


def _agree(folder: SiteFolder) -> bool:
    key, head = receipt_key(folder).public_key(), folder.path / anchor.FILE
    note = anchor.read_anchor(head.read_bytes(), key) if head.exists() else None
    receipts = read_signed(folder.receipts)  # before the others, which may only become more meanwhile
    newest = receipts[-1].read() if receipts else None
    faults = (
        receipts_fault(receipts, note, key, whole=False),
        ledger_fault(read_charges(folder.ledger), newest),
        memory_fault(memory_heads(folder), newest),
    )
    return not any(faults)


def disk_serves(folder: SiteFolder, least_free: int = LEAST_FREE_BYTES) -> bool:
    """Whether the site's folder can be written and has room."""
    try:
        with tempfile.TemporaryFile(dir=folder.state) as file:
            file.write(b"room")
        return shutil.disk_usage(folder.path).free >= least_free
    except OSError:
        return False
