"""What a family of tables tells of who is there, whatever it says of the model.

A table of right and wrong answers by class also tells how many patients of each class there are. Such counts of
patients do not change from model to model, so they are what replies about overlapping patients have in common.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from face2bone_model.contract.keys import CLASSES, OSTEOPOROSIS
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.metrics.calibration import TOP_LABEL_BINS
from face2bone_model.metrics.subgroup import ALL

SPLITS = "splits"
"""In place of a family of groups: training, validation and test patients."""
TOTAL, OSTEOPOROSIS_OR_NOT, CLASS = "total", "osteoporosis", "class"
OLDEST = 1000
COUNTS_OF_THINGS = frozenset({"all/excluded_patients", "all/quarantined_photos"})
"""Families with one number that is not about patients of the cohort."""
OUTPUT_FREE = frozenset(
    {"counts", "losses", "pairs", "totals", "classes", "splits", "splits_by_class", "excluded_patients"}
    | {"quarantined_photos"}
)
"""Families whose counts do not depend on what the model says."""
_TELLS_TOTALS = {"totals", "accuracy", "losses", "splits"}
_TELLS_TWO = {"screen"}
_BY_SCORE = {"pairs", "scores"}
"""About the classes listed along their second axis: one (osteoporosis) or all."""


@dataclass(frozen=True, order=True)
class Tell:
    """Counts of patients by group and class."""

    by: str
    """`all`, `sex`, `age`, or `SPLITS`."""
    level: str
    """`TOTAL`, `OSTEOPOROSIS_OR_NOT` or `CLASS`."""


@dataclass(frozen=True, order=True)
class Cell:
    """Some patients of a population: of some classes, of one sex or both, from one age to below another."""

    classes: tuple[int, ...] = tuple(range(len(CLASSES)))
    sexes: tuple[bool, ...] = (False, True)
    """Female is True."""
    ages: tuple[int, int] = (0, OLDEST)


def tell_of(family: str, statistics: SiteStatistics) -> Tell | None:
    """What a family tells of who is there; None for `COUNTS_OF_THINGS`."""
    if family in COUNTS_OF_THINGS:
        return None
    groups, _, kind = family.rpartition("/")
    if kind in {"splits", "splits_by_class"}:
        groups = SPLITS
    if kind in _TELLS_TOTALS or kind.startswith(TOP_LABEL_BINS):
        return Tell(groups, TOTAL)
    two = kind in _TELLS_TWO or (kind in _BY_SCORE and _classes_of(family, statistics) == 1)
    return Tell(groups, OSTEOPOROSIS_OR_NOT if two else CLASS)


def cells_of(tell: Tell, age_edges: tuple[int, ...]) -> Iterator[Cell]:
    """The cells whose counts a tell gives, of each population it is about."""
    for sexes, ages in _groups(tell.by, age_edges):
        for classes in _classes(tell.level):
            yield Cell(classes, sexes, ages)


def _groups(by: str, age_edges: tuple[int, ...]) -> Iterator[tuple[tuple[bool, ...], tuple[int, int]]]:
    everyone = Cell()
    if by == "sex":
        yield from (((True,), everyone.ages), ((False,), everyone.ages))
    elif by == "age":
        yield from ((everyone.sexes, band) for band in pairwise((0, *age_edges, OLDEST)))
    else:
        assert by in {ALL, SPLITS}, by  # noqa: S101  # a new family of groups needs its cells here
        yield everyone.sexes, everyone.ages


def _classes(level: str) -> tuple[tuple[int, ...], ...]:
    every = tuple(range(len(CLASSES)))
    if level == TOTAL:
        return (every,)
    if level == OSTEOPOROSIS_OR_NOT:
        return ((OSTEOPOROSIS,), tuple(k for k in every if k != OSTEOPOROSIS))
    return tuple((k,) for k in every)


def _classes_of(family: str, statistics: SiteStatistics) -> int:
    table = statistics.tables.get(f"{family}/counts", statistics.tables.get(f"{family}/patients"))
    assert table is not None, family  # noqa: S101  # the schema has one of the two
    return int(table.shape[1])
