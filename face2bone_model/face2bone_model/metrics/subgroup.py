"""The groups every figure is given for: all patients, by sex, by age band."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import SettingsError
from face2bone_model.contract.study import EvaluationSettings

ALL = "all"


def group_families(settings: EvaluationSettings) -> Mapping[str, tuple[str, ...]]:
    """Group names by what divides the patients; each family is a partition of a site's patients.

    For example `all`: `all`; `sex`: `sex:female`, `sex:male`; `age`: `age:<50`, `age:50-59`, …, `age:80+`.

    Raises:
        SettingsError: the age edges are empty or do not rise.
    """
    return {ALL: (ALL,), "sex": ("sex:female", "sex:male"), "age": _age_bands(settings.age_edges)}


def groups(settings: EvaluationSettings) -> tuple[str, ...]:
    """Every group name, in the order of `membership`'s rows."""
    return tuple(name for names in group_families(settings).values() for name in names)


def membership(
    settings: EvaluationSettings, female: NDArray[np.bool_], ages: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which patient belongs to which group, shape (number of groups, number of patients).

    Args:
        settings: gives the age edges; a patient of exactly 60 years belongs to the band that starts at 60.
        female: shape (P,).
        ages: in years, shape (P,).
    """
    bands = np.searchsorted(np.asarray(settings.age_edges), ages, side="right")
    by_age = [bands == band for band in range(len(settings.age_edges) + 1)]
    return np.stack([np.ones(len(female), bool), female.astype(bool), ~female.astype(bool), *by_age])


def locate(settings: EvaluationSettings, group: str) -> tuple[str, int]:
    """The family of a group and its row in that family's tables.

    Raises:
        KeyError: there is no such group.
    """
    for family, names in group_families(settings).items():
        if group in names:
            return family, names.index(group)
    raise KeyError(group)


def _age_bands(edges: tuple[int, ...]) -> tuple[str, ...]:
    if not edges or list(edges) != sorted(set(edges)):
        raise SettingsError(
            "study.toml [evaluation]: 'age_edges' must be rising years.", "For example [50, 60, 70, 80]."
        )
    between = (f"age:{low}-{high - 1}" for low, high in pairwise(edges))
    return (f"age:<{edges[0]}", *between, f"age:{edges[-1]}+")
