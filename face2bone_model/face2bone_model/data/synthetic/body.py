"""What is round the face: backdrop, clothes, neck, ears and hair, as linear RGB laid over each other."""

import math

import numpy as np
from numpy.typing import NDArray

from face2bone_model.data.synthetic.geometry import Grid, Head
from face2bone_model.data.synthetic.raster import Plane, bump, line, over, step, texture, texture_at
from face2bone_model.data.synthetic.scene import Backdrop, Light, Scene
from face2bone_model.data.synthetic.skin import hair_colour, skin_colour

_COLLAR = 0.44
"""Half of the neckline, face units."""

Picture = NDArray[np.float32]
"""(H, W, 3) linear RGB."""


def paint_backdrop(backdrop: Backdrop, at: Grid, offset: int) -> Picture:
    """A wall, a pleated curtain, tiles or shelves, lit from above."""
    picture = np.empty((*at.u.shape, 3), np.float32)
    picture[:] = np.asarray(backdrop.colour, np.float32)
    picture *= (1.0 - 0.07 * at.v + 0.03 * texture("coarse", at.u.shape, offset))[..., None]
    if backdrop.kind == "curtain":
        picture *= (1 + 0.20 * np.sin(at.u * 9 + np.sin(at.v * 0.7 + offset)))[..., None]
    elif backdrop.kind == "tiles":
        joint = np.maximum(line(np.sin(at.u * 4.2 + offset), 0.09), line(np.sin(at.v * 4.2), 0.09))
        picture *= (1 - 0.22 * joint)[..., None]
    elif backdrop.kind == "shelves":
        boards = np.tanh(3 * np.sin(at.v * 3.3 + 1))
        books = texture("coarse", (1, at.u.shape[1]), offset) * step(boards, 0.5)
        picture *= (0.85 + 0.10 * boards + 0.10 * books)[..., None]
    return picture


def paint_body(scene: Scene, at: Grid, head_centre: float, picture: Picture) -> tuple[Plane, Plane]:
    """Shoulders and neck; returns the opacities (H, W) of neck and clothes."""
    soft = 1.5 * at.pixel
    u, v = at.u - head_centre, at.v
    au = np.abs(u)
    male = 0.04 if scene.shape.male else 0.0
    half = 0.40 + male + 0.02 * scene.shape.fullness + 0.10 * np.clip(v - 0.95, 0, 1) ** 2
    neck = step(half - au, soft) * step(v - 0.30, 0.1)
    round_neck = np.sqrt(np.maximum(0.05, 1 - (u / (half + 0.03)) ** 2))
    shade = _shade(scene.light, u / (half + 0.03), round_neck) * (
        0.35 + 0.50 * np.clip((v - 0.92) / 0.5, 0, 1)
    )
    cords = 1 - 0.14 * line(au - 0.25 + 0.22 * np.clip(v - 0.9, 0, 1), 0.04)
    over(picture, (shade * cords)[..., None] * skin_colour(scene.skin), neck)
    collar = 1.33 - 0.24 * np.clip(au / _COLLAR, 0, 1) ** 2
    slope = np.where(
        au < _COLLAR, collar, 1.09 + 0.42 * np.clip(au - _COLLAR, 0, 2) + 0.10 * np.clip(au - 1.1, 0, 2) ** 2
    )
    cloth = step(v - slope, soft)
    folds = 1 + 0.06 * texture("coarse", v.shape, scene.skin.texture + 17) + 0.05 * np.sin(u * 7)
    hem = (1 - 0.30 * line(v - slope - 0.055, 0.012)) * (0.80 + 0.20 * step(v - slope - 0.05, 0.1))
    shoulder = _shade(scene.light, 0.35 * u, np.full_like(u, 0.9)) * folds * hem
    over(picture, shoulder[..., None] * np.asarray(scene.backdrop.clothes, np.float32), cloth)
    return neck * (1 - cloth), cloth


def _shade(light: Light, across: Plane, towards: Plane) -> Plane:
    lit = across * math.sin(light.azimuth) + towards * math.cos(light.azimuth)
    return light.ambient + light.key * np.clip(lit, 0, 1)


def paint_ears(scene: Scene, head: Head, picture: Picture) -> Plane:
    """Both ears behind the cheekbones; returns their opacity (H, W)."""
    ax, y = np.abs(head.at.x), head.at.y
    centre = (head.marks.zygion_x + 0.035, 0.02)
    inside = 1 - np.hypot((ax - centre[0] - 0.10 * (0.05 - y)) / 0.085, (y - centre[1]) / 0.21)
    ear = step(inside, 10 * head.at.pixel * 1.2)
    hollow = bump(ax, y, (centre[0] + 0.015, centre[1]), (0.035, 0.10))
    shade = (0.85 - 0.45 * hollow) * (scene.light.ambient + 0.55 * scene.light.key)
    over(picture, shade[..., None] * skin_colour(scene.skin) * np.array((1.05, 0.9, 0.9), np.float32), ear)
    return ear


def _thickness(scene: Scene, head: Head, around: Plane) -> Plane:
    """Thickness (H, W) of the hair outside the skull, by the angle `around` the head (-pi/2 is the crown)."""
    top, side = {"short": (0.09, 0.035), "bob": (0.11, 0.13), "long": (0.10, 0.12), "tied": (0.065, 0.03)}[
        scene.hair.style
    ]
    ends = 0.45 if scene.hair.style in ("bob", "long") else 0.05
    profile = np.interp(around, (-1.57, -0.9, -0.3, ends), (top, 0.5 * (top + side), side, 0.0)).astype(
        np.float32
    )
    return profile * (1 + 0.12 * texture("coarse", around.shape, scene.skin.texture + 23))


def _strands(head: Head, parting: float, offset: int) -> Plane:
    """Noise (H, W) drawn out along the hair, which falls to both sides of the parting."""
    from_crown = np.hypot(head.at.x - parting, head.at.y + 0.85)
    side = np.arctan2(head.at.x - parting, head.at.y + 1.45)
    return texture_at("strands", 60 * from_crown, 95 * side, offset)


def paint_back_hair(scene: Scene, head: Head, picture: Picture) -> Plane:
    """Hair that falls behind the face; returns its opacity (H, W)."""
    ends = {"short": None, "tied": None, "bob": 0.50, "long": 1.02}[scene.hair.style]
    if ends is None:
        return np.zeros_like(head.at.x)
    ax, y = np.abs(head.at.x), head.at.y
    wave = texture("coarse", y.shape, scene.skin.texture + 31)
    half = 0.80 + 0.03 * np.sin(3 * y) - 0.16 * np.clip(y - 0.35, 0, 1) ** 2 + 0.02 * wave
    alpha = (
        step(half - ax, 0.02) * step(ends + 0.10 * (ax - 0.7) + 0.02 * wave - y, 0.03) * step(y + 0.45, 0.1)
    )
    strands = texture("strands", y.shape, scene.skin.texture)
    depth = 0.42 + 0.30 * np.exp(-(((ax - 0.74) / 0.09) ** 2)) + 0.06 * strands
    over(picture, hair_colour(scene.hair, strands) * depth[..., None], alpha)
    return alpha


def paint_hair(scene: Scene, head: Head, picture: Picture) -> Plane:
    """Hair over the skull down to the hairline; returns its opacity (H, W)."""
    hair, around = scene.hair, np.arctan2(head.at.y, np.abs(head.at.x))
    parting = 0.28 * (1 if scene.skin.texture % 2 else -1)
    strands = _strands(head, parting, scene.skin.texture)
    bald = 0.16 * hair.recession
    start = (0.71 + bald, 0.72 + 1.3 * bald, 0.80 + 1.0 * bald, 0.88 + 0.4 * bald, 0.935, 0.955, 1.4)
    hairline = np.interp(around, (-1.57, -1.22, -0.92, -0.66, -0.38, -0.05, 0.12), start).astype(np.float32)
    sweep = (
        0.05 * np.tanh(3 * (head.at.x - parting) * math.copysign(1, parting)) * np.clip(-around - 0.5, 0, 1)
    )
    hairline = hairline + sweep
    rough = 0.010 * strands + 0.010 * texture("medium", around.shape, scene.skin.texture)
    alpha = step(head.ratio - hairline + rough, 0.018)
    alpha = alpha * step(head.edge + _thickness(scene, head, around), 2.5 * head.at.pixel)
    crown = np.exp(-(((head.ratio - 0.90) / 0.13) ** 2)) * np.clip(-around, 0, 1)
    rim = np.clip(1 - 3.0 * np.maximum(0, -head.edge), 0.55, 1)
    sheen = (0.42 + 0.09 * strands + 0.75 * crown * scene.light.key * (1 + 0.2 * strands)) * rim
    side = 1 + 0.35 * head.at.x * math.sin(scene.light.azimuth)
    over(picture, hair_colour(hair, strands) * (sheen * side)[..., None], alpha)
    return alpha
