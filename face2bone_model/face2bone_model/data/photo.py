"""Read a photo from disk: whatever the format, upright RGB in eight bits.

JPEG, PNG, TIFF, BMP, WebP and HEIC; EXIF orientation applied; embedded colour profiles converted to sRGB; CMYK, grey,
palette, transparent, 16-bit and floating-point pictures converted. One big photo is reduced to `max_side` at once, for
JPEG while decoding.
"""

import functools
import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from face2bone_model.data.quarantine import Quarantined, QuarantineReason

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "HEIF")
"""Pillow's names of what we open. Of files with several pictures the first is used."""

MAX_PIXELS = 80_000_000
"""A few kilobytes can unpack to gigabytes. No hospital camera makes more than this."""

MIN_SIDE = 64
"""Below this the detector has nothing to look at, and fails rather than finding nothing."""


def read_photo(path: Path, *, name: str = "", max_side: int = 2048) -> NDArray[np.uint8]:
    """Read a photo.

    Args:
        path: the file.
        name: what to call it in messages; its file name if not given.
        max_side: longer sides are reduced to this many pixels.

    Returns:
        uint8 (height, width, 3), RGB, upright.

    Raises:
        Quarantined: the file is missing, not a picture, damaged, too large or too small.
    """
    name = name or path.name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Quarantined(
            QuarantineReason.UNREADABLE, name, f"The file cannot be opened: {error.strerror}."
        ) from error
    return decode_photo(content, name=name, max_side=max_side)


def decode_photo(content: bytes, *, name: str, max_side: int = 2048) -> NDArray[np.uint8]:
    """The same as `read_photo`, from a file's bytes.

    Raises:
        Quarantined: not a picture, damaged, too large or too small.
    """
    register_formats()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; whether the pixels can be read is what counts
            return _decode(content, name, max_side)
    except Image.DecompressionBombError as error:
        raise Quarantined(QuarantineReason.TOO_LARGE, name) from error
    except UnidentifiedImageError as error:
        raise Quarantined(QuarantineReason.UNREADABLE, name, _what_it_looks_like(content)) from error
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, RuntimeError) as error:
        # Pillow's readers raise any of these on damaged files (SyntaxError: a broken PNG chunk).
        raise Quarantined(
            QuarantineReason.UNREADABLE, name, f"It is damaged or incomplete ({error})."
        ) from error


def _decode(content: bytes, name: str, max_side: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise Quarantined(
                QuarantineReason.TOO_LARGE, name, f"It has {width * height / 1e6:.0f} megapixels."
            )
        if min(width, height) < MIN_SIDE:
            raise Quarantined(QuarantineReason.TOO_SMALL, name, f"The picture has {width} x {height} pixels.")
        if max(width, height) > max_side:
            image.draft(
                None, (max_side, max_side)
            )  # JPEG only: decode at 1/2, 1/4 or 1/8, never below max_side
        image.load()
        upright = ImageOps.exif_transpose(image)
        rgb = to_rgb(upright)
    if max(rgb.size) > max_side:
        rgb.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return np.asarray(rgb, dtype=np.uint8)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to sRGB in eight bits; transparent parts become white.

    Raises:
        ValueError: Pillow knows no way from this mode to RGB.
    """
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in {"LA", "La", "PA", "RGBa", "P", "1"}:
        image = image.convert("RGBA" if image.mode != "1" else "RGB")
    if image.mode == "RGBA":
        backdrop = Image.new("RGBA", image.size, "white")
        backdrop.info = image.info
        image = Image.alpha_composite(backdrop, image).convert("RGB")
    return _to_srgb(image)


def _to_eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale grey values of unknown depth.

    White is the smallest of 1.0 (if fractional), 8, 12 and 16 bits that holds them all.
    """
    grey = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0).clip(min=0.0)
    top = float(grey.max(initial=0.0))
    fractional = top <= 1.0 and np.issubdtype(values.dtype, np.floating)
    scales = (1.0 if fractional else 255.0, 255.0, 4095.0, 65535.0, top)
    full = next(scale for scale in scales if top <= scale)
    return np.round(grey * (255.0 / full)).astype(np.uint8)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Apply the embedded colour profile, which matters for CMYK scans and wide-gamut tablets."""
    profile = image.info.get("icc_profile")
    if profile and image.mode in {"RGB", "CMYK", "L"}:
        try:
            converted = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), outputMode="RGB"
            )
        except (ImageCms.PyCMSError, OSError):
            pass  # a damaged profile, or one for another mode: the plain conversion below is the usual reading
        else:
            if converted is not None:
                return converted
    return image.convert("RGB")


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@functools.cache
def register_formats() -> None:
    """Load Pillow's readers and teach it HEIC, once."""
    import pillow_heif

    Image.init()
    pillow_heif.register_heif_opener()


def _what_it_looks_like(content: bytes) -> str:
    if not content:
        return "It is empty."
    if content.startswith(b"%PDF"):
        return "It is a PDF document."
    if content[128:132] == b"DICM":
        return "It is a DICOM file."
    if b"\0" not in content[:1024] and content[:1024].isascii():
        return "It is a text file."
    return ""
