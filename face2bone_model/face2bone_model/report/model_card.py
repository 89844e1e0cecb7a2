"""What a model card tells: one record of a released model, from the study and what its hospitals released.

It follows Model Facts labels (Sendak et al., npj Digit Med 2020;3:41) and TRIPOD+AI (Collins et al., BMJ
2024;385:e078378), as far as a federated study knows it: pooled counts and figures as the hospitals released them, and
"withheld" where they did not. It holds no clock time, so that the same study gives the same card.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from face2bone_model.contract.study import Study
from face2bone_model.metrics.summary import DescriptionSummary, EvaluationSummary, ValidationSummary


@dataclass(frozen=True, kw_only=True)
class CardSite:
    """One hospital's share in the model."""

    name: str
    patients: Mapping[str, int] | None
    """By split, as released; None where the hospital withheld them."""
    rounds_contributed: int
    epsilon: float
    """Spent by this study at the last round it contributed to, as the hospital reported it; 0 without DP."""
    delta: float
    noise_multiplier: float

    @property
    def private(self) -> bool:
        """Whether it trained with differential privacy."""
        return self.noise_multiplier > 0


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Everything the card tells."""

    study: Study
    round: int
    chosen_round: int
    """0 where none was chosen yet."""
    checkpoint: str
    """SHA-256 of the round's checkpoint."""
    scalars: int
    software_version: str
    synthetic: bool
    cohort: DescriptionSummary | None
    """Pooled; None where no hospital described its patients."""
    sites: tuple[CardSite, ...]
    missing: Mapping[int, Mapping[str, str]]
    """By round, the hospitals whose update is not in it, and why."""
    validation: ValidationSummary | None
    """Of this very model; None where it was not measured."""
    evaluation: EvaluationSummary | None
    """On held-out patients; None for a round that was not chosen."""

    @property
    def chosen(self) -> bool:
        """Whether this is the model that the study chose."""
        return self.round == self.chosen_round

    @property
    def private(self) -> bool:
        """Whether every hospital in it trained with differential privacy."""
        trained = [site for site in self.sites if site.rounds_contributed]
        return bool(trained) and all(site.private for site in trained)
