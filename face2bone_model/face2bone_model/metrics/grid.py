"""The public grids on [0, 1] into which scores are counted. A bin of a coarser grid is a union of finer bins.

Grids that do not nest would let small cells be worked out: the count below 0.100 minus the count below 0.067 is the
count of a cell nobody released.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import SettingsError
from face2bone_model.contract.study import EvaluationSettings

SUBGROUP_FACTOR = 4
"""Score histograms of subgroups have a quarter of the bins, so that seven cost less than twice that of all."""


@dataclass(frozen=True, kw_only=True)
class Grids:
    """Numbers of equal-width bins."""

    scores: int
    """Histogram of all patients: `score_bins` rounded up until the other grids nest in it (1000 becomes 1020)."""
    subgroup_scores: int
    """Histogram of a subgroup, and of the validation patients: a quarter of it (255)."""
    calibration: tuple[int, ...]
    """Calibration, finest first, each dividing the one before and ending with one bin (15, 5, 1)."""

    def index(self, scores: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
        """Bin of each score in a grid of `bins`, an integer array of the same shape.

        Bins are [i/bins, (i+1)/bins); the last one includes 1. Computed on the finest grid and divided, so
        that rounding cannot break the nesting.
        """
        finest = np.minimum(np.floor(scores * self.scores), self.scores - 1).astype(np.int64)
        return finest // (self.scores // bins)


def grids(settings: EvaluationSettings) -> Grids:
    """The grids a study's settings ask for.

    Raises:
        SettingsError: fewer than two calibration bins or score bins.
    """
    if settings.calibration_bins < 2 or settings.score_bins < 2:  # noqa: PLR2004  # one bin tells nothing apart
        raise SettingsError(
            "study.toml [evaluation]: 'calibration_bins' and 'score_bins' must be 2 or more.",
            "Leave them out to use 15 and 1000.",
        )
    step = SUBGROUP_FACTOR * settings.calibration_bins
    scores = -(-settings.score_bins // step) * step
    calibration = [settings.calibration_bins]
    while calibration[-1] > 1:
        calibration.append(calibration[-1] // _smallest_factor(calibration[-1]))
    return Grids(scores=scores, subgroup_scores=scores // SUBGROUP_FACTOR, calibration=tuple(calibration))


def _smallest_factor(number: int) -> int:
    return next(factor for factor in range(2, number + 1) if number % factor == 0)
