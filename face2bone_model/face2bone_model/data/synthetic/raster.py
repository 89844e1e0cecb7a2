"""Small drawing operations on float32 arrays, and the noise tiles every picture takes its texture from."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

Plane = NDArray[np.floating[Any]]
"""(H, W), float32 wherever pictures are made: mixing in a numpy float64 scalar would double the time."""

_TILE = 640
_TILE_SEED = 20_240
_LARGEST_PICTURE = 1024
_BLUR = {"fine": (0.7, 0.7), "medium": (2.5, 2.5), "coarse": (14.0, 14.0), "strands": (14.0, 0.7)}


def bump(x: Plane, y: Plane, centre: tuple[float, float], size: tuple[float, float]) -> Plane:
    """A Gaussian hill of height 1 at `centre` with half-widths `size`; (H, W)."""
    hill: Plane = np.exp(-(((x - centre[0]) / size[0]) ** 2) - ((y - centre[1]) / size[1]) ** 2)
    return hill


def line(distance: Plane, width: float) -> Plane:
    """A soft line of height 1 where `distance` is 0; (H, W)."""
    ridge: Plane = np.exp(-((distance / width) ** 2))
    return ridge


def step(value: Plane, softness: float) -> Plane:
    """0 below, 1 above zero, with a smooth passage over +-`softness`; (H, W)."""
    t = np.clip(value / (2 * softness) + 0.5, 0, 1)
    passage: Plane = t * t * (3 - 2 * t)
    return passage


def over(canvas: NDArray[np.float32], colour: NDArray[Any] | tuple[float, ...], alpha: Plane) -> None:
    """Lay `colour` over `canvas` (H, W, 3) in place, `alpha` (H, W) thick."""
    canvas += (np.asarray(colour, np.float32) - canvas) * alpha[..., None]


@cache
def _tile(kind: str) -> Plane:
    noise = (
        np.random.default_rng([_TILE_SEED, list(_BLUR).index(kind)])
        .standard_normal((_TILE, _TILE))
        .astype(np.float32)
    )
    smooth = gaussian_filter(noise, _BLUR[kind], mode="wrap")
    tile: Plane = (smooth / smooth.std()).astype(np.float32)
    return tile


@cache
def _sheet(kind: str) -> Plane:
    """The tile continued so far that any picture can be cut out of it from any place on the tile."""
    return np.pad(_tile(kind), ((0, _LARGEST_PICTURE), (0, _LARGEST_PICTURE)), mode="wrap")


def texture(kind: str, shape: tuple[int, int], offset: int) -> Plane:
    """Unit-variance noise (H, W): `kind` is fine, medium, coarse or strands; `offset` picks the piece."""
    row, column = offset * 131 % _TILE, offset * 197 % _TILE
    return _sheet(kind)[row : row + shape[0], column : column + shape[1]]


def texture_at(kind: str, rows: Plane, columns: Plane, offset: int) -> Plane:
    """Unit-variance noise (H, W) read at the given tile coordinates, so that it can follow a shape."""
    tile = _tile(kind)
    row, column = rows + (offset % _TILE), columns + (offset * 7 % _TILE)
    read: Plane = map_coordinates(tile, (row, column), order=1, mode="grid-wrap", output=np.float32)
    return read
