"""The databases of receipts and budget: readable, whole, and not locked by another program."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed
from f2b_client.settings import SiteFolder

WAIT_SECONDS = 1.0


def check_databases(folder: SiteFolder) -> Iterator[Finding]:
    """Let SQLite check the pages of both files; their contents are checked by `f2b-client egress verify`."""
    for path in (folder.receipts, folder.ledger):
        if path.exists():
            yield _checked(path)
        else:
            yield passed("databases", f"{path.name} is not there yet; the first release makes it.", str(path))


def _checked(path: Path) -> Finding:
    mend = "Stop the client, restore both databases from one backup, and tell the data protection officer."
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=WAIT_SECONDS)
        ) as connection:
            fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return failed(
                "databases",
                f"Another program holds {path.name} locked.",
                str(path),
                "Exclude the site folder from backup programs and virus scanners that lock files.",
            )
        return failed("databases", f"{path.name} cannot be opened ({error}).", str(path), mend)
    except sqlite3.DatabaseError as error:
        return failed("databases", f"{path.name} is damaged ({error}).", str(path), mend)
    if fault != "ok":
        return failed("databases", f"{path.name} is damaged ({str(fault).splitlines()[0]}).", str(path), mend)
    return passed("databases", f"{path.name} is whole.", str(path))
