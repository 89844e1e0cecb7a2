"""One figure with its interval, and what a reader must know to trust it; closed-form intervals."""

import math
from dataclasses import dataclass
from typing import Literal

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution: every interval is a 95 % interval."""

WILSON = "Wilson EB, J Am Stat Assoc 1927;22:209-212"

Interval = tuple[float, float]
NO_INTERVAL: Interval = (math.nan, math.nan)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value, its 95 % interval, and where both come from."""

    value: float
    """NaN when it cannot be estimated; `reason` says why."""
    low: float
    high: float
    """95 % confidence interval; NaN when there is none."""
    n: int
    """Patients behind the value."""
    definition: str
    """What is computed, in words or as a formula."""
    source: str
    """Paper or guideline of the figure and of its interval."""
    exact: Literal["exact", "bound", "approximate"]
    """`exact`: equal to the pooled computation. `bound`: the pooled value certainly lies within `bound`."""
    bound: Interval | None = None
    reason: str = ""
    """Why there is no value, or how many sites withheld their share; empty when nothing is to be said."""
    sites: int = 1
    """Sites whose sums are in the value."""
    withheld: int = 0
    """Sites that withheld theirs because of small cells."""

    @property
    def known(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)


def wilson_interval(successes: float, trials: float) -> Interval:
    """95 % score interval of a proportion, inside [0, 1] and of sensible width at 0 and 1.

    Centre (k + z²/2) / (n + z²), half-width z / (n + z²) · sqrt(k (n - k) / n + z² / 4).
    Source: Wilson 1927. NaN without trials.
    """
    if trials <= 0:
        return NO_INTERVAL
    square = Z95**2
    centre = (successes + square / 2) / (trials + square)
    spread = Z95 / (trials + square) * math.sqrt(successes * (trials - successes) / trials + square / 4)
    return min(successes / trials, max(0.0, centre - spread)), max(
        successes / trials, min(1.0, centre + spread)
    )


def normal_interval(total: float, total_of_squares: float, n: int) -> Interval:
    """95 % interval of the mean of n non-negative terms: mean ± z · s / sqrt(n), cut at 0. NaN for n < 2."""
    if n < 2:  # noqa: PLR2004  # a variance takes two
        return NO_INTERVAL
    mean = total / n
    variance = max(0.0, total_of_squares - n * mean**2) / (n - 1)
    half = Z95 * math.sqrt(variance / n)
    return max(0.0, mean - half), mean + half


def logit_interval(value: float, standard_error: float) -> Interval:
    """95 % interval of a proportion-like value in (0, 1), on the logit scale: SE_logit = SE / (A (1 - A)).

    Source: Snell et al., Stat Methods Med Res 2018;27:3505 (scale for the c statistic).
    """
    centre = math.log(value / (1 - value))
    half = Z95 * standard_error / (value * (1 - value))
    return _expit(centre - half), _expit(centre + half)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
