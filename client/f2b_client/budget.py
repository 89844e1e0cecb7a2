"""The privacy budget of a site's patients: spent, left, and what the next round will cost, by study and in all."""

from dataclasses import dataclass

from f2b_client.approval import approved_studies
from f2b_client.ledger import Ledger, Spending
from f2b_client.policy import is_private, privacy_terms
from f2b_client.prepare import load_prepared
from f2b_client.settings import SiteFolder, load_joined, load_policy
from face2bone_model.contract.errors import BudgetError, CohortError
from face2bone_model.contract.keys import Split
from face2bone_model.contract.policy import Policy
from face2bone_model.contract.study import Study
from face2bone_model.training.privacy import DpSegment, epsilon_of, plan_privacy

MOST_ROUNDS_AHEAD = 1000


@dataclass(frozen=True, kw_only=True)
class StudyBudget:
    """One study's part."""

    name: str
    """Empty where the study is not approved here any more."""
    study_hash: str
    private: bool
    """Whether it trains with differential privacy here."""
    rounds: int
    """Rounds that were charged."""
    spent: float
    """Epsilon of this study alone, by the accountant that counts (RDP)."""
    spent_pld: float
    """The same by the tighter one (PLD)."""
    limit: float
    """The stricter of study and policy, for all studies together; 0 where nothing is spent."""
    delta: float
    left: float
    next_round: float | None
    """What the next round will add; None where it is not known, or nothing is spent."""
    rounds_left: int | None
    """Rounds like it that the budget still covers."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One cohort's ledger."""

    cohort: str
    limit: float
    """Of policy.toml, over all studies."""
    delta: float
    spent: float
    spent_pld: float
    studies: tuple[StudyBudget, ...]
    history: tuple[Spending, ...]

    @property
    def left(self) -> float:
        """Never below 0."""
        return max(0.0, self.limit - self.spent)


def read_budget(folder: SiteFolder) -> Budget:
    """Everything `f2b-client privacy` shows.

    Raises:
        EnrolmentError: this site has not joined.
        SettingsError: policy.toml cannot be used.
        RecordsError: the ledger cannot be read.
    """
    policy = load_policy(folder)
    ledger = Ledger(folder.ledger, load_joined(folder).site)
    delta = policy.privacy.delta_limit
    approved = {study.hash(): study for study in approved_studies(folder)}
    charged = {charge.study_hash for charge in ledger.charges}
    return Budget(
        cohort=ledger.cohort,
        limit=policy.privacy.epsilon_limit,
        delta=delta,
        spent=ledger.spent(delta),
        spent_pld=epsilon_of(ledger.segments(), delta, "pld"),
        studies=(
            *(_of_study(folder, ledger, policy, study) for study in approved.values()),
            *(_of_unknown(ledger, policy, one) for one in sorted(charged - approved.keys())),
        ),
        history=ledger.history(delta),
    )


def _of_study(folder: SiteFolder, ledger: Ledger, policy: Policy, study: Study) -> StudyBudget:
    terms, private = privacy_terms(policy, study), is_private(policy, study)
    segments = ledger.segments(study.hash())
    following = _next(folder, policy, study, segments) if private else None
    everything, spent_by_all = ledger.segments(), ledger.spent(terms.delta)
    return StudyBudget(
        name=study.name,
        study_hash=study.hash(),
        private=private,
        rounds=len(segments),
        spent=epsilon_of(segments, terms.delta),
        spent_pld=epsilon_of(segments, terms.delta, "pld"),
        limit=terms.epsilon if private else 0.0,
        delta=terms.delta,
        left=max(0.0, terms.epsilon - spent_by_all) if private else 0.0,
        next_round=epsilon_of((*everything, following), terms.delta) - spent_by_all if following else None,
        rounds_left=_rounds_left(everything, following, terms.epsilon, terms.delta) if following else None,
    )


def _of_unknown(ledger: Ledger, policy: Policy, study_hash: str) -> StudyBudget:
    """A study that spent here and is approved no more."""
    delta, segments = policy.privacy.delta_limit, ledger.segments(study_hash)
    return StudyBudget(
        name="",
        study_hash=study_hash,
        private=True,
        rounds=len(segments),
        spent=epsilon_of(segments, delta),
        spent_pld=epsilon_of(segments, delta, "pld"),
        limit=0.0,
        delta=delta,
        left=0.0,
        next_round=None,
        rounds_left=None,
    )


def _next(
    folder: SiteFolder, policy: Policy, study: Study, segments: tuple[DpSegment, ...]
) -> DpSegment | None:
    """The next round's mechanism: the last one's, else as it will be planned; None before preparation."""
    if segments:
        return segments[-1]
    try:
        patients = load_prepared(folder).cohort.select(Split.TRAIN).num_patients
        return plan_privacy(privacy_terms(policy, study), patients, study.training).segment
    except (CohortError, BudgetError):
        return None


def _rounds_left(spent: tuple[DpSegment, ...], following: DpSegment, limit: float, delta: float) -> int:
    """How many times `following` still fits, by halving; at most `MOST_ROUNDS_AHEAD`."""
    fits, too_many = 0, MOST_ROUNDS_AHEAD + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if epsilon_of((*spent, *[following] * middle), delta) <= limit:
            fits = middle
        else:
            too_many = middle
    return fits
