"""The skeletal sites of a DXA report: which count for a diagnosis, and how their names are recognised.

Diagnostic are PA lumbar spine, femoral neck, total hip and, if neither hip nor spine can be used, the 33 %
radius (ISCD Official Positions 2023). Ward's triangle, trochanter, heel, whole body, a lateral spine, a
single vertebra and the mean of both hips are not.
"""

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache


class SkeletalSite(StrEnum):
    """A region of interest, as far as labels care."""

    LUMBAR_SPINE = "lumbar_spine"
    FEMORAL_NECK = "femoral_neck"
    TOTAL_HIP = "total_hip"
    RADIUS_33 = "radius_33"
    FEMUR_UNSPECIFIED = "femur_unspecified"
    NOT_DIAGNOSTIC = "not_diagnostic"

    @property
    def words(self) -> str:
        """The name as a person reads it."""
        return self.value.replace("radius_33", "33 % radius").replace("_", " ")


L1_TO_L4 = (1, 2, 3, 4)

_NOT_DIAGNOSTIC = re.compile(
    r"ward|troch|\bshaft|calcan|\bheel|whole body|total body|body total|\bsub ?total|\bhead\b|\barms?\b|\blegs?\b"
    r"|\bribs?\b|\bpelvis|\btrunk|lateral (?:spine|l\d)|\bultra ?distal|\bud\b|\bmid\b|\bulna\b|\bupper\b|\blower\b"
    r"|\bmean\b|\bdiff|大转子|粗隆|三角|跟骨|全身"
)
_RADIUS_33 = re.compile(r"33 ?%|1/3|one.third|third.{0,12}radius|distal third")
_NECK = re.compile(r"\bneck\b|股骨颈|股骨頸")
_TOTAL_HIP = re.compile(
    r"\btotal\b.*\b(?:hip|femur)\b|\b(?:hip|(?:dual ?)?femur)\b.*\btotal\b|全髋|全髖|总髋|髋部总|髋总"
)
_FEMUR = re.compile(r"\b(?:hip|femur|femoral|dualfemur)\b|股骨|髋")
_SPINE = re.compile(r"\bspine\b|\blumbar\b|腰椎")
_VERTEBRA_RANGE = re.compile(r"(?<![a-z])l([1-4]) ?(?:[-~/_]|to) ?l?([1-4])(?!\d)")
_VERTEBRA = re.compile(r"(?<![a-z])l([1-5])(?!\d)")
_LEFT = re.compile(r"\bleft\b|\blt\b|\(l\)|左")
_RIGHT = re.compile(r"\bright\b|\brt\b|\(r\)|右")


@dataclass(frozen=True, kw_only=True)
class Region:
    """What a region's name says."""

    site: SkeletalSite
    vertebrae: tuple[int, ...] = ()
    """Lumbar vertebrae of a spine region in ascending order: ``(1, 2, 4)`` is L1, L2 and L4."""


@lru_cache(maxsize=65_536)  # the same few words stand in every row
def normalised(text: str) -> str:
    """Fold case, width, dashes and spaces, so that ``"Ｌ１–Ｌ４ "`` equals ``"l1-l4"``."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    folded = re.sub(r"[‐‑‒–—−]", "-", folded)
    return re.sub(r"\s+", " ", folded).strip()


def vertebrae_in(text: str) -> tuple[int, ...]:
    """Lumbar vertebrae named in `text`: ``"L1-L4"`` gives ``(1, 2, 3, 4)``, ``"L1, L3-L4"`` ``(1, 3, 4)``."""
    folded = normalised(text)
    found = {int(number) for number in _VERTEBRA.findall(folded)}
    for first, last in _VERTEBRA_RANGE.findall(folded):
        found |= set(range(int(first), int(last) + 1))
    return tuple(sorted(found))


def recognise(text: str) -> Region | None:
    """The region a free text means, or None where it says too little: "Total" may be spine or hip."""
    folded = normalised(text)
    if _NOT_DIAGNOSTIC.search(folded):
        return Region(site=SkeletalSite.NOT_DIAGNOSTIC)
    vertebrae = vertebrae_in(folded)
    if vertebrae or _SPINE.search(folded):
        return Region(site=SkeletalSite.LUMBAR_SPINE, vertebrae=vertebrae or L1_TO_L4)
    for pattern, site in (
        (_RADIUS_33, SkeletalSite.RADIUS_33),
        (_NECK, SkeletalSite.FEMORAL_NECK),
        (_TOTAL_HIP, SkeletalSite.TOTAL_HIP),
        (_FEMUR, SkeletalSite.FEMUR_UNSPECIFIED),
    ):
        if pattern.search(folded):
            return Region(site=site)
    return None


def side_in(text: str) -> str:
    """``"left"``, ``"right"`` or ``""`` as named in `text`."""
    folded = normalised(text)
    left, right = bool(_LEFT.search(folded)), bool(_RIGHT.search(folded))
    if left == right:
        return ""
    return "left" if left else "right"
