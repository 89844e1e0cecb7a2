"""What the site keeps of its own training and evaluation for its own report. Unsuppressed: it never leaves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from f2b_client.settings import SiteFolder
from face2bone_model.contract.payload import decode, encode
from face2bone_model.contract.request import Request
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.system.files import write_atomic, write_json

if TYPE_CHECKING:
    from face2bone_model.training.train import TrainResult  # loads torch, which the pages do without


@dataclass(frozen=True, kw_only=True)
class LocalRound:
    """One round of training as the site saw it."""

    study_hash: str
    round: int
    train_loss: float
    """0 where training was private."""
    epochs: int
    num_patients: int
    seconds: float
    epsilon_after: float
    """Spent in all once the round was released; 0 without differential privacy."""


@dataclass(frozen=True)
class LocalEvaluation:
    """The global model on this site's held-out patients."""

    study_hash: str
    round: int
    statistics: SiteStatistics


def keep_round(
    folder: SiteFolder, request: Request, result: "TrainResult", *, seconds: float, epsilon_after: float
) -> None:
    """Remember how a round went; a repeated round replaces itself."""
    rounds = {(one.study_hash, one.round): one for one in _all_rounds(folder)}
    key = (request.study_hash, request.round)
    rounds.pop(key, None)  # so that the newest is last
    rounds[key] = LocalRound(
        study_hash=request.study_hash,
        round=request.round,
        train_loss=result.train_loss,
        epochs=result.epochs,
        num_patients=result.num_patients,
        seconds=round(seconds, 1),
        epsilon_after=epsilon_after,
    )
    write_json(folder.state / "rounds.json", [vars(one) for one in rounds.values()])


def load_rounds(folder: SiteFolder, study_hash: str | None = None) -> tuple[LocalRound, ...]:
    """Rounds of a study so far, in order; of the study trained last if none is named."""
    rounds = _all_rounds(folder)
    if study_hash is None and rounds:
        study_hash = rounds[-1].study_hash
    return tuple(sorted((one for one in rounds if one.study_hash == study_hash), key=lambda one: one.round))


def _all_rounds(folder: SiteFolder) -> list[LocalRound]:
    path = folder.state / "rounds.json"
    if not path.exists():
        return []
    return [LocalRound(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def keep_evaluation(folder: SiteFolder, request: Request, statistics: SiteStatistics) -> None:
    """Remember the evaluation of a global model here, one for each study."""
    payload = encode(statistics.tables, {"study_hash": request.study_hash, "round": request.round})
    write_atomic(_evaluation_file(folder, request.study_hash), payload, mode=0o600)


def load_evaluation(folder: SiteFolder) -> LocalEvaluation | None:
    """The evaluation made last; None before the first."""
    paths = list(folder.state.glob("evaluation-*.safetensors"))
    if not paths:
        return None
    tables, header = decode(max(paths, key=lambda path: path.stat().st_mtime_ns).read_bytes())
    return LocalEvaluation(str(header["study_hash"]), int(header["round"]), SiteStatistics(tables=tables))


def _evaluation_file(folder: SiteFolder, study_hash: str) -> Path:
    return folder.state / f"evaluation-{study_hash[:16]}.safetensors"
