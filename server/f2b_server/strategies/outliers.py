"""Screening: updates that are not numbers, or far longer than the round's others, do not count.

What this finds is an accident of scale: a diverged site, a wrong unit, an update multiplied by a hundred. What it
cannot find is a step of ordinary length in a wrong direction (labels turned round, a sign turned round): against that
there are the robust strategies.
"""

import math
import statistics
from collections.abc import Sequence

from f2b_server.strategies.strategy import SiteUpdate
from f2b_server.strategies.survey import Survey

FEWEST_TO_COMPARE = 3
"""Of two lengths nobody can say which one is odd."""


NOISE_MARGIN = 1.5
"""The length of noise in many coordinates hardly varies; in the few of a small head it may."""


def outliers(
    updates: Sequence[SiteUpdate], surveys: Sequence[Survey], longest_ratio: float
) -> dict[str, str]:
    """Sites whose update must not count, each with a sentence why.

    Args:
        updates: of the round.
        surveys: of these updates.
        longest_ratio: an update longer than this many times the round's median length is left out; 0: none is. A
            private site's may be longer by the noise it had to add.
    """
    found = {
        update.site: "The update holds values that are not finite."
        for update, one in zip(updates, surveys, strict=True)
        if not one.finite
    }
    finite = [
        (update, one)
        for update, one in zip(updates, surveys, strict=True)
        if one.finite and one.trained.any()
    ]
    for update, one in finite:
        length = math.sqrt(one.squares.sum())
        median = _median_length(one, [other for _, other in finite])
        longest = longest_ratio * median + NOISE_MARGIN * update.noise_deviation * math.sqrt(one.coordinates)
        if longest_ratio > 0 and median > 0 and length > longest:
            found[update.site] = (
                f"The update is a step of length {length:.3g}, {length / median:.1f} times the round's median of "
                f"{median:.3g}; the study permits {longest_ratio:g} times."
            )
    return found


def _median_length(own: Survey, everyone: Sequence[Survey]) -> float:
    """Median length of the round's steps, each as long as it would be over the tensors that `own` trained.

    Where all sites train the same tensors this is the plain median. Otherwise a site is compared on the tensors that
    both trained, so that one which trains the whole network is no outlier among others that train the head.
    NaN with fewer than three to compare.
    """
    lengths = [length for other in everyone if (length := _length_like(own, other)) is not None]
    return statistics.median(lengths) if len(lengths) >= FEWEST_TO_COMPARE else math.nan


def _length_like(own: Survey, other: Survey) -> float | None:
    """Length of the other's step, scaled from the tensors in common to all of `own`; None without any."""
    common = own.trained & other.trained
    shared = float(own.squares[common].sum())
    if not shared > 0:
        return None
    return math.sqrt(float(other.squares[common].sum()) * (float(own.squares.sum()) / shared))
