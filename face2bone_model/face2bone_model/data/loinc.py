"""LOINC codes of DXA results: which bone, which quantity, which side.

LOINC has no code for the femoral neck: neck and total femur differ by body site only.
"""

from dataclasses import dataclass
from typing import Literal

Quantity = Literal["t_score", "z_score", "bmd"]
Bone = Literal["spine", "hip", "femur", "radius", "calcaneus"]

SYSTEM = "http://loinc.org"


@dataclass(frozen=True, kw_only=True)
class LoincMeaning:
    """What a code says."""

    quantity: Quantity
    bone: Bone
    side: str = ""


def _codes(
    bone: Bone, quantity: Quantity, either: str, left: str = "", right: str = ""
) -> dict[str, LoincMeaning]:
    sides = ((either, ""), (left, "left"), (right, "right"))
    return {code: LoincMeaning(quantity=quantity, bone=bone, side=side) for code, side in sides if code}


DXA_CODES: dict[str, LoincMeaning] = {
    **_codes("spine", "t_score", "38267-1"),
    **_codes("spine", "t_score", "104938-6"),
    **_codes("spine", "z_score", "85394-5"),
    **_codes("spine", "bmd", "24966-4"),
    **_codes("hip", "t_score", "38264-8", "80946-7", "80945-9"),
    **_codes("hip", "z_score", "80933-5", "80938-4", "80937-6"),
    **_codes("hip", "bmd", "38261-4", "46278-8", "46279-6"),
    **_codes("femur", "t_score", "38263-0", "80948-3", "80947-5"),
    **_codes("femur", "z_score", "80934-3", "80940-0", "80939-2"),
    **_codes("femur", "bmd", "24701-5", "80954-1", "80953-3"),
    **_codes("radius", "t_score", "38265-5", "80944-2", "80943-4"),
    **_codes("radius", "z_score", "80932-7", "80936-8", "80935-0"),
    **_codes("radius", "bmd", "24890-6", "80952-5", "80951-7"),
    **_codes("calcaneus", "t_score", "38266-3"),
    **_codes("calcaneus", "bmd", "38262-2"),
}

BODY_HEIGHT = ("8302-2", "3137-7", "3138-5")
BODY_WEIGHT = ("29463-7", "3141-9", "3142-7")
BODY_MASS_INDEX = ("39156-5",)
