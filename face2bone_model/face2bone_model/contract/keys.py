"""Names that both sides write and read. Nobody retypes them."""

from enum import StrEnum

PROTOCOL_VERSION = 1

CLASSES = ("normal", "osteopenia", "osteoporosis")
"""Bone status by WHO class, in the order of the model's logits."""

OSTEOPOROSIS = CLASSES.index("osteoporosis")


class Phase(StrEnum):
    """What a study asks of a site, in order."""

    DESCRIBE = "describe"
    TRAIN = "train"
    EVALUATE = "evaluate"


class Split(StrEnum):
    """Which patients: a patient belongs to exactly one."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
