"""What a check of the doctor says."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from f2b_client.settings import SiteFolder


class Verdict(StrEnum):
    """How bad it is."""

    PASS = "pass"  # noqa: S105  # not a password
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's table. It may name files, rows and patients: it stays at the site."""

    check: str
    """What was looked for, such as `dns` or `bmd-in-t-column`."""
    verdict: Verdict
    what: str
    """One sentence: what is so."""
    where: str = ""
    """File and row, host and port, or nothing."""
    mend: str = ""
    """What to do; empty where it passed."""


Check = Callable[[SiteFolder], Iterable[Finding]]
"""Looks at one site and says what it found, at least one finding; it never raises over what it looks for."""
