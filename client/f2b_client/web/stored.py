"""What preparation and training left as small JSON files, read without their modules, which would import torch.

`cache/preparation.json` and `state/rounds.json` are written by `f2b_client.prepare` and `f2b_client.local_results`;
the tests write them with those modules and read them here.
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


@dataclass(frozen=True, kw_only=True)
class TrainedRound:
    """One round of training as the site saw it."""

    study_hash: str
    round: int
    train_loss: float
    epochs: int
    """0 for a private round, which counts noisy steps."""
    num_patients: int
    seconds: float
    epsilon_after: float


def prepared_photos(folder: SiteFolder) -> PreparedPhotos | None:
    """The last preparation; None before the first, or where its file is being replaced."""
    record = _read(folder.cache / "preparation.json")
    return PreparedPhotos(**_known(PreparedPhotos, record)) if isinstance(record, dict) else None


def trained_rounds(folder: SiteFolder, study_hash: str) -> tuple[TrainedRound, ...]:
    """Rounds of a study so far, in order."""
    records = _read(folder.state / "rounds.json")
    rounds = [TrainedRound(**_known(TrainedRound, one)) for one in records or ()]
    return tuple(sorted((one for one in rounds if one.study_hash == study_hash), key=lambda one: one.round))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _known(kind: type[PreparedPhotos | TrainedRound], record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields shown here; the files hold more."""
    return {field.name: record[field.name] for field in fields(kind)}
