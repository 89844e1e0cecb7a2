"""What a table of sums and counts means, and what its rows and columns are called."""

from collections.abc import Mapping
from dataclasses import dataclass

from face2bone_model.contract.keys import CLASSES, Split

SPLITS = tuple(split.value for split in Split)
WRONG_RIGHT = ("wrong", "right")
OTHERS_OWN = ("others", "of the class")
SUM_AND_SQUARES = ("sum", "sum of squares")


@dataclass(frozen=True)
class TableWords:
    """In words, what stands in a table."""

    meaning: str = ""
    columns: tuple[str, ...] = ()
    """Of its last axis."""
    rows: tuple[str, ...] = ()
    """Of the axis after the group, where there is one between group and columns."""


WORDS: Mapping[str, TableWords] = {
    "sites": TableWords("1: this hospital answered"),
    "ellipse_only": TableWords("1 where no background network was found"),
    "classes/counts": TableWords("patients by class", CLASSES),
    "totals/counts": TableWords("patients"),
    "splits/counts": TableWords("patients by split", SPLITS),
    "splits_by_class/counts": TableWords("patients by split and class", CLASSES, SPLITS),
    "excluded_patients/counts": TableWords("patients left out of the cohort"),
    "quarantined_photos/counts": TableWords("photos that could not be used"),
    "counts/by_class": TableWords("patients by class", CLASSES),
    "accuracy/outcomes": TableWords("patients the model had wrong, and right", WRONG_RIGHT),
    "recall/outcomes": TableWords("patients the model had wrong, and right, by class", WRONG_RIGHT, CLASSES),
    "confusion/counts": TableWords("patients by class and by what the model called them", CLASSES, CLASSES),
    "screen/counts": TableWords(
        "patients without and with osteoporosis", ("not called", "called"), ("without", "with")
    ),
    "losses/n": TableWords("patients behind the losses"),
    "losses/log_loss": TableWords("logarithmic loss over these patients", SUM_AND_SQUARES),
    "losses/brier": TableWords("Brier score over these patients", SUM_AND_SQUARES),
    "losses/brier_osteoporosis": TableWords(
        "Brier score of osteoporosis over these patients", SUM_AND_SQUARES
    ),
    "pairs/patients": TableWords("patients compared in pairs", OTHERS_OWN, CLASSES),
    "pairs/sums": TableWords("Mann-Whitney sums: how often the model ranks a pair rightly", (), CLASSES),
    "scores/counts": TableWords("patients in each small interval of the model's score"),
    "calibration/counts": TableWords(
        "patients in each interval of a class's probability", OTHERS_OWN, CLASSES
    ),
    "calibration/probability_sum": TableWords("sum of a class's probability in each interval", (), CLASSES),
    "top_label/counts": TableWords("patients in each interval of the highest probability", WRONG_RIGHT),
    "top_label/probability_sum": TableWords("sum of the highest probability in each interval"),
}
"""By `family/table`; the number of bins at the end of a family's name is left out."""


def table_words(name: str) -> TableWords:
    """The words for a table such as `sex/calibration_15/counts`; empty ones where there are none.

    >>> table_words("sex/calibration_15/counts").columns
    ('others', 'of the class')
    """
    _, _, rest = name.partition("/")
    family, _, table = rest.partition("/")
    key = f"{family.rstrip('0123456789').rstrip('_')}/{table}" if rest else name
    return WORDS.get(key, TableWords())
