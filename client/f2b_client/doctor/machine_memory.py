"""Memory, open files and processors: what the machine has, and what a container or service lets the client use."""

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.settings import SiteFolder, load_compute_settings
from face2bone_model.contract.errors import SettingsError

NEED_BYTES = 2_000_000_000
"""SuperNode, executor with the default model, and one preparation (measured on synthetic sites, CPU)."""
COMFORTABLE_BYTES = 3_000_000_000
NEED_OPEN_FILES, COMFORTABLE_OPEN_FILES = 256, 1024
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True, kw_only=True)
class MemoryFacts:
    """In bytes."""

    total: int
    available: int
    limit: int | None
    """Of the container or service; None where there is none."""


def read_memory(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> MemoryFacts:
    """What this machine and this process's control group say.

    Args:
        cgroups: where control groups are mounted, version 1 or 2.
        own: the list of this process's control groups.
    """
    memory = psutil.virtual_memory()
    limits = [limit for path in _limit_files(cgroups, own) if (limit := _read_limit(path)) is not None]
    smallest = min(limits, default=None)
    return MemoryFacts(
        total=memory.total,
        available=memory.available,
        limit=smallest if smallest is not None and smallest < memory.total else None,
    )


def check_memory(folder: SiteFolder, *, facts: MemoryFacts | None = None) -> Iterator[Finding]:
    """Compare memory with what training needs; `facts` are this machine's where None."""
    facts = facts or read_memory()
    need = f"{NEED_BYTES / 1e9:.0f} GB are needed"
    if facts.limit is not None and facts.limit < NEED_BYTES:
        yield failed(
            "memory-limit",
            f"The client may use {facts.limit / 1e9:.1f} GB only; {need}.",
            "container or service",
            "Raise the limit: --memory (containers), resources.limits (Kubernetes), MemoryMax= (systemd).",
        )
    if facts.total < NEED_BYTES:
        yield failed(
            "memory",
            f"The machine has {facts.total / 1e9:.1f} GB of memory; {need}.",
            "",
            "Use a larger machine.",
        )
    elif facts.available < COMFORTABLE_BYTES:
        yield warned(
            "memory",
            f"{facts.available / 1e9:.1f} GB of {facts.total / 1e9:.0f} GB of memory are free.",
            "",
            f"End other programs before training: {need}, {COMFORTABLE_BYTES / 1e9:.0f} GB are comfortable.",
        )
    else:
        yield passed("memory", f"{facts.available / 1e9:.0f} GB of memory are free.")


def check_open_files(folder: SiteFolder, *, limit: int | None = None) -> Iterator[Finding]:
    """Compare the limit of open files with what three processes need; `limit` is this process's where None."""
    if limit is None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    unlimited = limit == resource.RLIM_INFINITY
    mend = "Raise it: `ulimit -n 4096`, LimitNOFILE=4096 (systemd), --ulimit nofile=4096 (containers)."
    if unlimited or limit >= COMFORTABLE_OPEN_FILES:
        yield passed("open-files", "The client may open enough files.")
    elif limit < NEED_OPEN_FILES:
        yield failed("open-files", f"The client may open {limit} files only.", "ulimit -n", mend)
    else:
        yield warned("open-files", f"The client may open {limit} files only.", "ulimit -n", mend)


def check_threads(folder: SiteFolder) -> Iterator[Finding]:
    """More threads than processors make training slower, not faster."""
    try:
        wanted = load_compute_settings(folder).threads
    except (SettingsError, OSError) as error:
        yield failed("threads", f"[compute] cannot be read: {error}", "site.toml", "Correct site.toml.")
        return
    there = len(os.sched_getaffinity(0))
    if wanted > there:
        yield warned(
            "threads",
            f"Training is to use {wanted} threads; this process may use {there} processors.",
            "site.toml [compute] threads",
            f"Set threads = {there} or less.",
        )
    else:
        yield passed("threads", f"Training uses {wanted} of {there} processors.")


def _limit_files(cgroups: Path, own: Path) -> Iterator[Path]:
    """Limits of the process's own groups and of all above them, and of the root a container sees."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        place = root / group.lstrip("/")
        yield from (
            root / name,
            *(parent / name for parent in (place, *place.parents) if root in parent.parents),
        )


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
