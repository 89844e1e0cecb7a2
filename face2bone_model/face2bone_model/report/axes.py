"""Linear axes: from data to drawing units, with round tick marks at every range of data."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

TOO_LONG, TOO_SHORT = 1e5, 1e-3
"""Outside these a tick label is written with an exponent, or it would not fit beside the axis."""
MOST_ROUND_TICKS = 7
DUST = 1e-12
NICE_STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps the data interval [low, high] onto the drawing interval [start, stop]."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Where `value` lies in drawing units; values outside the axis are drawn at its end."""
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.stop - self.start)

    def labels(self) -> tuple[str, ...]:
        """One text for each tick, all with the same number of decimals."""
        largest = max((abs(tick) for tick in self.ticks), default=0.0)
        if largest >= TOO_LONG or 0 < largest < TOO_SHORT:
            return tuple(_with_exponent(tick) for tick in self.ticks)
        decimals = max((_decimals(tick) for tick in self.ticks), default=0)
        return tuple(f"{tick:,.{decimals}f}".replace("-", "\N{MINUS SIGN}") for tick in self.ticks)


def fixed_axis(low: float, high: float, start: float, stop: float, *, step: float) -> Axis:
    """An axis whose ends and step are known beforehand, such as a probability from 0 to 1."""
    count = round((high - low) / step)
    ticks = tuple(round(low + index * step, 10) for index in range(count + 1))
    return Axis(low=low, high=high, start=start, stop=stop, ticks=ticks)


def round_axis(first: int, last: int, start: float, stop: float) -> Axis:
    """An axis of whole numbers from `first` to `last` (rounds of training), about seven of them marked."""
    step = max(1, math.ceil(nice_step(max(last - first, 1) / MOST_ROUND_TICKS)))
    ticks = tuple(float(tick) for tick in range(first, last + 1) if tick == first or tick % step == 0)
    margin = 0.5 if last <= first else 0.0
    return Axis(low=first - margin, high=max(first, last) + margin, start=start, stop=stop, ticks=ticks)


def fitted_axis(
    values: Iterable[float], start: float, stop: float, *, floor: float = -math.inf, ceiling: float = math.inf
) -> Axis:
    """An axis with round ends around the finite `values`, never beyond `floor` and `ceiling`.

    Without a finite value it shows 0 to 1; a single value gets room on both sides.
    """
    finite = [min(max(_no_dust(value), floor), ceiling) for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    least = max(abs(low), abs(high)) * 0.05 or 1.0
    if high - low < least:
        low, high = max(low - least / 2, floor), min(high + least / 2, ceiling)
    step = nice_step((high - low) / 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{index * step:.12g}") for index in range(first, last + 1))
    return Axis(low=ticks[0], high=ticks[-1], start=start, stop=stop, ticks=ticks)


def nice_step(rough: float) -> float:
    """The smallest of 1, 2, 5 or 10 times a power of ten that is not below `rough`.

    >>> nice_step(0.03)
    0.05
    """
    power = 10.0 ** math.floor(math.log10(rough))
    factor = next(step for step in NICE_STEPS if step >= rough / power - 1e-9)
    return float(f"{factor * power:.12g}")


def _no_dust(value: float) -> float:
    """Rounding errors around 0 would ask for an axis of their own size."""
    return value if abs(value) > DUST else 0.0


def _with_exponent(value: float) -> str:
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    text = f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return text.replace("-", "\N{MINUS SIGN}")


def _decimals(value: float) -> int:
    text = f"{value:.6f}".rstrip("0")
    return len(text.partition(".")[2])
