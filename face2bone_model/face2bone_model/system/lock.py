"""Locks that the kernel gives back however their holder ends: one process a folder, or one writer at a time."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from face2bone_model.contract.errors import DeadlineError, Face2BoneError

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.02
TRY_SECONDS = 1.0
"""Whoever asks who holds the lock touches it for an instant; a process that starts waits that long for them."""


@contextmanager
def only_one(path: Path, refusal: Face2BoneError) -> Iterator[None]:
    """Hold the lock, with this process's number in it.

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


@contextmanager
def locked(path: Path, *, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock `path`, over threads and processes; a file that is made where missing. It is not reentrant.

    Raises:
        DeadlineError: another holds it for longer than `seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        end = time.monotonic() + seconds
        while not _try(file.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise DeadlineError(
                    f"{path} was held by another command for {seconds:.0f} s.", "Try again when it has ended."
                )
            time.sleep(POLL_SECONDS)
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
