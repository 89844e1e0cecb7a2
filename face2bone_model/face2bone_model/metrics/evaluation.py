"""What a site measures of its test and validation patients: schema and update.

Size at the default settings: about 160 kB for the evaluation (mostly score histograms), 4 kB for a validation.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.keys import OSTEOPOROSIS
from face2bone_model.contract.statistics import SiteStatistics, TableSpec
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.calibration import class_family, top_label_family
from face2bone_model.metrics.classification import ACCURACY, CONFUSION, COUNTS, RECALL, SCREEN
from face2bone_model.metrics.discrimination import pair_family, score_family
from face2bone_model.metrics.family import SITES, SITES_SPEC, Family, Predictions, predictions_of
from face2bone_model.metrics.grid import grids
from face2bone_model.metrics.losses import LOSSES
from face2bone_model.metrics.subgroup import ALL, group_families, membership


def evaluation_families(settings: EvaluationSettings, group_family: str) -> tuple[Family, ...]:
    """The families of tables measured for every group of one family of groups."""
    grid = grids(settings)
    bins = grid.scores if group_family == ALL else grid.subgroup_scores
    calibration = (
        family for b in grid.calibration for family in (class_family(grid, b), top_label_family(grid, b))
    )
    basic = (COUNTS, ACCURACY, RECALL, SCREEN, CONFUSION, LOSSES, pair_family())
    return (*basic, *calibration, score_family(grid, bins))


def validation_families(settings: EvaluationSettings) -> tuple[Family, ...]:
    """The few families of the learning curve: losses, and the ranking of osteoporosis against the rest."""
    grid = grids(settings)
    classes = (OSTEOPOROSIS,)
    return (LOSSES, pair_family(classes), score_family(grid, grid.subgroup_scores, classes))


def evaluation_schema(settings: EvaluationSettings) -> tuple[TableSpec, ...]:
    """Every table of the evaluation of a model on a site's test patients."""
    tables = (
        spec
        for group_family, names in group_families(settings).items()
        for family in evaluation_families(settings, group_family)
        for spec in family.schema(group_family, len(names))
    )
    return (SITES_SPEC, *tables)


def evaluation_update(
    settings: EvaluationSettings,
    probabilities: NDArray[Any],
    labels: NDArray[Any],
    female: NDArray[np.bool_],
    ages: NDArray[np.int64],
) -> SiteStatistics:
    """One site's sums, unsuppressed: pass them through `suppression.suppress` before they leave.

    Args:
        settings: bins and age edges.
        probabilities: shape (P, 3).
        labels: class index, shape (P,).
        female: shape (P,).
        ages: years, shape (P,).

    Raises:
        UnexpectedError: these are not probabilities, or not of these patients.
    """
    predictions = predictions_of(probabilities, labels)
    rows = iter(membership(settings, female, ages))
    tables: dict[str, NDArray[Any]] = {SITES: np.ones(1, np.int64)}
    for group_family, names in group_families(settings).items():
        of_groups = [predictions.of(next(rows)) for _ in names]
        tables |= _measure(evaluation_families(settings, group_family), group_family, of_groups)
    return SiteStatistics(tables=tables)


def validation_schema(settings: EvaluationSettings) -> tuple[TableSpec, ...]:
    """The few tables of the learning curve."""
    tables = (spec for family in validation_families(settings) for spec in family.schema(ALL, 1))
    return (SITES_SPEC, *tables)


def validation_update(
    settings: EvaluationSettings, probabilities: NDArray[Any], labels: NDArray[Any]
) -> SiteStatistics:
    """One site's sums over its validation patients, unsuppressed. Shapes (P, 3) and (P,).

    Raises:
        UnexpectedError: these are not probabilities, or not of these patients.
    """
    predictions = predictions_of(probabilities, labels)
    tables = _measure(validation_families(settings), ALL, [predictions])
    return SiteStatistics(tables={SITES: np.ones(1, np.int64), **tables})


def _measure(
    families: tuple[Family, ...], group_family: str, of_groups: list[Predictions]
) -> Mapping[str, NDArray[Any]]:
    tables: dict[str, NDArray[Any]] = {}
    for family in families:
        tables |= family.update(group_family, of_groups)
    return tables
