"""How good a prepared face is, in numbers; and which of them rules it out."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from face2bone_model.data.masks import inner_face
from face2bone_model.data.preparation import PreparationSettings
from face2bone_model.data.quarantine import QuarantineReason

_CONTRAST = 50.0
_WHITE = 250.0
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, kw_only=True)
class FaceQuality:
    """Measures of one face. Angles in degrees, luminance 0 to 255, shares 0 to 1."""

    probability: float
    """MTCNN's confidence."""
    eye_distance: float
    """Pixels between the eyes in the photo."""
    yaw: float
    """Positive: turned to the right edge of the photo."""
    pitch: float
    """Positive: looking up."""
    roll: float
    """Positive: head leaning clockwise as seen."""
    light: float
    """95th percentile of luminance over the inner face."""
    clipped: float
    """Share of the inner face at 250 or more."""
    sharpness: float
    """Variance of the Laplacian over the inner face."""
    asymmetry: float
    """Mean difference between the inner face and its mirror image, in standard deviations of luminance. High with a
    hand, a scarf or hair over one side, but also with light from the side: shown, never a reason for quarantine."""
    outside: float
    """Share of the face ellipse outside the photo."""
    chin_outside: float
    """Share of the lower face outside the photo."""
    foreground: float = 1.0
    """Share of the inner face the background remover took for foreground; 1 without one. Below `min_foreground` it was
    wrong about this photo, and only the ellipse is used."""


def measure_pixels(face: NDArray[np.uint8]) -> dict[str, float]:
    """Light, clipping, sharpness and asymmetry of an unmasked aligned face, uint8 (160, 160, 3)."""
    luminance = face.astype(np.float64) @ _LUMINANCE
    inner = inner_face()
    values = luminance[inner]
    contrast = max(float(values.std()), 1.0)
    even = luminance * (_CONTRAST / contrast)
    mirrored = np.abs(luminance - luminance[:, ::-1])[inner & inner[:, ::-1]]
    return {
        "light": float(np.percentile(values, 95)),
        "clipped": float(np.mean(values >= _WHITE)),
        "sharpness": float(laplacian(even)[inner].var()),
        "asymmetry": float(mirrored.mean() / contrast),
    }


def laplacian(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Four-neighbour Laplacian, edges repeated; shape kept."""
    padded = np.pad(image, 1, mode="edge")
    neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    result: NDArray[np.float64] = neighbours - 4.0 * image
    return result


# Five points of a generic frontal head in mm: x right, y down, z away from the camera. x and y are the ArcFace template
# at 63 mm between the eyes, but the nose tip at 40 mm below them, where adults have it; the depths (nose 27 mm, mouth
# corners 2 mm before the eyes) are those of the generic six-point model in common use for head pose.
_HEAD = np.array(
    [[-31.5, 0.2, 0.0], [31.5, -0.2, 0.0], [0.2, 40.0, -27.0], [-25.7, 72.9, -2.0], [26.5, 72.6, -2.0]]
)


def pose(landmarks: NDArray[np.float64]) -> dict[str, float]:
    """Yaw, pitch and roll from five landmarks (5, 2), by scaled orthographic projection.

    The 2x3 map from head to photo is linear least squares; the nearest pair of orthonormal rows is its polar factor
    (the P of DeMenthon and Davis' POSIT, 1995, without iteration).
    """
    head, points = _HEAD - _HEAD.mean(axis=0), landmarks - landmarks.mean(axis=0)
    projection = np.linalg.lstsq(head, points, rcond=None)[0].T
    left, _, right = np.linalg.svd(projection, full_matrices=False)
    across, down = left @ right
    facing = -np.array(
        [across[2], down[2], np.cross(across, down)[2]]
    )  # where the nose points, in the camera's frame
    return {
        "yaw": math.degrees(math.atan2(facing[0], -facing[2])),
        "pitch": math.degrees(math.asin(float(np.clip(-facing[1], -1.0, 1.0)))),
        "roll": math.degrees(math.atan2(down[0], across[0])),
    }


def verdict(quality: FaceQuality, settings: PreparationSettings) -> tuple[QuarantineReason, str] | None:
    """The first thing that rules a face out, with the figure and its limit; None if nothing does."""
    q, s = quality, settings
    angles = (
        f"Yaw {q.yaw:.0f}, pitch {q.pitch:.0f}, roll {q.roll:.0f} degrees; the limits are {s.max_yaw:.0f}, "
    )
    checks = (
        (q.eye_distance < s.min_eye_distance, QuarantineReason.TOO_SMALL,
         f"The eyes are {q.eye_distance:.0f} pixels apart; {s.min_eye_distance:.0f} are needed."),
        (q.chin_outside > s.max_chin_outside or q.outside > s.max_outside, QuarantineReason.TOUCHES_EDGE,
         f"{q.outside:.0%} of the face and {q.chin_outside:.0%} of the jaw lie outside."),
        (abs(q.yaw) > s.max_yaw or abs(q.pitch) > s.max_pitch or abs(q.roll) > s.max_roll, QuarantineReason.TURNED_AWAY,
         f"{angles}{s.max_pitch:.0f} and {s.max_roll:.0f}."),
        (q.light < s.min_light, QuarantineReason.TOO_DARK,
         f"Its brighter parts reach {q.light:.0f} of 255; {s.min_light:.0f} are needed."),
        (q.clipped > s.max_clipped, QuarantineReason.TOO_BRIGHT,
         f"{q.clipped:.0%} of it is white; at most {s.max_clipped:.0%} may be."),
        (q.sharpness < s.min_sharpness, QuarantineReason.TOO_BLURRED,
         f"Its sharpness is {q.sharpness:.0f}; {s.min_sharpness:.0f} is needed."),
    )  # fmt: skip
    return next(((reason, detail) for failed, reason, detail in checks if failed), None)
