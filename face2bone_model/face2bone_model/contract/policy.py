"""What a hospital permits: `policy.toml`. The stricter of it and the study always holds."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class PrivacyPolicy:
    """`[privacy]` of policy.toml."""

    require_dp: bool = False
    """Train with differential privacy even where the study leaves it open."""
    epsilon_limit: float = 8.0
    """Most that all studies together may spend of one cohort's budget."""
    delta_limit: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class ReleasePolicy:
    """`[release]` of policy.toml."""

    min_cell: int = 11
    """Tables with a cell of 1 to min_cell - 1 patients stay; the stricter of study and policy holds."""
    max_bytes_per_reply: int = 20_000_000
    max_rounds: int = 200
    max_models_per_round: int = 1
    """Different models for which one question of a round is answered. An honest centre has one; two models that differ
    by a little show, in the difference of their sums, whom they set apart."""
    max_test_models: int = 1
    """Different models evaluated on the held-out patients in one study."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`policy.toml`."""

    privacy: PrivacyPolicy = field(default_factory=PrivacyPolicy)
    release: ReleasePolicy = field(default_factory=ReleasePolicy)
