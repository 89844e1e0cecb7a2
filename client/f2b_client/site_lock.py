"""One client a site."""

from contextlib import AbstractContextManager
from pathlib import Path

from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import UsageError
from face2bone_model.system.lock import holder
from face2bone_model.system.lock import only_one as one_process


def only_one(folder: SiteFolder) -> AbstractContextManager[None]:
    """Hold the site's lock.

    Raises:
        UsageError: another client of this site holds it.
    """
    refusal = UsageError(
        f"A client of {folder.path} is running already.", f"`f2b-client stop --site {folder.path}` ends it."
    )
    return one_process(_lock(folder), refusal)


def running_pid(folder: SiteFolder) -> int | None:
    """The process that holds the site's lock now, or None: a number left behind by a crash does not count."""
    return holder(_lock(folder))


def _lock(folder: SiteFolder) -> Path:
    return folder.state / "running.lock"
