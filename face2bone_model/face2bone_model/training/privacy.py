"""Privacy accounting: how much noise a study needs, and what a site has spent.

The unit is the patient: all photos of a patient are one record. The mechanism is Poisson-subsampled Gaussian
(Abadi et al. 2016, arXiv 1607.00133), neighbours differ by one patient added or removed, and a site's spending is
the composition of every step it ever took for a study, not of one round.

Not protected: the number of training patients, which a site states as the weight of its update and from which the
noise follows; the sums over validation and test patients, which suppression guards; and the choice of settings.
"""

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from face2bone_model.contract.errors import BudgetError, CohortError, SettingsError
from face2bone_model.contract.study import PrivacySettings, TrainingSettings

Accounting = Literal["rdp", "prv", "pld"]

_MOST_NOISE = 2.0**20
_PRECISION = 1e-3
_LEAST_NOISE = 1e-100
"""Below, the accountants' floating-point numbers overflow; epsilon would have 200 digits."""
_LARGEST_LOSS = 1e5
"""Above, privacy losses cannot be exponentiated, and nobody needs a tight answer."""
_PLD_CELLS = 10_000
"""Cells of the grid of privacy losses between 0 and (a quick bound of) epsilon."""
_SCALE_ORDERS: list[float] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 64]
"""Whole Rényi orders, for which the divergence is a short sum: enough to choose a grid."""

_History = tuple[tuple[float, float, int], ...]
"""(noise multiplier, sample rate, steps) of each mechanism, sorted."""


@dataclass(frozen=True, kw_only=True)
class DpSegment:
    """Steps of the same mechanism: one line of the ledger.

    Raises:
        ValueError: a negative or endless number, a rate above 1, or NaN, which would make the spending look smaller.
    """

    noise_multiplier: float
    """Standard deviation of the noise on the sum of clipped gradients, in units of the clipping norm."""
    sample_rate: float
    """Probability that a patient takes part in a step."""
    steps: int

    def __post_init__(self) -> None:
        if not (0 <= self.noise_multiplier < math.inf and 0 <= self.sample_rate <= 1 and self.steps >= 0):
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
    physical_batch_size: int = 64
    """Most patients whose gradients are held in memory at once; no effect on the result."""

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
    """Epsilon spent by all segments together, at `delta`; 0 if there are none, infinite if one had no noise.

    Every answer is an upper bound. The ledger and the gate count with `rdp`, reports add `pld`.

    Args:
        segments: everything released about the same patients, in any order.
        delta: probability mass the guarantee leaves out.
        accountant: `rdp` (Mironov et al. 2019, arXiv 1908.10530), fast; `pld`, privacy loss distributions with
            pessimistic rounding (Doroshenko et al. 2022, arXiv 2207.04380), tight, about 25 ms for each different
            segment; `prv` (Gopi et al. 2021, arXiv 2106.02848), as tight and slow with many different segments.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for segment in segments:
        if segment.sample_rate > 0:  # nobody is ever drawn: nothing is said about anyone
            steps[segment.noise_multiplier, segment.sample_rate] += segment.steps
    history = tuple(sorted((noise, rate, count) for (noise, rate), count in steps.items() if count > 0))
    if not history:
        return 0.0
    if any(noise < _LEAST_NOISE for noise, _, _ in history):
        return math.inf
    return max(0.0, _ACCOUNTANTS[accountant](history, delta))


def changes_to_training(training: TrainingSettings) -> tuple[str, ...]:
    """What of a study's `[training]` a private site does not do, a sentence each, for the person who approves it.

    Private and other sites share one study, so these settings are not refused: they do not apply.
    """
    sentences = [
        f"A fixed number of steps takes the place of {training.local_epochs} epochs a round.",
        "No early stopping: when to stop would be read from the validation patients, which no budget pays for.",
    ]
    if training.class_weights:
        sentences.append(
            "Classes are not weighted: weights would be counted from the patients' labels, which no budget pays for."
        )
    return tuple(sentences)


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


def _rdp_epsilon(history: _History, delta: float) -> float:
    divergences = sum(count * _step_divergence(noise, rate) for noise, rate, count in history)
    return _from_divergences(_orders(), divergences, delta)


@lru_cache(maxsize=64)
def _prv_epsilon(history: _History, delta: float) -> float:
    from opacus.accountants import PRVAccountant

    ledger = PRVAccountant()
    ledger.history = list(history)
    with _loose_is_fine(), np.errstate(divide="ignore"):  # it meets log(0) at sample rate 1
        return float(ledger.get_epsilon(delta=delta))


@lru_cache(maxsize=64)
def _pld_epsilon(history: _History, delta: float) -> float:
    """Compose on a grid in proportion to the answer, so that many small losses or one large one do no harm."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    scale = _scale(history, delta)
    if scale > _LARGEST_LOSS:
        return scale
    interval = scale / _PLD_CELLS
    ledger = PLDAccountant(value_discretization_interval=interval)  # neighbours: one patient added or removed
    for noise, rate, count in history:
        ledger.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), count)
    return float(ledger.get_epsilon(delta))


_ACCOUNTANTS: dict[Accounting, Callable[[_History, float], float]] = {
    "rdp": _rdp_epsilon,
    "prv": _prv_epsilon,
    "pld": _pld_epsilon,
}


@lru_cache(maxsize=4096)
def _step_divergence(noise: float, rate: float) -> NDArray[np.float64]:
    """Rényi divergence of one step at each of Opacus's orders; kept, as a ledger asks for it with each new row."""
    from opacus.accountants.analysis.rdp import compute_rdp

    return np.asarray(compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=_orders()))


def _orders() -> list[float]:
    from opacus.accountants import RDPAccountant

    return list(RDPAccountant.DEFAULT_ALPHAS)


def _scale(history: _History, delta: float) -> float:
    """Epsilon by few orders: a quick upper bound."""
    from opacus.accountants.analysis.rdp import compute_rdp

    divergences = sum(
        np.asarray(compute_rdp(q=rate, noise_multiplier=noise, steps=count, orders=_SCALE_ORDERS))
        for noise, rate, count in history
    )
    return _from_divergences(_SCALE_ORDERS, divergences, delta)


def _from_divergences(orders: list[float], divergences: Any, delta: float) -> float:
    from opacus.accountants.analysis.rdp import get_privacy_spent

    with _loose_is_fine():
        epsilon, _ = get_privacy_spent(orders=orders, rdp=divergences, delta=delta)
    return float(epsilon)


@contextmanager
def _loose_is_fine() -> Iterator[None]:
    """Without Opacus's remark that a bound is loose at the first or last order: it still holds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield
