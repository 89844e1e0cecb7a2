"""Anatomical regions of a rendered face, and which of them carry the planted bone signal."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from face2bone_model.data.synthetic.geometry import Head
from face2bone_model.data.synthetic.raster import Plane
from face2bone_model.data.synthetic.skin import eye_mask

_HALF = 0.5
"""A pixel belongs to what covers at least half of it."""
_MAXILLA = (0.30, 0.14)
_RAMUS = (0.45, 0.20)
"""Half-width or inner edge, and upper edge, in face units."""
_NOSE_ROOT = -0.18
_BETWEEN_EYES = 0.07


class Region(IntEnum):
    """What a pixel shows; the numbers are the values in the label maps."""

    BACKGROUND = 0
    CLOTHES = 1
    NECK = 2
    HAIR = 3
    EARS = 4
    FOREHEAD = 5
    ORBITS = 6
    """Bony orbit from brow to lower rim, without the eyeball."""
    EYES = 7
    NOSE = 8
    CHEEKS = 9
    MAXILLA = 10
    """Beside and below the nose, down to the upper lip."""
    MOUTH = 11
    MANDIBLE = 12
    """Ramus, angle and body of the lower jaw, without the chin."""
    CHIN = 13


FEATURE_REGIONS: dict[str, tuple[Region, ...]] = {
    "mandible_width": (Region.MANDIBLE,),
    "mandible_angle": (Region.MANDIBLE,),
    "chin_projection": (Region.CHIN,),
    "orbital_aperture": (Region.ORBITS, Region.EYES),
    "maxillary_retrusion": (Region.MAXILLA, Region.MOUTH),
}
"""Where each planted feature changes the picture."""

AGE_REGIONS: tuple[Region, ...] = (Region.HAIR, Region.FOREHEAD, Region.CHEEKS)
"""Where skin and hair show age most: what a shortcut model looks at."""


def causal_regions(mode: str) -> frozenset[Region]:
    """Regions that carry bone signal: the five features' in `causal` mode, none in `shortcut` mode."""
    if mode == "shortcut":
        return frozenset()
    return frozenset(region for regions in FEATURE_REGIONS.values() for region in regions)


@dataclass(frozen=True, kw_only=True)
class Opacities:
    """How thick each part was painted: `neck` and `cloth` over the whole picture, the others over `window`."""

    face: Plane
    hair: Plane
    ears: Plane
    neck: Plane
    cloth: Plane
    window: tuple[slice, slice]


def label_regions(head: Head, painted: Opacities) -> NDArray[np.uint8]:
    """The region of every pixel of the picture (H, W), later parts over earlier ones as they were painted."""
    labels = np.zeros(painted.neck.shape, np.uint8)
    labels[painted.neck > _HALF] = Region.NECK
    labels[painted.cloth > _HALF] = Region.CLOTHES
    view = labels[painted.window]
    view[painted.ears > _HALF] = Region.EARS
    face = painted.face > _HALF
    view[(painted.hair > _HALF) & (view == Region.BACKGROUND)] = Region.HAIR
    view[face] = _face_regions(head)[face]
    front = (painted.hair > _HALF) & face
    view[front] = Region.HAIR
    return labels


def _face_regions(head: Head) -> NDArray[np.uint8]:
    marks, y = head.marks, head.at.y
    ax = np.abs(head.at.x)
    regions = np.full(y.shape, Region.CHEEKS, np.uint8)
    regions[y < marks.brow_y + 0.05] = Region.FOREHEAD
    regions[_mandible(head, ax)] = Region.MANDIBLE
    fold = marks.mouth_y + marks.lower_lip + 0.05
    regions[(y > fold) & (ax < marks.chin_x + 0.05)] = Region.CHIN
    regions[(ax < _MAXILLA[0]) & (y > _MAXILLA[1]) & (y < fold)] = Region.MAXILLA
    regions[(ax < marks.nose_half_width) & (y > _NOSE_ROOT) & (y < marks.nose_y + 0.02)] = Region.NOSE
    regions[_lips(head, ax)] = Region.MOUTH
    orbit = np.hypot((ax - marks.eye_x) / 0.20, (y - marks.eye_y + 0.05) / (marks.socket_y + 0.08)) < 1
    regions[orbit & (ax > _BETWEEN_EYES)] = Region.ORBITS
    regions[eye_mask(head) > 0] = Region.EYES
    return regions


def _mandible(head: Head, ax: Plane) -> NDArray[np.bool_]:
    """Below a line that runs from the ear to the corner of the mouth, and the strip along the ramus."""
    marks, y = head.marks, head.at.y
    below = y > marks.mouth_y + 0.02 - 0.45 * np.clip(ax - marks.mouth_half_width, 0, 1)
    ramus = (ax > _RAMUS[0]) & (y > _RAMUS[1])
    result: NDArray[np.bool_] = below | ramus
    return result


def _lips(head: Head, ax: Plane) -> NDArray[np.bool_]:
    marks, y = head.marks, head.at.y - head.marks.mouth_y
    taper = np.sqrt(np.clip(1 - (ax / marks.mouth_half_width) ** 2, 0, 1))
    result: NDArray[np.bool_] = (
        (y > -1.25 * marks.upper_lip * taper) & (y < 1.15 * marks.lower_lip * taper) & (taper > 0)
    )
    return result
