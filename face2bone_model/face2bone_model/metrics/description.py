"""What a site says of its cohort before training: schema and update."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import UnexpectedError
from face2bone_model.contract.keys import CLASSES, Split
from face2bone_model.contract.statistics import SiteStatistics, TableSpec
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.family import ELLIPSE_ONLY, RELEASED, SITES, SITES_SPEC
from face2bone_model.metrics.subgroup import group_families, membership

K, S = len(CLASSES), len(Split)


def _shapes(settings: EvaluationSettings) -> dict[str, tuple[int, ...]]:
    """Shape of each table; each is a family of its own, and its first axis is the group."""
    shapes: dict[str, tuple[int, ...]] = {}
    for group_family, names in group_families(settings).items():
        shapes[f"{group_family}/totals"] = (len(names), 1)
        shapes[f"{group_family}/classes"] = (len(names), K)
    return shapes | {
        "all/splits": (1, S),
        "all/splits_by_class": (1, S, K),
        "all/excluded_patients": (1, 1),
        "all/quarantined_photos": (1, 1),
    }


def describe_schema(settings: EvaluationSettings) -> tuple[TableSpec, ...]:
    """Counts of patients by group, class and split; excluded patients; quarantined photos."""
    tables = (
        spec
        for family, shape in _shapes(settings).items()
        for spec in (
            TableSpec(name=f"{family}/counts", shape=shape),
            TableSpec(name=f"{family}/{RELEASED}", shape=(1,), high=1),
        )
    )
    return (SITES_SPEC, TableSpec(name=ELLIPSE_ONLY, shape=(1,), high=1), *tables)


def describe_update(  # noqa: PLR0913  # the columns of a cohort, named at every call
    settings: EvaluationSettings,
    *,
    labels: NDArray[Any],
    splits: NDArray[Any],
    female: NDArray[np.bool_],
    ages: NDArray[np.int64],
    excluded_patients: int,
    quarantined_photos: int,
    ellipse_only: bool = False,
) -> SiteStatistics:
    """One site's counts, unsuppressed: pass them through `suppression.suppress` before they leave.

    Args:
        settings: gives the age edges.
        labels: class index, shape (P,).
        splits: names of `Split`, shape (P,).
        female: shape (P,).
        ages: years, shape (P,).
        excluded_patients: patients left out of the cohort, for any reason.
        quarantined_photos: photos that could not be used.
        ellipse_only: the site had no background network; its faces were masked by an ellipse alone.

    Raises:
        UnexpectedError: a split has another name.
    """
    members = membership(settings, female, ages)
    by_class = members.astype(np.int64) @ np.eye(K, dtype=np.int64)[np.asarray(labels, np.int64)]
    by_split = _by_split(splits, labels)
    counts: dict[str, NDArray[np.int64]] = {}
    row = 0
    for group_family, names in group_families(settings).items():
        rows = by_class[row : row + len(names)]
        counts |= {f"{group_family}/classes": rows, f"{group_family}/totals": rows.sum(axis=1, keepdims=True)}
        row += len(names)
    counts |= {"all/splits": by_split.sum(axis=1)[None], "all/splits_by_class": by_split[None]}
    counts |= {
        "all/excluded_patients": np.array([[excluded_patients]]),
        "all/quarantined_photos": np.array([[quarantined_photos]]),
    }
    tables: dict[str, NDArray[Any]] = {
        SITES: np.ones(1, np.int64),
        ELLIPSE_ONLY: np.array([int(ellipse_only)]),
    }
    for family, table in counts.items():
        tables |= {f"{family}/counts": table.astype(np.int64), f"{family}/{RELEASED}": np.ones(1, np.int64)}
    return SiteStatistics(tables=tables)


def _by_split(splits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
    names = np.array([split.value for split in Split])
    is_split = names[:, None] == np.asarray(splits).astype(str)
    if not is_split.any(axis=0).all():
        raise UnexpectedError("A patient is in none of the splits " + ", ".join(names) + ".")
    counts: NDArray[np.int64] = (
        is_split.astype(np.int64) @ np.eye(K, dtype=np.int64)[np.asarray(labels, np.int64)]
    )
    return counts
