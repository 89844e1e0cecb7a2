"""The hospital's privacy ledger: what was spent of each cohort's budget, charged and durable before a release.

Rows are only ever added. Spending composes over every row of a cohort, whatever study, run or server asked, so no
message, restart or reinstall gives budget back.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from f2b_client.charges import SCHEMA, ChainState, Charge, add_charge, read_charges, state_of
from f2b_client.durable import durable_database
from face2bone_model.contract.errors import BudgetError
from face2bone_model.training.privacy import DpSegment, epsilon_of


@dataclass(frozen=True, kw_only=True)
class Spending:
    """One charge, and what the cohort had spent in all after it."""

    at: str
    study_hash: str
    round: int
    epsilon: float


@dataclass(frozen=True)
class Ledger:
    """The ledger file of one cohort."""

    path: Path
    cohort: str

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every charge of this cohort, oldest first."""
        return tuple(charge for charge in read_charges(self.path) if charge.cohort == self.cohort)

    @property
    def state(self) -> ChainState:
        """Length and head of the whole file, all cohorts together."""
        return state_of(read_charges(self.path))

    def segments(self, study_hash: str | None = None) -> tuple[DpSegment, ...]:
        """Every training that was charged, of one study or of all."""
        return tuple(segment_of(one) for one in self.charges if study_hash in (None, one.study_hash))

    def spent(self, delta: float, study_hash: str | None = None) -> float:
        """Epsilon spent so far at this delta, by one study or by all."""
        return epsilon_of(self.segments(study_hash), delta)

    def history(self, delta: float) -> tuple[Spending, ...]:
        """Every charge of the cohort, oldest first, with epsilon spent in all after it, at this delta."""
        charges = self.charges
        segments = [segment_of(charge) for charge in charges]
        return tuple(
            Spending(
                at=charge.at,
                study_hash=charge.study_hash,
                round=charge.round,
                epsilon=epsilon_of(segments[:count], delta),
            )
            for count, charge in enumerate(charges, start=1)
        )

    def paid(self, payload_digest: str) -> bool:
        """Whether a reply with this digest was charged to this cohort."""
        return any(charge.payload_digest == payload_digest for charge in self.charges)

    def check(self, segment: DpSegment, *, limit: float, delta: float) -> float:
        """Epsilon after one more training.

        Raises:
            BudgetError: it would exceed the limit.
        """
        after = epsilon_of((*self.segments(), segment), delta)
        if not after <= limit:  # so that a limit that is not a number covers nothing
            raise BudgetError(
                f"The next round would bring cohort '{self.cohort}' to epsilon {after:.2f}; the limit is {limit:g}.",
                "Raise [privacy] epsilon_limit in policy.toml only if your data protection officer agrees.",
            )
        return after

    def charge(
        self,
        segment: DpSegment,
        *,
        study_hash: str,
        round_number: int,
        payload_digest: str,
        limit: float,
        delta: float,
    ) -> float:
        """Spend a training's budget; durable on return. A reply that was paid for is not charged again.

        Args:
            segment: the training.
            study_hash: of the study that asked for it.
            round_number: of that study.
            payload_digest: SHA-256 of the reply it pays for; another training gives another reply.
            limit: most that may be spent in all.
            delta: at which epsilon is reckoned.

        Returns:
            Epsilon spent in all, after the charge.

        Raises:
            BudgetError: the budget does not cover it; nothing is charged.
            RecordsError: the ledger cannot be written.
        """
        with durable_database(self.path, SCHEMA) as connection:
            connection.execute("BEGIN IMMEDIATE")  # so that nobody else spends between check and charge
            if self.paid(payload_digest):
                return self.spent(delta)
            after = self.check(segment, limit=limit, delta=delta)
            state = self.state
            charge = Charge(
                number=state.rows + 1,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                cohort=self.cohort,
                study_hash=study_hash,
                round=round_number,
                payload_digest=payload_digest,
                noise_multiplier=float(segment.noise_multiplier),
                sample_rate=float(segment.sample_rate),
                steps=segment.steps,
            )
            add_charge(connection, replace(charge, chain=charge.chained(state.head)))
        return after


def segment_of(charge: Charge) -> DpSegment:
    """The mechanism a charge paid for."""
    return DpSegment(
        noise_multiplier=charge.noise_multiplier, sample_rate=charge.sample_rate, steps=charge.steps
    )
