"""Moments and durations for people: the machine's own clock, as on the wall beside the screen."""

from datetime import UTC, datetime

from face2bone_model.report.formats import count

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
SPACE = "\N{NO-BREAK SPACE}"


def clock(moment: datetime) -> str:
    """Such as `23 November 2026, 17:41:05 CET`, in the machine's time zone."""
    local = moment.astimezone()
    return f"{local.day} {local:%B %Y, %H:%M:%S} {local:%Z}".strip()


def moment_of(seconds: float) -> datetime:
    """A moment given in seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def duration(seconds: float) -> str:
    """About how long, in one or two units, such as `8 s`, `3 min`, `1 h 6 min` or `2 d 7 h`."""
    if seconds < MINUTE:
        return f"{max(0.0, seconds):.0f}{SPACE}s"
    if seconds < HOUR:
        return f"{seconds // MINUTE:.0f}{SPACE}min"
    if seconds < DAY:
        return f"{seconds // HOUR:.0f}{SPACE}h {seconds % HOUR // MINUTE:.0f}{SPACE}min"
    return f"{seconds // DAY:.0f}{SPACE}d {seconds % DAY // HOUR:.0f}{SPACE}h"


def plural(number: int, one: str, many: str) -> str:
    """A count with its word, such as `1 reply` or `7 replies`."""
    return f"{count(number)} {one if number == 1 else many}"
