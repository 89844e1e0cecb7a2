"""Similarity alignment: five landmarks in a photo to the same five places in a 160x160 face.

The places are those of the ArcFace template (Deng et al., CVPR 2019; five frontal points in 112x112), enlarged by
1.30 and moved. ArcFace cuts the chin off: its eyes lie 35 px apart and 60 px above the lower edge, while the chin lies
about 1.9 eye distances below the eyes. Face2Bone reads the mandible, so our crop is as loose as FaceNet's own (MTCNN
box plus 20 %): eyes 46 px apart, 102 px above the lower edge, that is 2.2 eye distances. An average chin comes to rest
at y = 144, a long face's at y = 158.

Only rotation, one scale and a shift are used. Stretching width and height apart, as FaceNet's box crop does, would
change the very proportions (jaw width to face height) the model is to read.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FACE_SIZE = 160
"""Side of an aligned face, px: what FaceNet's InceptionResnetV1 was trained on."""

NEUTRAL = 128
"""Grey that stands for "nothing here": 0.004 after FaceNet's (x - 127.5) / 128."""

_ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_ENLARGE = 1.30
_SHIFT = np.array([80.0 - 1.30 * 56.0252, 58.0 - 1.30 * 51.5989])

TEMPLATE: NDArray[np.float64] = _ARCFACE_112 * _ENLARGE + _SHIFT
"""(5, 2) px: left eye, right eye, nose tip, left and right mouth corner (as seen), eyes at y = 58, nose at x = 80."""

TEMPLATE_EYE_DISTANCE = float(TEMPLATE[1, 0] - TEMPLATE[0, 0])


@dataclass(frozen=True)
class Similarity:
    """The map w = turn * z + shift on points z = x + iy.

    Rotation and scale are one complex number, so a reflection is impossible.
    """

    turn: complex
    shift: complex

    @property
    def scale(self) -> float:
        """Face pixels per photo pixel."""
        return abs(self.turn)

    def inverse(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where points (..., 2) of the aligned face lie in the photo."""
        z = (points[..., 0] + 1j * points[..., 1] - self.shift) / self.turn
        return np.stack([z.real, z.imag], axis=-1)


def fit_similarity(landmarks: NDArray[np.float64], template: NDArray[np.float64] = TEMPLATE) -> Similarity:
    """Least-squares similarity from landmarks (5, 2) in the photo to the template (5, 2)."""
    z, w = _complex(landmarks), _complex(template)
    centred_z, centred_w = z - z.mean(), w - w.mean()
    turn = complex(np.vdot(centred_z, centred_w) / np.vdot(centred_z, centred_z))
    return Similarity(turn=turn, shift=complex(w.mean() - turn * z.mean()))


def warp(
    photo: Image.Image, similarity: Similarity, *, size: int = FACE_SIZE, origin: tuple[int, int] = (0, 0)
) -> NDArray[np.uint8]:
    """Cut an aligned square out of the photo, without aliasing.

    Args:
        photo: RGB.
        similarity: photo to aligned face.
        size: side of the square, px of the aligned face.
        origin: upper left corner of the square in the aligned face's coordinates.

    Returns:
        uint8 (size, size, 3); `NEUTRAL` where the photo ends.
    """
    corners = np.array([[0, 0], [size, 0], [0, size], [size, size]], dtype=np.float64) + origin
    region, corner, shrink = _shrunk_region(photo, similarity.inverse(corners), min(1.0, similarity.scale))
    # Aligned pixel p lies at photo point (p + origin - shift) / turn, and at shrink * (that - corner) in the region.
    step = shrink / similarity.turn
    start = shrink * ((complex(*origin) - similarity.shift) / similarity.turn - complex(*corner))
    matrix = (step.real, -step.imag, start.real, step.imag, step.real, start.imag)
    aligned = region.transform(
        (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=(NEUTRAL,) * 3
    )
    return np.asarray(aligned, dtype=np.uint8)


def inside_photo(similarity: Similarity, photo_size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels (160, 160) of the aligned face the photo covers; `photo_size` is (width, height)."""
    ys, xs = np.mgrid[0:FACE_SIZE, 0:FACE_SIZE] + 0.5
    places = similarity.inverse(np.stack([xs, ys], axis=-1))
    inside: NDArray[np.bool_] = np.all((places >= 0) & (places <= np.array(photo_size)), axis=-1)
    return inside


def _complex(points: NDArray[np.float64]) -> NDArray[np.complex128]:
    return points[:, 0].astype(np.float64) + 1j * points[:, 1].astype(np.float64)


def _shrunk_region(
    photo: Image.Image, corners: NDArray[np.float64], scale: float
) -> tuple[Image.Image, tuple[int, int], float]:
    """The square part of the photo around `corners`, reduced by about `scale`; its upper left corner; the exact factor.

    The part is square so that one rounded factor serves both sides and cannot stretch the face.
    """
    margin = math.ceil(4 / scale)
    left, top = (max(0, math.floor(v) - margin) for v in corners.min(axis=0))
    right, bottom = (math.ceil(v) + margin for v in corners.max(axis=0))
    right, bottom = min(right, photo.width), min(bottom, photo.height)
    side = max(right - left, bottom - top, 1)
    region = Image.new("RGB", (side, side), (NEUTRAL,) * 3)
    if right > left and bottom > top:
        region.paste(photo.crop((left, top, right, bottom)))
    reduced = max(1, round(side * scale))
    if reduced < side:
        region = region.resize((reduced, reduced), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return region, (left, top), reduced / side
