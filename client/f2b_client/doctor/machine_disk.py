"""The disk under the site folder: room, speed, a local file system, and the right to write."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.settings import SiteFolder

NEED_BYTES = 1_000_000_000
"""Prepared faces and features take about 0.4 MB a photo, a round's reply a few MB."""
COMFORTABLE_BYTES = 5_000_000_000
NEED_FILES, COMFORTABLE_FILES = 1_000, 20_000
SLOW_SYNC_SECONDS, STUCK_SYNC_SECONDS = 0.25, 2.0
TRIALS = 5
NETWORK_TYPES = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "gpfs",
        "davfs",
        "ncpfs",
        "vboxsf",
        "beegfs",
    }
)
WRITTEN_FOLDERS = (
    "state",
    "log",
    "cache",
    "replies",
    "receipts",
    "reports",
    "quarantine",
    "approved",
    "flower",
)


def check_space(
    folder: SiteFolder, *, need: int = NEED_BYTES, comfortable: int = COMFORTABLE_BYTES
) -> Iterator[Finding]:
    """Compare the free room with what a study needs, in bytes and in files (inodes)."""
    where = str(folder.path)
    mend = (
        "Free some room, or move the site folder to a larger disk; cache/ may be removed and is made again."
    )
    free = shutil.disk_usage(folder.path).free
    if free < need:
        yield failed(
            "disk-space",
            f"{free / 1e9:.1f} GB are free; at least {need / 1e9:.1f} GB are needed.",
            where,
            mend,
        )
    elif free < comfortable:
        yield warned("disk-space", f"Only {free / 1e9:.1f} GB are free.", where, mend)
    else:
        yield passed("disk-space", f"{free / 1e9:.0f} GB are free.", where)
    yield from check_inodes(os.statvfs(folder.path), where)


def check_inodes(facts: os.statvfs_result, where: str) -> Iterator[Finding]:
    """A disk can be full of files while it has room; file systems that make inodes as needed count none."""
    mend = "Remove what is not needed from this file system: it has room left and no entries for files."
    if facts.f_files == 0 or facts.f_favail >= COMFORTABLE_FILES:
        yield passed("disk-files", "There are enough entries for files.", where)
    elif facts.f_favail < NEED_FILES:
        yield failed(
            "disk-files", f"The file system has room for {facts.f_favail} more files only.", where, mend
        )
    else:
        yield warned(
            "disk-files", f"The file system has room for {facts.f_favail} more files only.", where, mend
        )


def check_writable(folder: SiteFolder) -> Iterator[Finding]:
    """Whether the client can write where it must."""
    places = [folder.path, *(folder.path / name for name in WRITTEN_FOLDERS)]
    closed = [path for path in places if path.is_dir() and not _may_write(path)]
    for path in closed:
        yield failed(
            "writable",
            f"The user {_user()} may not write in {path.name or path}/.",
            str(path),
            f"`chown -R {_user()} {folder.path}` and mount it read-write; or run the client as the folder's owner.",
        )
    if not closed:
        yield passed("writable", "The client may write where it must.", str(folder.path))


def check_speed(
    folder: SiteFolder, *, slow: float = SLOW_SYNC_SECONDS, stuck: float = STUCK_SYNC_SECONDS
) -> Iterator[Finding]:
    """Time a small durable write: every receipt and every charge of the ledger waits for one."""
    place = folder.state if folder.state.is_dir() else folder.path
    where = str(place)
    mend = "Ask IT about the load of this disk; put the site folder on a local SSD."
    try:
        seconds = _sync_seconds(place)
    except OSError as error:
        yield failed(
            "disk-speed", f"A trial file cannot be written: {error.strerror}.", where, "See the lines above."
        )
        return
    if seconds > stuck:
        yield failed("disk-speed", f"A durable write takes {seconds:.1f} s.", where, mend)
    elif seconds > slow:
        yield warned("disk-speed", f"A durable write takes {seconds * 1000:.0f} ms.", where, mend)
    else:
        yield passed("disk-speed", f"A durable write takes {seconds * 1000:.1f} ms.", where)


def check_file_system(
    folder: SiteFolder, *, mounts: Iterable[tuple[str, str]] | None = None
) -> Iterator[Finding]:
    """SQLite's locks and syncs are not dependable on network file systems.

    Args:
        folder: the site's.
        mounts: mount points and types of file systems; this machine's where None.
    """
    kind = _type_of(folder.path.resolve(), _mounts() if mounts is None else mounts)
    where = str(folder.path)
    if kind in NETWORK_TYPES or kind.startswith("fuse."):
        yield warned(
            "file-system",
            f"The site folder lies on a network file system ({kind}).",
            where,
            "Move the site folder to a local disk; photos and DXA export may stay: "
            "name them by full path in site.toml.",
        )
    else:
        yield passed(
            "file-system", f"The site folder lies on a local file system ({kind or 'unknown'}).", where
        )


def _mounts() -> list[tuple[str, str]]:
    return [(part.mountpoint, part.fstype) for part in psutil.disk_partitions(all=True)]


def _type_of(path: Path, mounts: Iterable[tuple[str, str]]) -> str:
    over = [(point, kind) for point, kind in mounts if path.is_relative_to(point)]
    return max(over, key=lambda mount: len(mount[0]), default=("", ""))[1].lower()


def _sync_seconds(place: Path) -> float:
    times = []
    with tempfile.TemporaryFile(dir=place, prefix=".doctor.") as file:
        for _ in range(TRIALS):
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
            if times[-1] > STUCK_SYNC_SECONDS:
                break
    return statistics.median(times)


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def _user() -> str:
    try:
        return psutil.Process().username()
    except (psutil.Error, KeyError):
        return str(os.geteuid())
