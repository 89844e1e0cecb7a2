"""Photos as hospitals really deliver some of them: unusable ones, and odd ones that must still work."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from face2bone_model.data.synthetic.styles import Camera

Expected = Literal["usable", "quarantined", "excluded"]
"""What the preparation should make of a bad item: `excluded` concerns a patient, the other two a photo."""

_ORIENTATION_TAG = 0x0112
_ROTATE_90_CLOCKWISE_TO_VIEW = 6


@dataclass(frozen=True, kw_only=True)
class Shots:
    """What a bad photo is made of: the patient and, taken only if needed, somebody else or the empty room."""

    patient: Image.Image
    other: Callable[[], Image.Image]
    room: Callable[[], Image.Image]
    camera: Camera


@dataclass(frozen=True, kw_only=True)
class BadPhoto:
    """One kind of bad photo."""

    kind: str
    what: str
    expected: Expected
    make: Callable[[Shots], bytes]
    suffix: str = ".jpg"


def jpeg(picture: Image.Image, camera: Camera) -> bytes:
    """A JPEG file at the camera's quality."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=camera.jpeg_quality)
    return buffer.getvalue()


def _empty_room(shots: Shots) -> bytes:
    return jpeg(shots.room(), shots.camera)


def _text(shots: Shots) -> bytes:
    """No two are alike, so that this is the only thing wrong with them."""
    return f"Photo {zlib.crc32(shots.patient.tobytes()):08x} follows by post.\n".encode()


def _two_faces(shots: Shots) -> bytes:
    width, height = shots.patient.size
    pair = Image.new("RGB", (2 * width, height))
    pair.paste(shots.patient, (0, 0))
    pair.paste(shots.other(), (width, 0))
    return jpeg(pair, shots.camera)


def _blurred(shots: Shots) -> bytes:
    return jpeg(shots.patient.filter(ImageFilter.GaussianBlur(shots.patient.height / 55)), shots.camera)


def _truncated(shots: Shots) -> bytes:
    whole = jpeg(shots.patient, shots.camera)
    return whole[: len(whole) // 3]


def _cmyk(shots: Shots) -> bytes:
    return jpeg(shots.patient.convert("CMYK"), shots.camera)


def _phone(shots: Shots) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = _ROTATE_90_CLOCKWISE_TO_VIEW
    buffer = io.BytesIO()
    lying = shots.patient.transpose(Image.Transpose.ROTATE_90)
    lying.save(buffer, "JPEG", quality=shots.camera.jpeg_quality, exif=exif)
    return buffer.getvalue()


def _sixteen_bits(shots: Shots) -> bytes:
    """A 16-bit RGB PNG, which Pillow can read but not write (PNG specification, third edition)."""
    pixels = np.asarray(shots.patient).astype(">u2") * 257
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 4)), (b"IEND", b""))
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _dark(shots: Shots) -> bytes:
    return jpeg(ImageEnhance.Brightness(shots.patient).enhance(0.06), shots.camera)


BAD_PHOTOS: tuple[BadPhoto, ...] = (
    BadPhoto(kind="no_face", what="An empty room.", expected="quarantined", make=_empty_room),
    BadPhoto(kind="two_faces", what="Two people side by side.", expected="quarantined", make=_two_faces),
    BadPhoto(
        kind="exif_rotated",
        what="A phone photo lying on its side, with an EXIF orientation.",
        expected="usable",
        make=_phone,
    ),
    BadPhoto(kind="text_file", what="A text file named .jpg.", expected="quarantined", make=_text),
    BadPhoto(kind="strong_blur", what="Out of focus.", expected="quarantined", make=_blurred),
    BadPhoto(kind="truncated", what="The first third of a JPEG.", expected="quarantined", make=_truncated),
    BadPhoto(kind="cmyk", what="A CMYK JPEG, as print software saves it.", expected="usable", make=_cmyk),
    BadPhoto(
        kind="png_16_bit",
        what="A PNG with 16 bits a channel.",
        expected="usable",
        make=_sixteen_bits,
        suffix=".png",
    ),
    BadPhoto(kind="too_dark", what="Hardly any light.", expected="quarantined", make=_dark),
)
"""Every kind, in the order in which cohorts take them up."""
