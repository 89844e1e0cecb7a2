"""Small pictures for the contact sheet, and the quarantine folder. Both show faces and stay at the site."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from face2bone_model.data.alignment import FACE_SIZE, fit_similarity
from face2bone_model.data.features import CachedFace, QuarantinedPhoto
from face2bone_model.data.photo import read_photo
from face2bone_model.data.quarantine import Quarantined
from face2bone_model.report.contact_sheet import SheetFace, SheetQuarantined
from face2bone_model.system.files import write_atomic

THUMBNAIL = 320
"""Longer side of a small picture, px."""

FACES_SHOWN = 60
"""Usable photos on the contact sheet: enough to judge a camera by, small enough for a phone."""


def sheet_faces(
    site_folder: Path, entries: Sequence[CachedFace], cached_faces: NDArray[np.uint8]
) -> list[SheetFace]:
    """Before and after of up to `FACES_SHOWN` photos, drawn evenly from all."""
    chosen = np.unique(np.linspace(0, len(entries) - 1, min(FACES_SHOWN, len(entries))).round().astype(int))
    shown = (_sheet_face(site_folder, entries[index], cached_faces) for index in chosen)
    return [face for face in shown if face is not None]


def write_quarantine(site_folder: Path, photos: Sequence[QuarantinedPhoto]) -> list[SheetQuarantined]:
    """Bring the folder `quarantine/` up to date: for each photo its reason (JSON) and, if readable, a small picture."""
    folder = site_folder / "quarantine"
    folder.mkdir(mode=0o700, exist_ok=True)
    shown, kept = [], set()
    for photo in photos:
        stem = folder / hashlib.sha256(f"{photo.file.photo} {photo.file.sha256}".encode()).hexdigest()[:16]
        shown.append(_quarantine_one(site_folder, stem, photo))
        kept |= {stem.name}
    for file in folder.iterdir():
        if file.stem not in kept:
            file.unlink()
    return shown


def _sheet_face(site_folder: Path, entry: CachedFace, cached_faces: NDArray[np.uint8]) -> SheetFace | None:
    before = _thumbnail(site_folder, entry.file.photo)
    if before is None:  # deleted or replaced since
        return None
    square = np.array([[0, 0], [FACE_SIZE, 0], [FACE_SIZE, FACE_SIZE], [0, FACE_SIZE]], dtype=np.float64)
    corners = fit_similarity(np.array(entry.landmarks)).inverse(square) / np.array(entry.photo_size)
    return SheetFace(
        photo=entry.file.photo,
        before=before,
        after=_jpeg(np.asarray(cached_faces[entry.row]), quality=88),
        corners=tuple((float(x), float(y)) for x, y in corners),
        aspect=entry.photo_size[0] / entry.photo_size[1],
        quality=entry.quality,
    )


def _quarantine_one(site_folder: Path, stem: Path, photo: QuarantinedPhoto) -> SheetQuarantined:
    record, picture = stem.with_suffix(".json"), stem.with_suffix(".jpg")
    if not record.exists():
        thumbnail = _thumbnail(site_folder, photo.file.photo)
        if thumbnail is not None:
            write_atomic(picture, thumbnail, mode=0o600)
        # The record last: where it exists, the picture was made or cannot be.
        write_atomic(record, _reason_record(photo), mode=0o600)
    return SheetQuarantined(
        photo=photo.file.photo,
        reason=photo.reason,
        detail=photo.detail,
        thumbnail=picture.read_bytes() if picture.exists() else None,
    )


def _reason_record(photo: QuarantinedPhoto) -> bytes:
    record = {
        "photo": photo.file.photo,
        "patient": photo.file.patient_id,
        "reason": photo.reason.value,
        "what": " ".join(filter(None, (photo.reason.sentence, photo.detail))),
        "mend": photo.reason.mend,
    }
    return json.dumps(record, indent=1, ensure_ascii=False).encode()


def _thumbnail(site_folder: Path, photo: str) -> bytes | None:
    try:
        return _jpeg(read_photo(site_folder / photo, max_side=THUMBNAIL), quality=78)
    except Quarantined:
        return None


def _jpeg(picture: NDArray[np.uint8], *, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
