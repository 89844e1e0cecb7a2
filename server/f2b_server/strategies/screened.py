"""A round's updates after screening: what every strategy starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from f2b_server.strategies.blocks import tensor_spans
from f2b_server.strategies.outliers import outliers
from f2b_server.strategies.strategy import SiteUpdate, Vector
from f2b_server.strategies.survey import Part, parts_of, survey
from f2b_server.strategies.weights import weights_of
from face2bone_model.contract.study import StrategySettings
from face2bone_model.contract.update import ModelSignature


@dataclass(frozen=True, kw_only=True)
class Screened:
    """The updates that count."""

    updates: tuple[SiteUpdate, ...]
    parts: tuple[Part, ...]
    """The tensors by who trained them; those that nobody trained are in none."""
    weights: dict[str, float]
    left_out: Mapping[str, str]
    notes: Mapping[str, str]


def screened(
    updates: Sequence[SiteUpdate], received: Vector, signature: ModelSignature, settings: StrategySettings
) -> Screened:
    """Leave out what must not count, and say who trained what. Sites are put in alphabetical order."""
    updates = sorted(updates, key=lambda update: update.site)
    spans = tensor_spans(signature)
    surveys = survey(updates, received, spans)
    left_out = outliers(updates, surveys, settings.longest_norm_ratio)
    kept = [
        (update, one) for update, one in zip(updates, surveys, strict=True) if update.site not in left_out
    ]
    counted = tuple(update for update, _ in kept)
    weights, notes = weights_of(settings.weights, counted)
    idle = {
        u.site: "The update is the model as received: it changes nothing."
        for u, s in kept
        if not s.trained.any()
    }
    return Screened(
        updates=counted,
        parts=parts_of(counted, [one for _, one in kept], spans),
        weights=weights,
        left_out=left_out,
        notes={**notes, **idle},
    )
