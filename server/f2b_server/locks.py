"""One writer at a time, over threads and processes: a lock the kernel gives back however its holder ends."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from face2bone_model.contract.errors import DeadlineError

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.02


@contextmanager
def locked(path: Path, *, seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold the lock `path`, a file that is made where missing. It is not reentrant.

    Raises:
        DeadlineError: another holds it for longer than `seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        end = time.monotonic() + seconds
        while not _try(file.fileno()):
            if time.monotonic() > end:
                raise DeadlineError(
                    f"{path} was held by another command for {seconds:.0f} s.", "Try again when it has ended."
                )
            time.sleep(POLL_SECONDS)
        yield


def _try(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
