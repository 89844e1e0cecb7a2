"""One client a site: a lock the kernel gives back however its holder ends, with the holder's number in it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import UsageError

TRY_SECONDS = 1.0
"""`status` and `stop` touch the lock for an instant; a client that starts waits that long for them."""


@contextmanager
def only_one(folder: SiteFolder) -> Iterator[None]:
    """Hold the site's lock.

    Raises:
        UsageError: another client of this site holds it.
    """
    folder.state.mkdir(parents=True, exist_ok=True)
    with (folder.state / "running.lock").open("a+") as lock:
        end = time.monotonic() + TRY_SECONDS
        while not _try(lock.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise UsageError(
                    f"A client of {folder.path} is running already.",
                    f"`f2b-client stop --site {folder.path}` ends it.",
                )
            time.sleep(0.05)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def running_pid(folder: SiteFolder) -> int | None:
    """The process that holds the site's lock now, or None: a number left behind by a crash does not count."""
    try:
        with (folder.state / "running.lock").open() as lock:
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
