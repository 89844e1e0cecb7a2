"""The site's cache of prepared faces and trunk features: append-only, resumable, read as memory maps.

    faces.u8           row after row of (160, 160, 3) uint8
    features.f16       row after row of (896, 8, 8) float16, 115 kB each
    index.jsonl        one line per row: key, photo, patient, landmarks, quality
    quarantine.jsonl   one line per photo that cannot be used, with the reason
    current.json       which row each photo of the last preparation has, and how it was prepared

A row is written before its line, so a crash leaves at most bytes without a line; opening cuts them off. A line is
found again by its key, SHA-256 over the photo's content, the preparation settings and the trunk: change any of the
three and the photo is prepared anew. Old rows stay behind; deleting the folder is always safe and only costs time.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import CohortError, UsageError
from face2bone_model.data.preparation import Preparation
from face2bone_model.data.quality import FaceQuality
from face2bone_model.data.quarantine import QuarantineReason
from face2bone_model.system.files import write_atomic

FACE_SHAPE = (160, 160, 3)
FEATURE_SHAPE = (896, 8, 8)

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float16]]
"""The frozen trunk: faces (B, 160, 160, 3) to features (B, 896, 8, 8)."""


@dataclass(frozen=True, kw_only=True)
class PhotoFile:
    """A photo on disk: what tells that it changed."""

    photo: str
    """Path below the site folder, with forward slashes."""
    patient_id: str
    size: int
    mtime_ns: int
    sha256: str = ""

    @property
    def stamp(self) -> tuple[str, int, int]:
        """Equal stamps are taken for equal contents, so that a rerun need not read ten thousand files."""
        return self.photo, self.size, self.mtime_ns


@dataclass(frozen=True, kw_only=True)
class CachedFace:
    """A usable photo and its row."""

    file: PhotoFile
    landmarks: tuple[tuple[float, float], ...]
    photo_size: tuple[int, int]
    quality: FaceQuality
    row: int = -1


@dataclass(frozen=True, kw_only=True)
class QuarantinedPhoto:
    """A photo that cannot be used."""

    file: PhotoFile
    reason: QuarantineReason
    detail: str


Entry = CachedFace | QuarantinedPhoto


class FeatureCache:
    """The cache of one site, opened for one way of preparing and one trunk.

    A context manager: it holds the folder's lock until it is left.

    Raises:
        UsageError: another process is preparing this folder.
    """

    def __init__(self, folder: Path, *, settings_digest: str, trunk_digest: str) -> None:
        self.folder = folder
        self._digests = (settings_digest, trunk_digest)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _lock(folder)
        self.num_rows = _repair(folder)
        self._by_key: dict[str, Entry] = {}
        self._by_stamp: dict[tuple[str, int, int], Entry] = {}
        for row, line in enumerate(_read_lines(folder / _INDEX)[0]):
            self._remember(line["key"], _face_of(line, row))
        for line in _read_lines(folder / _QUARANTINE)[0]:
            self._remember(line["key"], _quarantined_of(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def key_of(self, photo_sha256: str) -> str:
        """The key of a photo's content under this preparation and trunk."""
        return hashlib.sha256(" ".join((photo_sha256, *self._digests)).encode()).hexdigest()

    def find(self, file: PhotoFile) -> Entry | None:
        """What is known about this photo: by its content if `sha256` is given, else by path, size and time."""
        if file.sha256:
            return self._by_key.get(self.key_of(file.sha256))
        return self._by_stamp.get(file.stamp)

    def add_faces(
        self, entries: Sequence[CachedFace], faces: NDArray[np.uint8], features: NDArray[np.float16]
    ) -> list[CachedFace]:
        """Append rows.

        Args:
            entries: B photos; their `row` is filled in.
            faces: (B, 160, 160, 3).
            features: (B, 896, 8, 8).

        Returns:
            The entries with their rows.

        Raises:
            ValueError: a shape does not fit.
        """
        if faces.shape != (len(entries), *FACE_SHAPE) or features.shape != (len(entries), *FEATURE_SHAPE):
            raise ValueError(f"{len(entries)} entries, faces {faces.shape}, features {features.shape}")
        placed = [replace(entry, row=self.num_rows + offset) for offset, entry in enumerate(entries)]
        _append(self.folder / _FACES, np.ascontiguousarray(faces, dtype=np.uint8).tobytes())
        _append(self.folder / _FEATURES, np.ascontiguousarray(features, dtype="<f2").tobytes())
        self._append_lines(_INDEX, placed)
        self.num_rows += len(placed)
        return placed

    def add_quarantined(self, entries: Sequence[QuarantinedPhoto]) -> None:
        """Remember photos that cannot be used, so that a rerun does not look at them again."""
        self._append_lines(_QUARANTINE, entries)

    def publish(self, preparation: Preparation, faces: Sequence[CachedFace]) -> None:
        """State which rows make up the site's usable photos from now on."""
        rows = {entry.file.photo: entry.row for entry in faces}
        record = {"preparation": asdict(preparation), "rows": rows}
        content = json.dumps(record, indent=1, ensure_ascii=False).encode()
        write_atomic(self.folder / _CURRENT, content, mode=0o600)

    def _append_lines(self, name: str, entries: Sequence[Entry]) -> None:
        lines = []
        for entry in entries:
            key = self.key_of(entry.file.sha256)
            lines.append(json.dumps({"key": key} | asdict(entry), ensure_ascii=False) + "\n")
            self._remember(key, entry)
        _append(self.folder / name, "".join(lines).encode())

    def _remember(self, key: str, entry: Entry) -> None:
        if key == self.key_of(entry.file.sha256):
            self._by_key[key] = entry
            self._by_stamp[entry.file.stamp] = entry


def read_current(folder: Path) -> tuple[Preparation, Mapping[str, int]]:
    """How the site's photos were prepared, and the row of each usable one.

    Raises:
        CohortError: nothing was prepared yet.
    """
    try:
        record = json.loads((folder / _CURRENT).read_bytes())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise CohortError("This site's photos are not prepared yet.", "Run `f2b-client prepare`.") from error
    return Preparation(**record["preparation"]), record["rows"]


def map_faces(folder: Path) -> NDArray[np.uint8]:
    """All cached faces, (N, 160, 160, 3), read-only memory map."""
    return _map(folder / _FACES, np.dtype(np.uint8), FACE_SHAPE)


def map_features(folder: Path) -> NDArray[np.float16]:
    """All cached features, (N, 896, 8, 8), read-only memory map."""
    return _map(folder / _FEATURES, np.dtype("<f2"), FEATURE_SHAPE)


_FACES, _FEATURES = "faces.u8", "features.f16"
_INDEX, _QUARANTINE, _CURRENT = "index.jsonl", "quarantine.jsonl", "current.json"


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    rows = path.stat().st_size // _row_bytes(dtype, shape) if path.exists() else 0
    if rows == 0:  # an empty file cannot be mapped
        return np.empty((0, *shape), dtype)
    return np.memmap(path, dtype, mode="r", shape=(rows, *shape))


def _row_bytes(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * dtype.itemsize


def _lock(folder: Path) -> IO[bytes]:
    file = (folder / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise UsageError(f"Another process is preparing {folder}.", "Wait until it has ended.") from error
    return file


def _repair(folder: Path) -> int:
    """Cut off what a crash left unfinished, and return the number of whole rows."""
    lines, ends = _read_lines(folder / _INDEX)
    stores = (
        (folder / _FACES, _row_bytes(np.dtype(np.uint8), FACE_SHAPE)),
        (folder / _FEATURES, _row_bytes(np.dtype("<f2"), FEATURE_SHAPE)),
    )
    rows = min(len(lines), *(_size(path) // row_bytes for path, row_bytes in stores))
    for path, row_bytes in stores:
        _cut(path, rows * row_bytes)
    _cut(folder / _INDEX, ends[rows])
    _cut(folder / _QUARANTINE, _read_lines(folder / _QUARANTINE)[1][-1])
    return rows


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The whole JSON lines up to the first damaged one, and where each ends (starting with 0), in bytes."""
    lines: list[dict[str, Any]] = []
    ends = [0]
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        lines.append(record)
        ends.append(ends[-1] + len(line))
    return lines, ends


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, size: int) -> None:
    if _size(path) > size:
        os.truncate(path, size)


def _append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _face_of(line: Mapping[str, Any], row: int) -> CachedFace:
    return CachedFace(
        file=PhotoFile(**line["file"]),
        landmarks=tuple((x, y) for x, y in line["landmarks"]),
        photo_size=(line["photo_size"][0], line["photo_size"][1]),
        quality=FaceQuality(**line["quality"]),
        row=row,
    )


def _quarantined_of(line: Mapping[str, Any]) -> QuarantinedPhoto:
    return QuarantinedPhoto(
        file=PhotoFile(**line["file"]), reason=QuarantineReason(line["reason"]), detail=line["detail"]
    )
