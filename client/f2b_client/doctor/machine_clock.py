"""Whether a time service keeps this machine's clock; how far it is off is measured against the centre."""

import ctypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import passed, warned
from f2b_client.settings import SiteFolder

_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""
_TIMEX_BYTES = 1024
"""More than struct timex has on any platform; all zeros only ask."""
SYSTEMD = Path("/run/systemd/system")


@dataclass(frozen=True, kw_only=True)
class ClockFacts:
    """What the kernel knows of the clock."""

    synchronised: bool | None
    """None where the kernel does not say."""
    keeps_its_own: bool
    """A whole machine, not a container, whose clock is the host's."""


def read_clock() -> ClockFacts:
    """Ask the kernel."""
    answer = -1
    if sys.platform == "linux":
        answer = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return ClockFacts(
        synchronised=None if answer < 0 else answer != _TIME_ERROR, keeps_its_own=SYSTEMD.is_dir()
    )


def check_time_service(folder: SiteFolder, *, facts: ClockFacts | None = None) -> Iterator[Finding]:
    """Warn of a machine that nothing keeps on time; `facts` are this machine's where None."""
    facts = facts or read_clock()
    if facts.synchronised is False and facts.keeps_its_own:
        yield warned(
            "time-service",
            "No time service keeps this machine's clock.",
            "",
            "`timedatectl set-ntp true`, or the hospital's time server: a clock off by minutes is refused.",
        )
    else:
        yield passed("time-service", "The kernel reports no fault of the clock.")
