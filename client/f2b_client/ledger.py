"""The hospital's privacy ledger: what was spent of each cohort's budget, charged and durable before a release.

Rows are only ever added. Spending composes over every row of a cohort, whatever study, run or server asked, so no
message, restart or reinstall gives budget back.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from f2b_client.receipts import durable_database
from face2bone_model.contract.errors import BudgetError
from face2bone_model.training.privacy import DpSegment, epsilon_of

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS charges (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, "
    "cohort TEXT NOT NULL, study_hash TEXT NOT NULL, round INTEGER NOT NULL, "
    "noise_multiplier REAL NOT NULL, sample_rate REAL NOT NULL, steps INTEGER NOT NULL)"
)


@dataclass(frozen=True)
class Spent:
    """Epsilon of one cohort at a delta, and the limit it counts against."""

    epsilon: float
    limit: float
    delta: float


@dataclass(frozen=True)
class Ledger:
    """The ledger file of one cohort."""

    path: Path
    cohort: str

    def segments(self, study_hash: str | None = None) -> tuple[DpSegment, ...]:
        """Every training that was charged, of one study or of all."""
        if not self.path.exists():
            return ()
        query = "SELECT noise_multiplier, sample_rate, steps FROM charges WHERE cohort = ?"
        values = [self.cohort]
        if study_hash is not None:
            query, values = f"{query} AND study_hash = ?", [*values, study_hash]
        with durable_database(self.path, SCHEMA) as connection:
            rows = connection.execute(f"{query} ORDER BY number", values).fetchall()
        return tuple(DpSegment(noise_multiplier=n, sample_rate=q, steps=s) for n, q, s in rows)

    def spent(self, delta: float, study_hash: str | None = None) -> float:
        """Epsilon spent so far at this delta, by one study or by all."""
        segments = self.segments(study_hash)
        return epsilon_of(segments, delta) if segments else 0.0

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
        self, segment: DpSegment, *, study_hash: str, round_number: int, limit: float, delta: float
    ) -> float:
        """Spend a training's budget; durable on return. A round that fails later stays charged.

        Returns:
            Epsilon spent in all, after the charge.

        Raises:
            BudgetError: the budget does not cover it; nothing is charged.
        """
        row = (
            datetime.now(UTC).isoformat(timespec="seconds"),
            self.cohort,
            study_hash,
            round_number,
            segment.noise_multiplier,
            segment.sample_rate,
            segment.steps,
        )
        with durable_database(self.path, SCHEMA) as connection:
            connection.execute("BEGIN IMMEDIATE")  # so that nobody else spends between check and charge
            after = self.check(segment, limit=limit, delta=delta)
            connection.execute(
                "INSERT INTO charges (at, cohort, study_hash, round, noise_multiplier, sample_rate, steps) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
        return after
