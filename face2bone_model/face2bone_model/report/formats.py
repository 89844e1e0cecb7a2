"""How figures are written for people: intervals, counts, bytes, shares and dates, the same way on every page."""

import math
from datetime import UTC, datetime

from markupsafe import Markup

from face2bone_model.metrics.estimate import Estimate

MINUS = "\N{MINUS SIGN}"
THIN = "\N{NARROW NO-BREAK SPACE}"
"""Between thousands."""
SPACE = "\N{NO-BREAK SPACE}"
"""Between a number and its unit."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
BYTE_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def decimal(value: float, digits: int = 2) -> str:
    """A number with so many decimals; more where rounding would make it look like exactly 0 or 1.

    >>> decimal(0.914), decimal(0.9998), decimal(1.0), decimal(-0.2)
    ('0.91', '0.9998', '1.00', '−0.20')
    """
    if not math.isfinite(value):
        return "not estimable"
    wanted = digits
    while wanted < digits + 3 and value not in (0.0, 1.0) and round(value, wanted) in (0.0, 1.0):
        wanted += 1
    return f"{value:.{wanted}f}".replace("-", MINUS)


def interval(estimate: Estimate, digits: int = 2) -> str:
    """Only the interval, such as `0.87 to 0.94`; empty where there is none."""
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return ""
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}".replace("-", MINUS)


def plain_estimate(estimate: Estimate, digits: int = 2) -> str:
    """Value and interval, such as `0.91 (0.87 to 0.94)`, or `not estimable` with the reason."""
    if not math.isfinite(estimate.value):
        return f"not estimable: {estimate.reason}" if estimate.reason else "not estimable"
    limits = interval(estimate, digits)
    return f"{decimal(estimate.value, digits)} ({limits})" if limits else decimal(estimate.value, digits)


def estimate_cell(estimate: Estimate, digits: int = 2) -> Markup:
    """`plain_estimate` with the interval set quieter than the value."""
    if not math.isfinite(estimate.value):
        return Markup('<span class="absent">{}</span>').format(plain_estimate(estimate, digits))
    limits = interval(estimate, digits)
    value = decimal(estimate.value, digits)
    return (
        Markup('{} <span class="ci">({})</span>').format(value, limits)
        if limits
        else Markup("{}").format(value)
    )


def count(number: int | None) -> str:
    """A whole number with thin spaces between thousands; `withheld` for None."""
    return "withheld" if number is None else f"{number:,}".replace(",", THIN)


def share(part: float, whole: float, digits: int = 0) -> str:
    """A share in per cent, such as `71 %`; a dash where there is nothing to share."""
    if whole <= 0:
        return "\N{EN DASH}"
    percent = 100.0 * part / whole
    if 0 < percent < 1 or 99 < percent < 100:  # noqa: PLR2004  # 0 % and 100 % are kept for none and all
        digits = max(digits, 1)
    return f"{percent:.{digits}f}{SPACE}%"


def size(num_bytes: int) -> str:
    """Bytes in decimal units with three figures, such as `2.18 MB`."""
    value, unit = float(num_bytes), 0
    while value >= 999.5 and unit < len(BYTE_UNITS) - 1:  # noqa: PLR2004  # 999.5 would be written as 1000
        value, unit = value / 1000.0, unit + 1
    digits = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2  # noqa: PLR2004  # three figures, rounded
    return f"{value:.{digits}f}{SPACE}{BYTE_UNITS[unit]}"


def moment(when: datetime) -> str:
    """A moment in coordinated universal time, such as `23 November 2026, 14:05 UTC`."""
    utc = when.astimezone(UTC)
    return f"{utc.day} {utc:%B %Y, %H:%M} UTC"


def power_of_ten(value: float) -> str:
    """A small number such as a privacy delta.

    >>> power_of_ten(1e-5), power_of_ten(2.5e-6)
    ('10⁻⁵', '2.5 × 10⁻⁶')
    """
    mantissa, _, exponent = f"{value:.2g}".partition("e") if 0 < value < 1e-3 else (f"{value:g}", "", "")  # noqa: PLR2004
    if not exponent:
        return mantissa
    power = "10" + str(int(exponent)).translate(SUPERSCRIPTS)
    return power if mantissa == "1" else f"{mantissa} × {power}"


def epsilon(value: float) -> str:
    """A privacy loss with two decimals; an infinite one is called unbounded."""
    return decimal(value, 2) if math.isfinite(value) else "unbounded"
