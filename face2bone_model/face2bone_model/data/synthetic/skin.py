"""Colour of the face before light falls on it: skin, eyes, brows and lips, as linear RGB (H, W, 3)."""

import math

import numpy as np
from numpy.typing import NDArray

from face2bone_model.data.synthetic.geometry import Head
from face2bone_model.data.synthetic.raster import Plane, bump, line, over, step, texture
from face2bone_model.data.synthetic.scene import Hair, Scene, Skin

_TONES = np.array(
    [(0.80, 0.56, 0.45), (0.68, 0.42, 0.29), (0.40, 0.21, 0.12), (0.17, 0.085, 0.05)], np.float32
)
_PIGMENTS = np.array(
    [(0.45, 0.30, 0.14), (0.18, 0.09, 0.04), (0.05, 0.03, 0.02), (0.012, 0.010, 0.010)], np.float32
)
_GREY = np.array((0.46, 0.45, 0.43), np.float32)


def _ramp(colours: NDArray[np.float32], at: float) -> NDArray[np.float32]:
    places = np.linspace(0, 1, len(colours))
    return np.array([np.interp(at, places, colours[:, channel]) for channel in range(3)], np.float32)


def skin_colour(skin: Skin) -> NDArray[np.float32]:
    """The average colour of this skin, linear RGB (3,)."""
    return _ramp(_TONES, skin.melanin)


def hair_colour(hair: Hair, strands: Plane) -> NDArray[np.float32]:
    """Colour of each strand (H, W, 3): a share of them is grey."""
    pigment = _ramp(_PIGMENTS, hair.pigment)
    grey = step(0.45 * strands + 1.3 * (2 * hair.grey - 1), 1.0)[..., None]
    return np.asarray(pigment + (_GREY - pigment) * grey, np.float32)


def complexion(scene: Scene, head: Head) -> NDArray[np.float32]:
    """Skin with flush, shadow of the beard, spots and tired eyes."""
    skin, marks = scene.skin, head.marks
    ax, y = np.abs(head.at.x), head.at.y
    colour = np.empty((*y.shape, 3), np.float32)
    colour[:] = skin_colour(skin)
    flush = bump(ax, y, (0.40, 0.18), (0.20, 0.16)) + bump(ax, y, (0.0, marks.nose_y - 0.07), (0.11, 0.09))
    colour *= 1 + (0.5 * skin.redness * flush)[..., None] * np.array((0.10, -0.22, -0.22), np.float32)
    tired = bump(ax, y, (marks.eye_x - 0.03, marks.eye_y + 0.07), (0.14, 0.07)) * (0.5 + 0.5 * skin.sag)
    colour *= 1 - tired[..., None] * np.array((0.14, 0.18, 0.14), np.float32)
    blotches = 0.035 * texture("coarse", y.shape, skin.texture) + 0.03 * texture(
        "medium", y.shape, skin.texture + 3
    )
    colour *= (1 + blotches)[..., None]
    spots = step(texture("medium", y.shape, skin.texture + 11) - (3.3 - 0.9 * skin.spots), 0.35)
    colour *= 1 - (0.24 * skin.spots * spots)[..., None] * np.array((0.7, 1.0, 1.1), np.float32)
    if scene.shape.male:
        _beard_shadow(scene, head, ax, colour)
    return colour


def _beard_shadow(scene: Scene, head: Head, ax: Plane, colour: NDArray[np.float32]) -> None:
    marks, y = head.marks, head.at.y
    cheek = step(y - 0.33 - 0.15 * np.clip(0.45 - ax, 0, 1), 0.10) * step(0.62 - ax, 0.2)
    lips = bump(ax, y, (0.0, marks.mouth_y), (marks.mouth_half_width, 0.085))
    stubble = (
        cheek * (1 - np.minimum(1, 1.3 * lips)) * (1 + 0.25 * texture("fine", y.shape, scene.skin.texture))
    )
    over(colour, (0.20, 0.19, 0.19), 0.16 * (1 - 0.5 * scene.hair.grey) * np.clip(stubble, 0, 1.5))


def paint_lips(scene: Scene, head: Head, colour: NDArray[np.float32]) -> None:
    """Both lips and the dark seam between them."""
    marks, soft = head.marks, 1.2 * head.at.pixel
    ax, y = np.abs(head.at.x), head.at.y - marks.mouth_y
    along = np.clip(ax / marks.mouth_half_width, 0, 1)
    taper = np.sqrt(1 - along**2)
    bow = 0.82 + 0.30 * np.exp(-(((ax - 0.06) / 0.05) ** 2))
    upper = step(y + marks.upper_lip * 1.25 * taper * bow, soft) * step(-y, soft)
    lower = step(marks.lower_lip * 1.15 * taper - y, soft) * step(y, soft)
    inside = step(marks.mouth_half_width - ax, 0.02)
    tone = skin_colour(scene.skin) * np.array((0.86, 0.58, 0.62), np.float32)
    tone *= 0.92 if scene.shape.male else 1.0
    over(colour, tone * 0.86, upper * inside * 0.85)
    over(colour, tone, lower * inside * 0.80)
    seam = line(y + 0.006 * np.cos(ax * 22), 0.008) * inside
    over(colour, tone * 0.22, 0.85 * seam)


def paint_brows(scene: Scene, head: Head, colour: NDArray[np.float32]) -> None:
    """Brows of short hairs, thinner and greyer with age through `hair.grey`."""
    marks, shape = head.marks, scene.shape
    ax, y = np.abs(head.at.x), head.at.y
    along = (ax - 0.30) / 0.185
    thickness = (0.026 + 0.006 * shape.brow_weight + (0.010 if shape.male else 0.0)) * (
        1.0 - 0.45 * np.clip(along, 0, 1)
    )
    centre = marks.brow_y + 0.030 * along**2 - 0.020 * along + 0.015
    hairs = 1 + 0.18 * texture("fine", y.shape, scene.skin.texture + 5)
    alpha = np.exp(-(((y - centre) / thickness) ** 4)) * np.exp(-(np.abs(along) ** 6)) * hairs
    tone = 0.5 * hair_colour(scene.hair, np.full((1, 1), -0.6, np.float32))[0, 0] + 0.12 * skin_colour(
        scene.skin
    )
    over(colour, tone, np.clip(0.80 * alpha, 0, 1))


def eye_mask(head: Head) -> Plane:
    """How far each pixel lies inside the opening of the lids (H, W): positive inside, in face units."""
    marks = head.marks
    ax, y = np.abs(head.at.x), head.at.y
    along = (ax - marks.eye_x) / marks.eye_half_width
    arch = np.maximum(0, 1 - np.abs(along) ** 2.3)
    level = marks.eye_y - marks.eye_tilt * (ax - marks.eye_x) + 0.010 * along
    above = y - (level - marks.eye_opening * arch * (1 - 0.12 * along))
    below = level + 0.72 * marks.eye_opening * arch * (1 + 0.12 * along) - y
    inside: Plane = np.minimum(above, below) - 0.5 * np.maximum(0, np.abs(along) - 1)
    return inside


def paint_eyes(scene: Scene, head: Head, colour: NDArray[np.float32]) -> None:
    """Sclera, iris, pupil, catchlight and lids."""
    marks, soft = head.marks, head.at.pixel
    ax, y = np.abs(head.at.x), head.at.y
    inside = eye_mask(head)
    opening = step(inside, soft)
    upper_lid = np.exp(-((inside / 0.014) ** 2)) * step(marks.eye_y + 0.02 - y, 0.05)
    lower_lid = np.exp(-((inside / 0.010) ** 2)) * step(y - marks.eye_y, 0.03)
    radius = np.hypot(ax - marks.eye_x, y - marks.eye_y + 0.006)
    over(colour, (0.72, 0.68, 0.65), opening * 0.95)
    iris = _ramp(
        np.array([(0.16, 0.26, 0.34), (0.20, 0.14, 0.06), (0.06, 0.03, 0.015)], np.float32),
        scene.skin.melanin * 2,
    )
    ring = 0.45 + 0.75 * np.clip(radius / 0.058, 0, 1) * step(0.056 - radius, 0.012)
    over(colour, iris * ring[..., None], opening * step(0.060 - radius, soft))
    over(colour, (0.004, 0.004, 0.004), opening * step(0.024 - radius, soft))
    lid_shadow = opening * line(inside, 0.028) * step(marks.eye_y - y, 0.04)
    colour *= (1 - 0.55 * lid_shadow)[..., None]
    glint = (marks.eye_x + 0.022 * math.sin(scene.light.azimuth) * np.sign(head.at.x), marks.eye_y - 0.026)
    catchlight = opening * step(0.013 - np.hypot(ax - glint[0], y - glint[1]), soft)
    over(colour, (1.1, 1.1, 1.1), 0.85 * catchlight)
    over(colour, (0.03, 0.02, 0.02), np.clip(0.9 * upper_lid, 0, 1))
    over(colour, (0.22, 0.12, 0.10), np.clip(0.45 * lower_lid, 0, 1))


def paint_nose(head: Head, colour: NDArray[np.float32]) -> None:
    """Two dark openings under the tip of the nose, and the crease round each wing."""
    marks = head.marks
    ax, y = np.abs(head.at.x), head.at.y
    half, base = marks.nose_half_width, marks.nose_y
    hole = bump(ax, y, (0.45 * half, base - 0.004), (0.034, 0.018))
    round_wing = np.hypot((ax - half + 0.045) / 0.052, (y - base + 0.042) / 0.055)
    crease = line(round_wing - 1.05, 0.16) * step(ax - half + 0.035, 0.03)
    below = bump(ax, y, (0.5 * half, base + 0.018), (0.08, 0.014))
    colour *= (
        1 - 0.82 * np.clip(1.25 * hole, 0, 1) - 0.30 * crease * (1 - hole) - 0.18 * below * (1 - hole)
    )[..., None]
