"""Fixed regions of an aligned face, as masks (160, 160). All sizes in pixels of the aligned face."""

import functools

import numpy as np
from numpy.typing import NDArray

from face2bone_model.data.alignment import FACE_SIZE


def ellipse(*, centre: tuple[float, float], radii: tuple[float, float]) -> NDArray[np.float64]:
    """An ellipse with an edge about one pixel soft: 1 inside, 0 outside; (x, y) order."""
    ys, xs = np.mgrid[0:FACE_SIZE, 0:FACE_SIZE] + 0.5
    radius = np.hypot((xs - centre[0]) / radii[0], (ys - centre[1]) / radii[1])
    mask: NDArray[np.float64] = np.clip(0.5 + (1.0 - radius) * min(radii), 0.0, 1.0)
    return mask


@functools.cache
def face_ellipse() -> NDArray[np.float64]:
    """What the model sees.

    It spans hairline to below the chin (y 8 to 158) and both mandibular angles with room to spare: at mouth height it
    is 130 px wide, where an average jaw (105 mm) measures 77 and hair and background take the rest.
    """
    return ellipse(centre=(80.0, 83.0), radii=(70.0, 75.0))


@functools.cache
def inner_face() -> NDArray[np.bool_]:
    """Brows to chin, well inside every face's outline: quality is measured here, and no background removal may cut."""
    return ellipse(centre=(80.0, 86.0), radii=(36.0, 50.0)) > 0.5  # noqa: PLR2004  # half of a soft edge


@functools.cache
def lower_face() -> NDArray[np.bool_]:
    """Mouth to chin and jaw (y 105 to 150), which must be inside the photo."""
    rows = np.arange(FACE_SIZE)[:, None]
    return (face_ellipse() > 0.5) & (rows >= 105) & (rows < 150)  # noqa: PLR2004  # half of a soft edge; the rows above
