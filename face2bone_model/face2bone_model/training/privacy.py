"""Privacy accounting: how much noise a study needs, and what a site has spent.

The unit is the patient: all photos of a patient are one record. The mechanism is Poisson-subsampled Gaussian
(Abadi et al. 2016, arXiv 1607.00133), neighbours differ by one patient added or removed, and a site's spending is
the composition of every step it ever took for a study, not of one round.

Not protected: the number of training patients, which a site states as the weight of its update and from which the
noise follows; the sums over validation and test patients, which suppression guards; and the choice of settings.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import optimize

from face2bone_model.contract.errors import BudgetError, CohortError, SettingsError
from face2bone_model.contract.study import PrivacySettings, TrainingSettings

Accounting = Literal["rdp", "prv"]

_MOST_NOISE = 2.0**20
_PRECISION = 1e-3


@dataclass(frozen=True, kw_only=True)
class DpSegment:
    """Steps of the same mechanism: one line of the ledger.

    Raises:
        ValueError: a negative number, a rate above 1, or NaN, which would make the spending look smaller.
    """

    noise_multiplier: float
    """Standard deviation of the noise on the sum of clipped gradients, in units of the clipping norm."""
    sample_rate: float
    """Probability that a patient takes part in a step."""
    steps: int

    def __post_init__(self) -> None:
        if not (self.noise_multiplier >= 0 and 0 <= self.sample_rate <= 1 and self.steps >= 0):
            raise ValueError(f"not a mechanism: {self}")


@dataclass(frozen=True, kw_only=True)
class DpPlan:
    """How a site trains each round, fixed before the first."""

    noise_multiplier: float
    sample_rate: float
    steps_per_round: int
    max_grad_norm: float
    expected_batch_size: int
    """The public constant that divides the noisy sum, whatever the size of the cohort."""
    learning_rate: float
    trains: Literal["head", "all"] = "all"
    """Which tensors move; the others are left as they are and cost nothing."""
    physical_batch_size: int = 16
    """Patients whose gradients are held in memory at once; no effect on the result."""

    @property
    def segment(self) -> DpSegment:
        """What one round costs."""
        return DpSegment(
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            steps=self.steps_per_round,
        )


def plan_privacy(privacy: PrivacySettings, num_patients: int, training: TrainingSettings) -> DpPlan:
    """Choose the noise so that all rounds of the study together stay within `privacy.epsilon`.

    Every patient takes part in a step with the same probability, expected_batch_size / num_patients, at most 1.
    In a cohort smaller than the expected batch everyone takes part in every step.

    Args:
        privacy: terms of the study, or the stricter ones of the site.
        num_patients: training patients at this site.
        training: gives the number of rounds.

    Raises:
        CohortError: there are no training patients.
        SettingsError: a setting is out of its range.
        BudgetError: no amount of noise reaches epsilon.
    """
    _check(privacy)
    if num_patients < 1:
        raise CohortError(
            "There are no training patients.", "Check the splits and the quarantine of this site."
        )
    sample_rate = min(1.0, privacy.expected_batch_size / num_patients)
    steps = privacy.steps_per_round * training.rounds
    noise = privacy.noise_multiplier or _noise_for(privacy, sample_rate, steps)
    return DpPlan(
        noise_multiplier=noise,
        sample_rate=sample_rate,
        steps_per_round=privacy.steps_per_round,
        max_grad_norm=privacy.max_grad_norm,
        expected_batch_size=privacy.expected_batch_size,
        learning_rate=privacy.learning_rate,
        trains=privacy.trains,
    )


def epsilon_of(segments: Sequence[DpSegment], delta: float, accountant: Accounting = "rdp") -> float:
    """Epsilon spent by all segments together, at `delta`; 0 if there are none.

    Args:
        segments: everything released about the same patients, in any order.
        delta: probability mass the guarantee leaves out.
        accountant: `rdp` (Mironov et al. 2019, arXiv 1908.10530), fast, or `prv` (Gopi et al. 2021, arXiv
            2106.02848), tighter and slow with many different segments.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for segment in segments:
        steps[segment.noise_multiplier, segment.sample_rate] += segment.steps
    history = [(noise, rate, count) for (noise, rate), count in steps.items() if count > 0]
    if not history:
        return 0.0
    if any(noise == 0 for noise, _, _ in history):
        return float("inf")
    return _epsilon(tuple(sorted(history)), delta, accountant)


def refuse_fine_tuning(trunk: str) -> None:
    """Refuse `[model] trunk = "finetune"`, before any work is done.

    Raises:
        SettingsError: the trunk is to be trained.
    """
    if trunk == "finetune":
        raise SettingsError(
            "[model] trunk = 'finetune' cannot be trained with differential privacy: the noise on its millions of "
            "weights drowns what one hospital's patients can teach them.",
            "Set trunk = 'frozen', or train this study without differential privacy.",
        )


def _check(privacy: PrivacySettings) -> None:
    ranges = {
        "epsilon": privacy.epsilon > 0,
        "delta": 0 < privacy.delta < 1,
        "max_grad_norm": privacy.max_grad_norm > 0,
        "noise_multiplier": privacy.noise_multiplier >= 0,
        "expected_batch_size": privacy.expected_batch_size >= 1,
        "steps_per_round": privacy.steps_per_round >= 1,
        "learning_rate": privacy.learning_rate > 0,
    }
    for name, holds in ranges.items():
        if not holds:
            raise SettingsError(f"[privacy] '{name}' is {getattr(privacy, name)!r}, which is out of range.")


def _noise_for(privacy: PrivacySettings, sample_rate: float, steps: int) -> float:
    """The least noise multiplier, to 0.2 %, whose `steps` steps cost at most epsilon."""

    def excess(noise: float) -> float:
        segment = DpSegment(noise_multiplier=noise, sample_rate=sample_rate, steps=steps)
        return epsilon_of([segment], privacy.delta, privacy.accountant) - privacy.epsilon

    high = 1.0
    while excess(high) > 0:
        high *= 2
        if high > _MOST_NOISE:
            raise BudgetError(
                f"No noise reaches epsilon {privacy.epsilon} in {steps} steps.", "Raise epsilon."
            )
    low = high / 2
    while excess(low) <= 0:
        low /= 2
    root: Any = optimize.brentq(excess, low, high, xtol=_PRECISION * low)
    return float(root) + _PRECISION * low


@lru_cache(maxsize=256)
def _epsilon(history: tuple[tuple[float, float, int], ...], delta: float, accountant: Accounting) -> float:
    """Opacus's answer for (noise multiplier, sample rate, steps) of each segment."""
    from opacus.accountants import create_accountant

    ledger = create_accountant(mechanism=accountant)
    ledger.history = list(history)
    with warnings.catch_warnings(), np.errstate(divide="ignore"):  # prv meets log(0) at sample rate 1
        warnings.filterwarnings(
            "ignore", message="Optimal order is the"
        )  # the bound is then loose, but holds
        return float(ledger.get_epsilon(delta=delta))
