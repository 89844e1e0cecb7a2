"""The face as a height field: bone, soft tissue and wrinkles, in face units towards the camera."""

import numpy as np

from face2bone_model.data.synthetic.geometry import Head
from face2bone_model.data.synthetic.raster import Plane, bump, line, step, texture
from face2bone_model.data.synthetic.scene import Scene, Skin


def relief(scene: Scene, head: Head) -> Plane:
    """Height of the skin (H, W); the head's own roundness plus what sits on it."""
    ax = np.abs(head.at.x)
    skull = 0.62 * np.sqrt(np.maximum(1e-4, 1 - np.minimum(head.ratio, 1) ** 2.6))
    soft = _bones(head, ax) + _nose(head, ax) + _mouth(head, ax) + _eyes(head, ax)
    return (skull + soft + _fullness(head, ax, scene.shape.fullness) + _ageing(scene.skin, head, ax)).astype(
        np.float32
    )


def _bones(head: Head, ax: Plane) -> Plane:
    marks, y = head.marks, head.at.y
    brow_ridge = 0.035 * bump(ax, y, (0.27, marks.brow_y + 0.03), (0.20, 0.07))
    socket = -marks.socket_depth * bump(
        ax, y, (marks.eye_x - 0.03, marks.eye_y - 0.02), (0.17, marks.socket_y)
    )
    cheekbone = 0.055 * bump(ax, y, (0.42, 0.14), (0.17, 0.13))
    maxilla = 0.10 * marks.midface * bump(ax, y, (0.0, 0.36), (0.30, 0.19))
    beside_nose = -0.045 * (1.6 - marks.midface) * bump(ax, y, (0.21, 0.26), (0.075, 0.10))
    fold_y = marks.mouth_y + marks.lower_lip + 0.065
    chin_fold = -(0.018 + 0.30 * marks.chin_height) * bump(ax, y, (0.0, fold_y), (0.17, 0.038))
    chin = marks.chin_height * bump(ax, y, (0.0, marks.chin_y - 0.13), (0.16, 0.085))
    jaw_angle = 0.05 * bump(ax, y, (marks.gonion_x - 0.10, marks.gonion_y + 0.02), (0.09, 0.13))
    below_cheek = -0.03 * bump(ax, y, (0.42, 0.42), (0.12, 0.13))
    bones: Plane = (
        brow_ridge + socket + cheekbone + maxilla + beside_nose + chin_fold + chin + jaw_angle + below_cheek
    )
    return bones


def _nose(head: Head, ax: Plane) -> Plane:
    marks, y = head.marks, head.at.y
    base = marks.nose_y
    along = np.clip((y + 0.16) / (base + 0.10), 0, 1)
    bridge = (0.05 + 0.11 * along) * line(ax, 0.070) * _between(y, -0.22, base - 0.02, 0.07)
    tip = 0.11 * bump(ax, y, (0.0, base - 0.075), (0.085, 0.075))
    wing = 0.085 * bump(ax, y, (marks.nose_half_width - 0.045, base - 0.042), (0.046, 0.048))
    under = -0.05 * bump(ax, y, (0.0, base + 0.035), (0.10, 0.028))
    nose: Plane = bridge + tip + wing + under
    return nose


def _mouth(head: Head, ax: Plane) -> Plane:
    marks, y = head.marks, head.at.y
    half = marks.mouth_half_width
    upper = 0.035 * bump(
        ax, y, (0.0, marks.mouth_y - 0.6 * marks.upper_lip), (0.75 * half, 0.75 * marks.upper_lip)
    )
    lower = 0.050 * bump(
        ax, y, (0.0, marks.mouth_y + 0.5 * marks.lower_lip), (0.62 * half, 0.62 * marks.lower_lip)
    )
    seam = -0.030 * bump(ax, y, (0.0, marks.mouth_y), (half, 0.012))
    corner = -0.030 * bump(ax, y, (half, marks.mouth_y + 0.004), (0.035, 0.03))
    groove = -0.014 * bump(ax, y, (0.0, 0.5 * (marks.nose_y + marks.mouth_y) - 0.01), (0.022, 0.07))
    mouth: Plane = upper + lower + seam + corner + groove
    return mouth


def _eyes(head: Head, ax: Plane) -> Plane:
    marks, y = head.marks, head.at.y
    ball = 0.050 * bump(ax, y, (marks.eye_x, marks.eye_y), (0.105, 0.085))
    crease_y = marks.eye_y - marks.eye_opening - 0.030 + 0.5 * (ax - marks.eye_x) ** 2 / 0.1
    crease = -0.016 * line(y - crease_y, 0.013) * line(ax - marks.eye_x, 0.13)
    return ball + crease


def _fullness(head: Head, ax: Plane, fullness: float) -> Plane:
    return 0.022 * fullness * bump(ax, head.at.y, (0.38, 0.36), (0.17, 0.20))


def _between(y: Plane, low: float, high: float, softness: float) -> Plane:
    return step(y - low, softness) * step(high - y, softness)


def _ageing(skin: Skin, head: Head, ax: Plane) -> Plane:
    """Forehead lines, frown lines, crow's feet, bags, nasolabial folds, jowls and a coarser grain."""
    x, y, marks = head.at.x, head.at.y, head.marks
    wave = texture("coarse", y.shape, skin.texture)
    forehead = sum(line(y + 0.62 - 0.085 * row + 0.02 * wave - 0.04 * ax, 0.011) for row in range(3))
    forehead = forehead * line(ax, 0.42) * -0.011
    frown = -0.012 * bump(ax, y, (0.05, -0.27), (0.012, 0.07))
    fan = sum(line(y - marks.eye_y - slope * (ax - 0.42), 0.009) for slope in (-0.55, -0.1, 0.35))
    crow = -0.011 * fan * bump(ax, y, (0.50, marks.eye_y), (0.05, 0.10))
    bag_y = marks.eye_y + marks.eye_opening + 0.065 - 0.6 * (ax - marks.eye_x) ** 2 / 0.2
    bag = (0.014 * line(y - bag_y + 0.03, 0.025) - 0.016 * line(y - bag_y, 0.014)) * line(
        ax - marks.eye_x + 0.02, 0.11
    )
    fold_x = 0.155 + 0.36 * np.clip(y - 0.24, 0, 1) + 0.05 * np.clip(y - 0.24, 0, 1) ** 2
    fold = -0.032 * line(ax - fold_x, 0.022) * _between(y, 0.26, 0.56, 0.10)
    marionette = -0.018 * line(ax - 0.255 - 0.1 * (y - 0.55), 0.016) * _between(y, 0.56, 0.70, 0.06)
    jowl = 0.030 * bump(ax, y, (0.33, 0.70), (0.07, 0.07)) - 0.016 * bump(ax, y, (0.24, 0.74), (0.04, 0.05))
    grain = 0.0022 * texture("medium", x.shape, skin.texture + 7)
    lines = skin.wrinkles * (forehead + frown + crow + grain)
    worn: Plane = lines + skin.sag * (bag + marionette + jowl) + (0.25 + 0.75 * skin.sag) * fold
    return worn
