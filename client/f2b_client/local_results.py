"""What the site keeps of its own training and evaluation for its own report. Unsuppressed: it never leaves."""

import json
from dataclasses import dataclass

from f2b_client.settings import SiteFolder
from face2bone_model.contract.payload import decode, encode
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import Study
from face2bone_model.system.files import write_atomic, write_json
from face2bone_model.training.train import TrainResult


@dataclass(frozen=True, kw_only=True)
class LocalRound:
    """One round of training as the site saw it."""

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
    folder: SiteFolder, number: int, result: TrainResult, *, seconds: float, epsilon_after: float
) -> None:
    """Remember how a round went; a repeated round replaces itself."""
    rounds = {one.round: one for one in load_rounds(folder)}
    rounds[number] = LocalRound(
        round=number,
        train_loss=result.train_loss,
        epochs=result.epochs,
        num_patients=result.num_patients,
        seconds=round(seconds, 1),
        epsilon_after=epsilon_after,
    )
    write_json(folder.state / "rounds.json", [vars(rounds[key]) for key in sorted(rounds)])


def load_rounds(folder: SiteFolder) -> tuple[LocalRound, ...]:
    """Rounds so far, in order."""
    path = folder.state / "rounds.json"
    if not path.exists():
        return ()
    return tuple(LocalRound(**one) for one in json.loads(path.read_text(encoding="utf-8")))


def keep_evaluation(folder: SiteFolder, study: Study, number: int, statistics: SiteStatistics) -> None:
    """Remember the evaluation of the global model here."""
    payload = encode(statistics.tables, {"study_hash": study.hash(), "round": number})
    write_atomic(folder.state / "evaluation.safetensors", payload, mode=0o600)


def load_evaluation(folder: SiteFolder) -> LocalEvaluation | None:
    """The last evaluation; None before the first."""
    path = folder.state / "evaluation.safetensors"
    if not path.exists():
        return None
    tables, header = decode(path.read_bytes())
    return LocalEvaluation(str(header["study_hash"]), int(header["round"]), SiteStatistics(tables=tables))
