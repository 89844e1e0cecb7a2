"""Photos as they lie in their folder: twins, mirror images, screenshots, thumbnails, a camera that tells the class."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.stats import chi2_contingency

from f2b_client.doctor.data_facts import SiteFacts, photos, places
from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from face2bone_model.contract.keys import CLASSES
from face2bone_model.data.manifest import Manifest
from face2bone_model.data.photo import FORMATS, register_formats

MOST_PHOTOS = 1000
"""Photos looked at; evenly drawn where there are more. The embedding check looks at all of them."""

_HASH_SIDE = 16
_ALIKE = 20
"""Of 256 bits of the perceptual hash (DCT, Zauner 2010). Copies at another size or quality differ in 0 to 8 bits, with
a narrow border cut off in 16; two people photographed in one studio in 34 and more."""
_HASHED_AT = 512
"""Longer side, px, at which a photo is decoded."""
_THUMBNAIL = 200
"""Longer side, px: a face fills half of it at most and is aligned to 160."""
_SCREENS = frozenset(
    {
        (1280, 720), (1280, 800), (1366, 768), (1440, 900), (1536, 864), (1600, 900), (1680, 1050), (1920, 1080),
        (1920, 1200), (2560, 1440), (2560, 1600), (3840, 2160),  # desktops
        (1334, 750), (1792, 828), (2340, 1080), (2400, 1080), (2436, 1125), (2532, 1170), (2556, 1179), (2688, 1242),
        (2778, 1284), (2796, 1290), (3088, 1440), (3200, 1440),  # phones
        (2048, 1536), (2160, 1620), (2224, 1668), (2360, 1640), (2388, 1668), (2732, 2048),  # tablets
    }
)  # fmt: skip
_VIDEO = frozenset({(640, 360), (854, 480), (1280, 720), (1920, 1080), (2560, 1440), (3840, 2160)})
_BAR_SHARE = 0.04
"""Of the height or width that one even colour must cover at both opposite edges to be a bar."""
_BAR_CONTRAST = 3
"""Grey levels within a row of a bar; a wall has more."""
_FULL_CONTRAST = 60.0
"""Grey levels between the darkest and lightest hundredth, below which a photo is too dark or pale to show a bar."""
_VIDEO_SHARE = 0.1
_MIRRORING = (2, 4, 5, 7)
"""EXIF orientations that mirror."""
_ORIENTATION, _MODEL = 0x0112, 0x0110
_ASSOCIATED = 0.3
"""Cramer's V: from 0.3 on an association is more than weak."""
_BY_CHANCE = 1e-3
_RARE = 5
"""Photos of a kind that are told apart; rarer kinds count as one."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What the file and a small decoding of it tell."""

    photo: str
    """Path below the site folder."""
    patient: str
    size: tuple[int, int]
    """(width, height) px as stored."""
    is_png: bool
    orientation: int
    camera: str
    has_bars: bool
    bits: NDArray[np.bool_]
    """(256,) perceptual hash of the upright picture."""
    mirrored_bits: NDArray[np.bool_]
    """The same of its mirror image."""


def read_pictures(facts: SiteFacts) -> list[Picture]:
    """Up to `MOST_PHOTOS` photos; files that cannot be read are left to the quarantine."""
    register_formats()
    everything = [(patient, path) for patient, own in sorted(facts.photos.items()) for path in own]
    chosen = np.unique(
        np.linspace(0, len(everything) - 1, min(len(everything), MOST_PHOTOS)).round().astype(int)
    )
    found = (
        _picture(facts.name_of(path), patient, path) for patient, path in (everything[i] for i in chosen)
    )
    return [picture for picture in found if picture is not None]


def _picture(name: str, patient: str, path: Path) -> Picture | None:
    try:
        with Image.open(path, formats=FORMATS) as image:
            size, is_png, exif = image.size, image.format == "PNG", image.getexif()
            image.draft("L", (_HASHED_AT, _HASHED_AT))
            grey = ImageOps.exif_transpose(image).convert("L")
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, Image.DecompressionBombError):
        return None  # as in `data.photo`: Pillow's readers raise any of these
    grey.thumbnail((_HASHED_AT, _HASHED_AT))
    return Picture(
        photo=name,
        patient=patient,
        size=size,
        is_png=is_png,
        orientation=int(exif.get(_ORIENTATION, 1)),
        camera=str(exif.get(_MODEL, "")).strip("\0 "),
        has_bars=_has_bars(np.asarray(grey)),
        bits=_hash(grey),
        mirrored_bits=_hash(ImageOps.mirror(grey)),
    )


def _hash(grey: Image.Image) -> NDArray[np.bool_]:
    return np.asarray(imagehash.phash(grey, hash_size=_HASH_SIDE).hash, dtype=bool).ravel()


def _has_bars(grey: NDArray[np.uint8]) -> bool:
    """Whether both opposite edges are covered by an even colour, as around a photo on a screen."""
    if np.ptp(np.percentile(grey, (1, 99))) < _FULL_CONTRAST:
        return False
    for lines in (grey, grey.T):
        depth = max(2, round(_BAR_SHARE * len(lines)))
        edges = (lines[:depth], lines[-depth:])
        if all(int(edge.max()) - int(edge.min()) <= _BAR_CONTRAST for edge in edges):
            return True
    return False


def check_twins(pictures: Sequence[Picture], manifest: Manifest | None) -> Iterator[Finding]:
    """Find one photo under two patients, whatever its size, quality or border."""
    splits = dict(manifest.splits) if manifest else {}
    pairs = [(a, b) for a, b in _alike(pictures, mirrored=False) if a.patient != b.patient]
    across = [(a, b) for a, b in pairs if splits.get(a.patient) != splits.get(b.patient)]
    check = "same-photo-two-ids"
    if not pairs:
        yield passed(check, f"None of {photos(len(pictures))} stands under two patients.", "photos")
        return
    first, second = (across or pairs)[0]
    what = (
        f"{len(pairs)} pairs of patients share a photo; the first are {first.patient} and {second.patient}."
    )
    if across:
        what += f" {len(across)} pairs are in two splits at once, so that a test patient is trained on."
    mend = "Find out whose face it is, and remove the photo from the other patient."
    yield failed(check, what, places([f"{a.photo} = {b.photo}" for a, b in across or pairs]), mend)


def check_mirrored(pictures: Sequence[Picture], _: Manifest | None) -> Iterator[Finding]:
    """Find mirror images of other photos, and photos that EXIF calls mirrored."""
    pairs = _alike(pictures, mirrored=True)
    flagged = [one.photo for one in pictures if one.orientation in _MIRRORING]
    if not pairs and not flagged:
        yield passed("mirrored-photos", "No photo is a mirror image of another.", "photos")
        return
    found = [f"{a.photo} = {b.photo}" for a, b in pairs] + flagged
    what = (
        f"{len(pairs)} photos are mirror images of another one; {len(flagged)} are marked as mirrored (EXIF)."
    )
    mend = "Switch mirroring off in the tablet's front camera, and keep one photo of each pair."
    yield warned("mirrored-photos", what, places(found), mend)


def _alike(pictures: Sequence[Picture], *, mirrored: bool) -> list[tuple[Picture, Picture]]:
    """Pairs whose hashes differ in at most `_ALIKE` bits, the second one mirrored if asked for."""
    if not pictures:
        return []
    ours = np.array([one.bits for one in pictures], dtype=np.float32)
    theirs = np.array([one.mirrored_bits for one in pictures], dtype=np.float32) if mirrored else ours
    distance = ours.sum(axis=1)[:, None] + theirs.sum(axis=1) - 2 * ours @ theirs.T
    first, second = np.nonzero(np.triu(distance <= _ALIKE, k=1))
    return [(pictures[int(a)], pictures[int(b)]) for a, b in zip(first, second, strict=True)]


def check_screens(pictures: Sequence[Picture], _: Manifest | None) -> Iterator[Finding]:
    """Find pictures of a screen: an even bar at opposite edges, or a lossless file of a screen's size."""
    found = [
        one.photo for one in pictures if one.has_bars or (one.is_png and _long_short(one.size) in _SCREENS)
    ]
    if found:
        what = f"{photos(len(found))} of {len(pictures)} look like screenshots."
        mend = "Use the camera's own files: a screenshot has another sharpness, size and colour."
        yield warned("screenshots", what, places(found), mend)
    else:
        yield passed("screenshots", "No photo looks like a screenshot.", "photos")


def check_video(pictures: Sequence[Picture], _: Manifest | None) -> Iterator[Finding]:
    """Find frames of a video by their size; a few may be photos of a camera set to 16:9."""
    found = [one.photo for one in pictures if not one.is_png and _long_short(one.size) in _VIDEO]
    if found and len(found) >= _VIDEO_SHARE * len(pictures):
        what = f"{photos(len(found))} of {len(pictures)} have the size of a video frame."
        mend = "Take photos: frames of a video are compressed hard and blurred by movement."
        yield warned("video-frames", what, places(found), mend)
    else:
        yield passed("video-frames", "The photos do not have the sizes of video frames.", "photos")


def check_thumbnails(pictures: Sequence[Picture], _: Manifest | None) -> Iterator[Finding]:
    """Find previews where originals belong."""
    found = [one.photo for one in pictures if max(one.size) <= _THUMBNAIL]
    if found:
        what = f"{photos(len(found))} of {len(pictures)} are at most {_THUMBNAIL} px long: thumbnails."
        yield warned("thumbnails", what, places(found), "Copy the original photos, not their previews.")
    else:
        yield passed("thumbnails", "No photo is a thumbnail.", "photos")


def check_shortcut(pictures: Sequence[Picture], manifest: Manifest | None) -> Iterator[Finding]:
    """Find a camera or picture size that goes with a class: a network would read it instead of the face."""
    labels = {entry.patient_id: entry.label for entry in manifest.entries} if manifest else {}
    pairs = [(_origin(one), labels[one.patient]) for one in pictures if one.patient in labels]
    strength, chance = association(pairs)
    if strength >= _ASSOCIATED and chance < _BY_CHANCE:
        most, own = _most_telling(pairs)
        what = (
            f"Camera or picture size goes with the class (Cramer's V {strength:.2f}); of {sum(own.values())} photos "
            f"from '{most}', {own.most_common(1)[0][1]} are of class {CLASSES[own.most_common(1)[0][0]]}."
        )
        mend = "Photograph every class with every camera; the study would learn the camera."
        yield warned("camera-tells-class", what, "photos", mend)
    else:
        yield passed("camera-tells-class", "Camera and picture size do not go with the class.", "photos")


def _origin(picture: Picture) -> str:
    width, height = picture.size
    return f"{picture.camera or 'camera not stated'}, {'PNG, ' if picture.is_png else ''}{width} x {height}"


def association(pairs: Sequence[tuple[str, int]]) -> tuple[float, float]:
    """Cramer's V between a name and a class, and the probability of as much by chance; 0 and 1 where nothing varies."""
    counts = Counter(name for name, _ in pairs)
    names = [name if counts[name] >= _RARE else "others" for name, _ in pairs]
    rows, columns = sorted(set(names)), sorted({label for _, label in pairs})
    if len(rows) < 2 or len(columns) < 2:  # noqa: PLR2004  # nothing varies
        return 0.0, 1.0
    table = np.zeros((len(rows), len(columns)))
    for name, (_, label) in zip(names, pairs, strict=True):
        table[rows.index(name), columns.index(label)] += 1
    result: Any = chi2_contingency(table, correction=False)
    return float(np.sqrt(result[0] / (table.sum() * (min(table.shape) - 1)))), float(result[1])


def _most_telling(pairs: Sequence[tuple[str, int]]) -> tuple[str, Counter[int]]:
    """The origin whose photos are farthest from the mix of all."""
    everyone = Counter(label for _, label in pairs)
    by_origin: dict[str, Counter[int]] = {}
    for name, label in pairs:
        by_origin.setdefault(name, Counter())[label] += 1
    frequent = {name: own for name, own in by_origin.items() if own.total() >= _RARE} or by_origin
    return max(frequent.items(), key=lambda item: _distance(item[1], everyone))


def _distance(own: Mapping[int, int], everyone: Mapping[int, int]) -> float:
    ours, theirs = sum(own.values()), sum(everyone.values())
    return max(abs(own.get(label, 0) / ours - count / theirs) for label, count in everyone.items())


def _long_short(size: tuple[int, int]) -> tuple[int, int]:
    return max(size), min(size)


PICTURE_CHECKS = (check_twins, check_mirrored, check_screens, check_video, check_thumbnails, check_shortcut)


def check_pictures(facts: SiteFacts) -> Iterator[Finding]:
    """Everything that files and small pictures tell, each photo decoded once."""
    pictures = read_pictures(facts)
    for check in PICTURE_CHECKS:
        yield from check(pictures, facts.manifest)
