"""From a scene to a picture: a shaded height field with its body and backdrop, and the label of every pixel.

Order of painting, back to front: backdrop, hair behind, clothes and neck, ears, face, hair over the skull. The face
is lit by one key light and an ambient; light wraps further round in red than in blue, as it does in skin.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from face2bone_model.data.synthetic.anatomy import Opacities, label_regions
from face2bone_model.data.synthetic.body import (
    paint_back_hair,
    paint_backdrop,
    paint_body,
    paint_ears,
    paint_hair,
)
from face2bone_model.data.synthetic.geometry import Head, crop, grid, head, head_window
from face2bone_model.data.synthetic.raster import Plane, over, step
from face2bone_model.data.synthetic.scene import Light, Scene
from face2bone_model.data.synthetic.skin import complexion, paint_brows, paint_eyes, paint_lips, paint_nose
from face2bone_model.data.synthetic.surface import relief

_WRAP = np.array((0.42, 0.26, 0.20), np.float32)


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """A picture (H, W, 3) in linear RGB, and the region of every pixel (H, W) as `anatomy.Region` numbers."""

    picture: NDArray[np.float32]
    regions: NDArray[np.uint8]


def render(scene: Scene, width: int, height: int) -> Rendering:
    """Paint one scene at `width` x `height` pixels."""
    whole = grid(scene.pose, width, height)
    window = head_window(whole)
    face = head(scene, crop(whole, *window))
    picture = paint_backdrop(scene.backdrop, whole, scene.skin.texture)
    view = picture[window]
    back_hair = paint_back_hair(scene, face, view)
    neck, cloth = paint_body(scene, whole, 0.0, picture)
    ears = paint_ears(scene, face, view)
    skin = step(face.edge, 1.2 * face.at.pixel)
    over(view, _lit_face(scene, face), skin)
    hair = paint_hair(scene, face, view)
    opacities = Opacities(
        face=skin,
        hair=np.maximum(hair, back_hair * (1 - skin)),
        ears=ears,
        neck=neck,
        cloth=cloth,
        window=window,
    )
    return Rendering(picture=np.clip(picture, 0, 4), regions=label_regions(face, opacities))


def render_room(scene: Scene, width: int, height: int) -> Rendering:
    """Paint the backdrop alone, with nobody in front of it."""
    whole = grid(scene.pose, width, height)
    picture = paint_backdrop(scene.backdrop, whole, scene.skin.texture)
    return Rendering(picture=picture, regions=np.zeros((height, width), np.uint8))


def _lit_face(scene: Scene, face: Head) -> NDArray[np.float32]:
    colour = complexion(scene, face)
    paint_lips(scene, face, colour)
    paint_nose(face, colour)
    paint_brows(scene, face, colour)
    paint_eyes(scene, face, colour)
    height = relief(scene, face)
    return _shade(scene.light, height, face, colour)


def _shade(light: Light, height: Plane, face: Head, colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Diffuse light that wraps, ambient darkened in hollows, and a highlight."""
    slope_y, slope_x = np.gradient(height, face.at.pixel)
    length = np.sqrt(1 + slope_x**2 + slope_y**2)
    normal_x, normal_y, normal_z = -slope_x / length, -slope_y / length, 1 / length
    to_x = math.sin(light.azimuth) * math.cos(light.elevation)
    to_y, to_z = -math.sin(light.elevation), math.cos(light.azimuth) * math.cos(light.elevation)
    facing = normal_x * to_x + normal_y * to_y + normal_z * to_z
    hollow = gaussian_filter(height, 0.045 / face.at.pixel, truncate=2.5) - height
    open_sky = np.clip(1 - 7.0 * np.maximum(hollow, 0) + 1.5 * np.minimum(hollow, 0) * -1, 0.25, 1.25)
    diffuse = np.clip((facing[..., None] + _WRAP) / (1 + _WRAP), 0, None)
    sky = light.ambient * (0.85 - 0.25 * normal_y) * open_sky
    lit = colour * (light.key * diffuse * (0.45 + 0.55 * open_sky)[..., None] + sky[..., None])
    half_z = (to_z + 1) / math.sqrt((to_z + 1) ** 2 + to_x**2 + to_y**2)
    half_scale = half_z / (to_z + 1)
    halfway = normal_x * (to_x * half_scale) + normal_y * (to_y * half_scale) + normal_z * half_z
    shine = np.clip(halfway, 0, 1)
    gloss = light.key * 0.06 * shine**14
    shaded: NDArray[np.float32] = (lit + gloss[..., None]) * np.asarray(light.colour, np.float32)
    return shaded
