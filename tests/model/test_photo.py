"""Reading photos: every format, orientation and depth ends as the same upright RGB; bad files say what is wrong."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from skimage.data import astronaut

from face2bone_model.data.photo import MAX_PIXELS, decode_photo, read_photo
from face2bone_model.data.quarantine import Quarantined, QuarantineReason

ORIENTATION = 0x0112
PICTURE = np.ascontiguousarray(astronaut()[:240, 80:400])
UNDO = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(a, b):
    return np.abs(a.astype(int) - b.astype(int)).mean()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_a_lossless_format_is_read_exactly(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(decode_photo(encoded(Image.fromarray(PICTURE), kind, **options), name="x"), PICTURE)


def test_jpeg_and_heic_are_read_nearly_exactly():
    jpeg = decode_photo(encoded(Image.fromarray(PICTURE), "JPEG", quality=95), name="x")
    heif = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PICTURE)).save(heif, quality=95)
    assert difference(jpeg, PICTURE) < 3
    assert difference(decode_photo(heif.getvalue(), name="x"), PICTURE) < 3


@pytest.mark.parametrize("orientation", UNDO)
def test_a_phone_photo_stored_turned_comes_out_upright(orientation):
    image = Image.fromarray(PICTURE).transpose(UNDO[orientation])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert np.array_equal(decode_photo(encoded(image, "PNG", exif=exif), name="x"), PICTURE)


def test_a_turned_heic_comes_out_upright_once():
    image = Image.fromarray(PICTURE)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    buffer = io.BytesIO()
    pillow_heif.register_heif_opener()
    image.transpose(Image.Transpose.ROTATE_90).save(buffer, "HEIF", exif=exif.tobytes(), quality=95)
    assert difference(decode_photo(buffer.getvalue(), name="x"), PICTURE) < 4


def test_cmyk_is_converted_to_the_same_colours():
    cmyk = Image.fromarray(PICTURE).convert("CMYK")
    for kind in ("JPEG", "TIFF"):
        assert difference(decode_photo(encoded(cmyk, kind), name="x"), PICTURE) < 3


@pytest.mark.parametrize(("bits", "full"), [(16, 65535), (12, 4095)])
def test_grey_of_twelve_and_sixteen_bits_is_scaled(bits, full):
    grey = np.asarray(Image.fromarray(PICTURE).convert("L"))
    deep = np.round(grey / 255.0 * full).astype(np.uint16)
    read = decode_photo(encoded(Image.fromarray(deep), "TIFF"), name="x")
    assert np.abs(read[..., 0].astype(int) - grey).max() <= 1
    assert np.array_equal(read[..., 0], read[..., 2])


def test_sixteen_bit_colour_png_is_scaled():
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in PICTURE)
    chunks = b"\x89PNG\r\n\x1a\n"
    height, width, _ = PICTURE.shape
    for name, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        chunks += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    assert np.array_equal(decode_photo(chunks, name="x"), PICTURE)


def test_fractional_grey_counts_as_zero_to_one():
    grey = np.asarray(Image.fromarray(PICTURE).convert("L"))
    read = decode_photo(encoded(Image.fromarray((grey / 255.0).astype(np.float32)), "TIFF"), name="x")
    assert np.array_equal(read[..., 0], grey)


def test_palette_and_black_and_white_become_rgb():
    image = Image.fromarray(PICTURE)
    palette = image.quantize(256)
    assert np.array_equal(decode_photo(encoded(palette, "PNG"), name="x"), np.asarray(palette.convert("RGB")))
    assert set(np.unique(decode_photo(encoded(image.convert("1"), "PNG"), name="x"))) == {0, 255}


def test_transparent_parts_become_white():
    image = Image.fromarray(PICTURE).convert("RGBA")
    image.putalpha(Image.fromarray(np.full(PICTURE.shape[:2], 0, np.uint8)))
    assert (decode_photo(encoded(image, "PNG"), name="x") == 255).all()
    grey = Image.fromarray(PICTURE).convert("LA")
    assert np.array_equal(decode_photo(encoded(grey, "PNG"), name="x")[..., 0], np.asarray(grey.convert("L")))


def test_a_colour_profile_is_applied():
    lab_free = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    plain = decode_photo(encoded(Image.fromarray(PICTURE), "PNG", icc_profile=lab_free.tobytes()), name="x")
    assert difference(plain, PICTURE) < 1
    damaged = decode_photo(encoded(Image.fromarray(PICTURE), "PNG", icc_profile=b"nonsense"), name="x")
    assert np.array_equal(damaged, PICTURE)


def test_a_big_photo_is_reduced_to_the_longer_side():
    big = Image.fromarray(PICTURE).resize((1600, 1200))
    for kind in ("JPEG", "PNG"):
        read = decode_photo(encoded(big, kind), name="x", max_side=400)
        assert read.shape == (300, 400, 3)


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (b"patient;t-score\n1;-2.5\n", QuarantineReason.UNREADABLE, "text file"),
        (b"", QuarantineReason.UNREADABLE, "empty"),
        (b"%PDF-1.7\n\x00", QuarantineReason.UNREADABLE, "PDF"),
        (b"\0" * 128 + b"DICM" + b"\0" * 64, QuarantineReason.UNREADABLE, "DICOM"),
        (b"\x93\x01\x00\xff" * 99, QuarantineReason.UNREADABLE, "cannot be read"),
        (encoded(Image.fromarray(PICTURE), "JPEG")[:4000], QuarantineReason.UNREADABLE, "damaged"),
        (encoded(Image.fromarray(PICTURE), "PNG")[:4000], QuarantineReason.UNREADABLE, "damaged"),
        (encoded(Image.fromarray(PICTURE[:40]), "PNG"), QuarantineReason.TOO_SMALL, "320 x 40"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_and_the_mend(content, reason, words):
    with pytest.raises(Quarantined) as caught:
        decode_photo(content, name="photos/p07.jpg")
    assert caught.value.reason is reason
    assert caught.value.what.startswith("photos/p07.jpg: ")
    assert words in caught.value.what
    assert caught.value.mend == reason.mend


def test_a_decompression_bomb_is_refused_unopened():
    side = int(MAX_PIXELS**0.5) + 1
    bombs = [encoded(Image.new("1", (side, side)), "PNG"), encoded(Image.new("1", (3 * side, side)), "PNG")]
    for bomb in bombs:
        with pytest.raises(Quarantined) as caught:
            decode_photo(bomb, name="x")
        assert caught.value.reason is QuarantineReason.TOO_LARGE


def test_a_missing_file_is_quarantined(tmp_path):
    with pytest.raises(Quarantined, match=r"gone\.jpg: .*No such file"):
        read_photo(tmp_path / "gone.jpg")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_is_damaged_ends_as_a_photo_or_in_quarantine(data):
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "WEBP"]))
    content = bytearray(encoded(Image.fromarray(PICTURE[::2, ::2]), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        photo = decode_photo(bytes(content), name="x")
    except Quarantined:
        return
    assert photo.dtype == np.uint8
    assert photo.shape[2] == 3
