"""What the preparation left as a small JSON file, read without its module, which would import torch.

`cache/preparation.json` is written by `f2b_client.prepare`; the tests write it with that module and read it here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from f2b_client.settings import SiteFolder


@dataclass(frozen=True, kw_only=True)
class PreparedPhotos:
    """Counts of the last preparation."""

    photos: int
    usable: int
    patients: int
    """With a label and at least one usable photo."""
    quarantined: Mapping[str, int]
    """Photos by reason."""
    left_out: Mapping[str, int]
    """Patients by reason."""
    background: str


def prepared_photos(folder: SiteFolder) -> PreparedPhotos | None:
    """The last preparation; None before the first, or where its file is being replaced."""
    record = _read(folder.cache / "preparation.json")
    return PreparedPhotos(**_known(PreparedPhotos, record)) if isinstance(record, dict) else None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _known(kind: type[PreparedPhotos], record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields shown here; the files hold more."""
    return {field.name: record[field.name] for field in fields(kind)}
