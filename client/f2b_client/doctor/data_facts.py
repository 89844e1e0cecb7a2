"""What the data checks look at: settings, export, photos and preparation of one site, each read once a run."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from f2b_client.doctor.finding import Finding, Verdict
from f2b_client.prepare import PreparedSite, load_prepared
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import CohortError, Face2BoneError, InputError
from face2bone_model.data.cohort import photo_name
from face2bone_model.data.features import read_current
from face2bone_model.data.manifest import Manifest, read_manifest
from face2bone_model.data.photo_files import find_photos
from face2bone_model.data.site_settings import SiteData, read_site_data

Read = TypeVar("Read")

FIRST = 3
"""Places named in a finding; `f2b-client prepare --json` has all of them."""

SYSTEMATIC = 0.2
"""From this share on, a fault is one of the export or its settings and not of single rows: it must be mended."""


@dataclass(frozen=True, kw_only=True)
class SiteFacts:
    """One site as it is now. None stands where a part cannot be read; its error says why."""

    folder: SiteFolder
    settings: SiteData
    manifest: Manifest | None
    prepared: PreparedSite | None
    errors: tuple[Face2BoneError, ...]
    """Why there is no manifest or no preparation."""
    photos: Mapping[str, tuple[Path, ...]]
    """Every photo whose name tells the patient."""
    today: date

    @property
    def export(self) -> Path:
        """The DXA export, a file or a folder."""
        return self.folder.path / self.settings.dxa.file

    @property
    def export_name(self) -> str:
        """The export as messages call it."""
        return self.settings.dxa.file

    def name_of(self, photo: Path) -> str:
        """A photo's path below the site folder."""
        return photo_name(photo, self.folder.path)

    def cached_photos(self) -> dict[int, str]:
        """The photo behind each row of the cache in use."""
        return {row: photo for photo, row in read_current(self.folder.cache)[1].items()}

    def quarantined(self) -> list[dict[str, Any]]:
        """The records of `quarantine/`: photo, patient, reason, what and mend."""
        return read_quarantine(self.folder)


ExportRule = Callable[[SiteFacts, Manifest], Iterable[Finding]]
"""One thing that is looked for in an export that can be read."""
PhotoRule = Callable[[SiteFacts], Iterable[Finding]]
"""One thing that is looked for in the photos as they lie in their folder."""
FaceRule = Callable[[SiteFacts, PreparedSite], Iterable[Finding]]
"""One thing that is looked for in prepared faces."""


def read_facts(folder: SiteFolder, *, today: date | None = None) -> SiteFacts:
    """Read everything there is.

    Args:
        folder: the site.
        today: what counts as today; the machine's date if None.

    Raises:
        SettingsError: `site.toml` cannot be used, so that nothing else can be read.
    """
    folder = SiteFolder(folder.path.resolve())
    settings = read_site_data(folder.path)
    prepared, first = _attempt(lambda: load_prepared(folder))
    manifest, second = (prepared.manifest, None) if prepared else _attempt(lambda: read_manifest(folder.path))
    return SiteFacts(
        folder=folder,
        settings=settings,
        manifest=manifest,
        prepared=prepared,
        errors=_unlike(first, second),
        photos=_photos(folder, settings),
        today=today or date.today(),
    )


def read_quarantine(folder: SiteFolder) -> list[dict[str, Any]]:
    """What the last preparation put aside; a record that cannot be read is passed over."""
    records = []
    for path in sorted((folder.path / "quarantine").glob("*.json")):
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and {"photo", "reason"} <= record.keys():
            records.append(record)
    return records


def _attempt(read: Callable[[], Read]) -> tuple[Read | None, Face2BoneError | None]:
    """What is read, or why it cannot be."""
    try:
        return read(), None
    except Face2BoneError as error:
        return None, error
    except OSError as error:
        return None, InputError(
            f"{error.filename} cannot be read: {error.strerror}.", "Check its permissions."
        )
    except (KeyError, TypeError, ValueError) as error:
        what = f"The record of the last preparation is damaged ({error})."
        return None, CohortError(what, "Run `f2b-client prepare` again.")


def _unlike(*errors: Face2BoneError | None) -> tuple[Face2BoneError, ...]:
    """The errors there are, the same sentence once."""
    return tuple({str(error): error for error in errors if error is not None}.values())


def _photos(folder: SiteFolder, settings: SiteData) -> Mapping[str, tuple[Path, ...]]:
    try:
        return find_photos(folder.path, settings.photos, [])
    except (InputError, OSError):  # the manifest says the same with its sentence
        return {}


def known_patients(manifest: Manifest) -> int:
    """Patients of the export, in the cohort or not."""
    return manifest.flow[0][1] if manifest.flow else 0


def places(where: Sequence[str]) -> str:
    """The first places, each once, and how many more there are."""
    where = list(dict.fromkeys(where))
    shown = ", ".join(where[:FIRST])
    return f"{shown} and {len(where) - FIRST} more" if len(where) > FIRST else shown


def by_share(count: int, of: int) -> Verdict:
    """A warning, or a failure where it is systematic."""
    return Verdict.FAIL if of and count >= SYSTEMATIC * of else Verdict.WARN


def patients(count: int) -> str:
    """``1 patient``, ``12 patients``."""
    return f"{count} patient" if count == 1 else f"{count} patients"


def photos(count: int) -> str:
    """``1 photo``, ``12 photos``."""
    return f"{count} photo" if count == 1 else f"{count} photos"
