"""Where things are on a face: pixel to face coordinates, the outline, and the landmarks the features move.

A pixel's face coordinates follow from the pose by undoing roll, scale and shift, and then yaw and pitch on a smooth
dome that stands in for the head. The outline is the radius of the face as a function of the angle round its centre.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from face2bone_model.data.synthetic.raster import Plane
from face2bone_model.data.synthetic.scene import FaceShape, PlantedShape, Pose, Scene

_ANGLES = np.linspace(-np.pi / 2, np.pi / 2, 361)
_DOME_HEIGHT = 0.55
_HALF_WIDTH, _ABOVE, _BELOW = 1.0, -1.36, 1.16
"""What the head and its hair never leave, face units."""


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """Positions and sizes on one face in face units; every planted feature acts through them."""

    zygion_x: float
    gonion_x: float
    gonion_y: float
    jaw_x: float
    """Outline half-way between jaw angle and chin."""
    jaw_y: float
    chin_x: float
    chin_y: float
    chin_height: float
    """Relief of the chin over the lower face."""
    eye_x: float
    eye_y: float
    eye_half_width: float
    eye_opening: float
    """Half of the lid aperture at its widest."""
    eye_tilt: float
    socket_y: float
    """Vertical half-width of the bony orbit."""
    socket_depth: float
    brow_y: float
    nose_half_width: float
    nose_y: float
    """Base of the nose."""
    mouth_y: float
    mouth_half_width: float
    upper_lip: float
    lower_lip: float
    midface: float
    """Relief of the maxilla: 1 is average, less is retruded."""


def _tame(value: float) -> float:
    """Let standard deviations beyond +-2 count less, so that no face leaves the human range; strictly monotone."""
    return float(3.0 * np.tanh(value / 3.0))


def landmarks(planted: PlantedShape, shape: FaceShape) -> Landmarks:
    """The landmarks of one face."""
    width, angle, chin, orbit, maxilla = (_tame(value) for value in planted.values())
    male = 1.0 if shape.male else 0.0
    full = shape.fullness
    eye_opening = 0.065 + 0.0135 * orbit
    nose_y = 0.275 + 0.012 * shape.nose_length - 0.008 * maxilla
    mouth_y = 0.495 + 0.008 * shape.nose_length + 0.006 * maxilla
    return Landmarks(
        zygion_x=0.665 + 0.014 * shape.face_width + 0.012 * full,
        gonion_x=0.545 + 0.042 * width - 0.006 * angle + 0.010 * full + 0.012 * male,
        gonion_y=0.50 - 0.032 * angle,
        jaw_x=0.345 + 0.018 * width - 0.036 * angle + 0.008 * full,
        jaw_y=0.79 + 0.018 * chin,
        chin_x=0.165 + 0.016 * chin - 0.010 * angle + 0.010 * male,
        chin_y=0.935 + 0.040 * chin + 0.010 * male,
        chin_height=max(0.02, 0.115 + 0.042 * chin),
        eye_x=0.288 + 0.009 * shape.eye_spacing,
        eye_y=-0.105,
        eye_half_width=0.124 + 0.004 * orbit,
        eye_opening=max(0.018, eye_opening),
        eye_tilt=0.05 + 0.03 * shape.eye_tilt,
        socket_y=0.135 + 0.018 * orbit,
        socket_depth=max(0.01, 0.055 + 0.020 * orbit),
        brow_y=-0.300 - 0.024 * orbit + 0.008 * male,
        nose_half_width=0.145 + 0.010 * shape.nose_width,
        nose_y=nose_y,
        mouth_y=mouth_y,
        mouth_half_width=0.225 + 0.012 * shape.mouth_width,
        upper_lip=max(0.012, 0.052 - 0.013 * maxilla),
        lower_lip=0.072,
        midface=1.0 - 0.30 * maxilla,
    )


def outline(marks: Landmarks) -> tuple[np.ndarray, np.ndarray]:
    """Angles (361,) in radians from the x axis, and the radius of the right half of the face at each, in face units."""
    points = np.array([
        (0.0, -1.08), (0.36, -0.99), (0.60, -0.70), (0.675, -0.28), (marks.zygion_x, 0.06),
        (marks.gonion_x, marks.gonion_y), (marks.jaw_x, marks.jaw_y),
        (marks.chin_x, marks.chin_y - 0.028), (0.0, marks.chin_y),
    ])  # fmt: skip
    angle = np.arctan2(points[:, 1], points[:, 0])
    radius = np.hypot(points[:, 0], points[:, 1])
    return _ANGLES, CubicSpline(angle, radius, bc_type="clamped")(_ANGLES)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Face coordinates of a window of pixels; every plane is (H, W)."""

    u: Plane
    """Picture plane in face units, roll undone."""
    v: Plane
    x: Plane
    """On the face, yaw and pitch undone."""
    y: Plane
    pixel: float
    """Size of one pixel in face units."""


def grid(pose: Pose, width: int, height: int) -> Grid:
    """Face coordinates of every pixel of a picture."""
    pixel = 1.0 / (pose.scale * height)
    columns = (np.arange(width, dtype=np.float32) - (width - 1) / 2) * pixel
    rows = (np.arange(height, dtype=np.float32) - 0.47 * height) * pixel
    a, b = np.meshgrid(columns - pose.shift_x, rows - pose.shift_y)
    cosine, sine = math.cos(pose.roll), math.sin(pose.roll)
    u, v = a * cosine + b * sine, b * cosine - a * sine
    dome = _DOME_HEIGHT * np.exp(-((u / 0.9) ** 2) - ((v / 1.3) ** 2))
    x = (u - math.sin(pose.yaw) * dome) / math.cos(pose.yaw)
    y = (v - math.sin(pose.pitch) * dome) / math.cos(pose.pitch)
    return Grid(u=u, v=v, x=x, y=y, pixel=pixel)


def crop(whole: Grid, rows: slice, columns: slice) -> Grid:
    """The same coordinates for a window."""
    planes = {name: getattr(whole, name)[rows, columns] for name in ("u", "v", "x", "y")}
    return Grid(**planes, pixel=whole.pixel)


def head_window(whole: Grid) -> tuple[slice, slice]:
    """Rows and columns that hold the head and its hair."""
    inside = (np.abs(whole.u) < _HALF_WIDTH) & (whole.v > _ABOVE) & (whole.v < _BELOW)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


@dataclass(frozen=True, kw_only=True)
class Head:
    """The part of one face that surface, skin and regions share; planes are (H, W)."""

    at: Grid
    marks: Landmarks
    ratio: Plane
    """Distance from the centre over the outline's radius: below 1 is inside the face."""
    edge: Plane
    """Signed distance to the outline in face units, positive inside."""


def head(scene: Scene, at: Grid) -> Head:
    """Lay one face's outline over a window."""
    marks = landmarks(scene.planted, scene.shape)
    angles, radii = outline(marks)
    around = np.arctan2(at.y, np.abs(at.x))
    radius = np.interp(around, angles, radii).astype(np.float32)
    distance = np.hypot(at.x, at.y)
    return Head(at=at, marks=marks, ratio=distance / radius, edge=radius - distance)
