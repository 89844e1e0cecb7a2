"""One process a folder: a lock the kernel gives back however its holder ends, with the holder's number in it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from face2bone_model.contract.errors import Face2BoneError

TRY_SECONDS = 1.0
"""Whoever asks who holds the lock touches it for an instant; a process that starts waits that long for them."""


@contextmanager
def only_one(path: Path, refusal: Face2BoneError) -> Iterator[None]:
    """Hold the lock.

    Args:
        path: the lock's file; made where missing.
        refusal: what to raise when another process holds it.

    Raises:
        Face2BoneError: `refusal`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        end = time.monotonic() + TRY_SECONDS
        while not _try(lock.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise refusal
            time.sleep(0.05)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def holder(path: Path) -> int | None:
    """The process that holds the lock now, or None: a number left behind by a crash does not count."""
    try:
        with path.open() as lock:
            if _try(lock.fileno(), fcntl.LOCK_SH):
                return None
            return int(lock.read() or 0) or None
    except (FileNotFoundError, ValueError):
        return None


def _try(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
