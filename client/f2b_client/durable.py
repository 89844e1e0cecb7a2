"""SQLite files whose commits survive a power cut, and reading them where nothing may be written."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from face2bone_model.contract.errors import RecordsError

MEND = "Restore it from a backup, or see docs/exit-codes/33.md."


@contextmanager
def durable_database(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """A connection for writing; what it commits is on disk (WAL, synchronous=FULL).

    Raises:
        RecordsError: the file is no database, or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(schema)
            with connection:
                yield connection
    except sqlite3.Error as error:
        raise RecordsError(f"{path} cannot be used: {error}.", MEND) from error


def read_table(path: Path, table: str, columns: str) -> list[tuple[Any, ...]]:
    """Rows of a table by number; none where there is no file or no table yet.

    Raises:
        RecordsError: the file is no database, or its table has other columns.
    """
    if not path.exists():
        return []
    try:
        return _read(path, "mode=ro", table, columns)
    except sqlite3.OperationalError:
        pass  # a copy on a medium that cannot be written: SQLite wants a file beside it, unless told otherwise
    except sqlite3.Error as error:
        raise RecordsError(f"{path} cannot be read: {error}.", MEND) from error
    try:
        return _read(path, "immutable=1", table, columns)
    except sqlite3.Error as error:
        raise RecordsError(f"{path} cannot be read: {error}.", MEND) from error


def _read(path: Path, how: str, table: str, columns: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, timeout=30)) as connection:
        known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchone()
        if known is None:
            return []
        query = f"SELECT {columns} FROM {table} ORDER BY number"  # noqa: S608  # both are constants of ours
        return connection.execute(query).fetchall()
