"""Files that survive a crash: written beside, synced, renamed into place."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Bytes = bytes | bytearray | memoryview


def write_atomic(path: Path, content: Bytes | Iterable[Bytes], *, mode: int = 0o644) -> None:
    """Write a file so that a crash leaves the old content or the new, never half; durable on return.

    Args:
        path: folders above it are made where they are missing, and are durable too.
        content: bytes, or pieces of them, which are never all in memory.
        mode: of the file.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in (content,) if isinstance(content, Bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)  # noqa: PTH101  # the temporary file has only a name
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomic(path, json.dumps(content, indent=1, sort_keys=True).encode())


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durable on return: a new folder's name lies in the folder above."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make durable which names a folder holds."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
