"""The contact sheet: faces before and after preparation, every quarantined photo with why. It stays at the hospital."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from face2bone_model.data.preparation import PreparationSettings
from face2bone_model.data.quality import FaceQuality
from face2bone_model.data.quarantine import QuarantineReason
from face2bone_model.report.render import render
from face2bone_model.system.files import write_atomic


@dataclass(frozen=True, kw_only=True)
class SheetFace:
    """A usable photo, before and after."""

    photo: str
    before: bytes
    """JPEG of the photo, small."""
    after: bytes
    """JPEG of the prepared face."""
    corners: tuple[tuple[float, float], ...]
    """Where the aligned square lay in the photo, as shares of its width and height, four corners in order."""
    aspect: float
    """The photo's width / height."""
    quality: FaceQuality

    @property
    def outline(self) -> str:
        """The square as SVG points in a 1000-unit wide drawing."""
        return " ".join(f"{1000 * x:.0f},{1000 * y / self.aspect:.0f}" for x, y in self.corners)


@dataclass(frozen=True, kw_only=True)
class SheetQuarantined:
    """A photo that cannot be used."""

    photo: str
    reason: QuarantineReason
    detail: str
    thumbnail: bytes | None
    """JPEG, or None where the file cannot be read as a picture."""


@dataclass(frozen=True, kw_only=True)
class ContactSheet:
    """What one preparation did."""

    site: str
    prepared_at: datetime
    software_version: str
    num_photos: int
    num_usable: int
    num_patients: int
    left_out: Mapping[str, int]
    """Patients left out, by reason."""
    background: str
    """`u2netp` or `ellipse-only`."""
    settings: PreparationSettings
    settings_digest: str
    faces: Sequence[SheetFace]
    """All usable photos, or a sample drawn evenly."""
    quarantined: Sequence[SheetQuarantined]

    @property
    def reasons(self) -> list[tuple[QuarantineReason, int]]:
        """Number of quarantined photos by reason, the most frequent first."""
        return Counter(photo.reason for photo in self.quarantined).most_common()

    @property
    def pictured(self) -> list[SheetQuarantined]:
        """Quarantined photos shown with a picture, like reasons together."""
        return self._by_reason()[:MOST_PICTURED]

    @property
    def only_named(self) -> list[SheetQuarantined]:
        """The rest, if there are very many."""
        return self._by_reason()[MOST_PICTURED:]

    def _by_reason(self) -> list[SheetQuarantined]:
        order = [reason for reason, _ in self.reasons]
        return sorted(self.quarantined, key=lambda photo: order.index(photo.reason))


MOST_PICTURED = 200
"""With a thousand thumbnails a phone gives up."""


def write_contact_sheet(path: Path, sheet: ContactSheet) -> Path:
    """Write the page, readable by its owner only; returns its path."""
    write_atomic(path, render_contact_sheet(sheet).encode(), mode=0o600)
    return path


def render_contact_sheet(sheet: ContactSheet) -> str:
    """The page: one HTML file that needs no network."""
    return render("contact_sheet.html.j2", {"sheet": sheet, "data_uri": jpeg_data_uri})


def jpeg_data_uri(jpeg: bytes) -> str:
    """A JPEG as text for `src`."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
