"""From linear light to a hospital's picture file: lens, colour cast, tone curve, size, sensor noise."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from face2bone_model.data.synthetic.raster import Plane, texture
from face2bone_model.data.synthetic.renderer import Rendering, render, render_room
from face2bone_model.data.synthetic.scene import Scene
from face2bone_model.data.synthetic.styles import Camera

WORK_HEIGHT = 400
"""Scenes are rendered at this height and then brought to the camera's size."""


def take(scene: Scene, camera: Camera, rng: Generator) -> tuple[Image.Image, Image.Image]:
    """Photograph a scene: an RGB picture and its region labels (mode L), both of the camera's size."""
    width = round(WORK_HEIGHT * camera.width / camera.height)
    rendering = render(scene, width, WORK_HEIGHT)
    labels = Image.fromarray(rendering.regions).resize(
        (camera.width, camera.height), Image.Resampling.NEAREST
    )
    return develop(rendering, camera, rng), labels


def take_room(scene: Scene, camera: Camera, rng: Generator) -> Image.Image:
    """Photograph the same room without the patient: an RGB picture of the camera's size."""
    return develop(
        render_room(scene, round(WORK_HEIGHT * camera.width / camera.height), WORK_HEIGHT), camera, rng
    )


def develop(rendering: Rendering, camera: Camera, rng: Generator) -> Image.Image:
    """Turn linear light into the camera's 8-bit sRGB picture."""
    height, width, _ = rendering.picture.shape
    sigma = float(rng.uniform(*camera.blur))
    light = np.asarray(gaussian_filter(rendering.picture, (sigma, sigma, 0), truncate=3), np.float32)
    light *= np.asarray(camera.cast, np.float32) * camera.exposure
    light *= _vignette(height, width, camera.vignette)[..., None]
    small = Image.fromarray((255 * _tone(light, camera.contrast)).astype(np.uint8))
    picture = np.asarray(small.resize((camera.width, camera.height), Image.Resampling.BICUBIC), np.float32)
    grain = texture("fine", picture.shape[:2], int(rng.integers(1_000_000)))
    return Image.fromarray(
        np.clip(picture + (255 * camera.noise * grain)[..., None], 0, 255).astype(np.uint8)
    )


def _vignette(height: int, width: int, strength: float) -> Plane:
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    return 1 - strength * (rows**2 + columns**2)


def _tone(light: NDArray[np.float32], contrast: float) -> NDArray[np.float32]:
    """Roll highlights off, then encode as sRGB (IEC 61966-2-1, as a power of 1/2.2); 0 to 1."""
    rolled = 1.18 * light / (1 + 0.25 * light)
    encoded = np.clip(rolled, 0, 1) ** (1 / 2.2)
    return np.clip(0.5 + contrast * (encoded - 0.5), 0, 1).astype(np.float32)
