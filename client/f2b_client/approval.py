"""The hospital approves a study by its hash. Requests of any other study are refused."""

from dataclasses import dataclass
from pathlib import Path

from f2b_client.settings import Policy, SiteFolder
from face2bone_model.contract.errors import NotApprovedError
from face2bone_model.contract.study import Study, load_study
from face2bone_model.system.files import write_atomic


@dataclass(frozen=True)
class Approval:
    """What was approved."""

    study: Study
    study_hash: str
    sentences: tuple[str, ...]


def approve(folder: SiteFolder, study_path: Path, policy: Policy) -> Approval:
    """Record that this hospital takes part in the study, exactly as written."""
    study = load_study(study_path)
    approval = Approval(study, study.hash(), plain_words(study, policy))
    write_atomic(folder.approved / f"{approval.study_hash}.toml", study_path.read_bytes())
    return approval


def revoke(folder: SiteFolder, study_hash: str) -> None:
    """Take an approval back: the next request is refused.

    Raises:
        NotApprovedError: there is no such approval.
    """
    _find(folder, study_hash).unlink()


def approved_study(folder: SiteFolder, study_hash: str) -> Study:
    """The study as this hospital approved it.

    Raises:
        NotApprovedError: no study of that hash was approved, or its file was changed since.
    """
    path = _find(folder, study_hash)
    study = load_study(path)
    if study.hash() != study_hash:
        raise NotApprovedError(f"{path} was changed after it was approved.", "Approve the study again.")
    return study


def approved_studies(folder: SiteFolder) -> tuple[Study, ...]:
    """Every study this hospital approved."""
    return tuple(load_study(path) for path in sorted(folder.approved.glob("*.toml")))


def _find(folder: SiteFolder, study_hash: str) -> Path:
    path = folder.approved / f"{study_hash}.toml"
    if len(study_hash) != 64 or not study_hash.isalnum() or not path.exists():  # noqa: PLR2004  # SHA-256
        raise NotApprovedError(
            f"This hospital has not approved a study with the hash {study_hash[:12]}….",
            "Read it and run `f2b-client approve study.toml`.",
        )
    return path


def plain_words(study: Study, policy: Policy) -> tuple[str, ...]:
    """What will be computed, what will leave, how often, and at what cost, in sentences a person can check."""
    training, evaluation = study.training, study.evaluation
    private = study.privacy.required or policy.privacy.require_dp
    return (
        f"Study '{study.name}': {study.question}",
        f"Hospitals invited: {', '.join(study.sites)}.",
        f"Your photos pass a frozen network here, once. A small network ({study.model.head.upper()} head, "
        f"inputs: {study.model.inputs}) is trained here in up to {training.rounds} rounds of "
        f"{training.local_epochs} passes over your training patients.",
        "What leaves, and nothing else: once, counts of patients by split, class, sex and age band; each round, "
        "the small network's numbers with counts and score sums of your validation patients; at the end, counts "
        "and score sums of your held-out patients.",
        f"Tables with a cell of 1 to {max(evaluation.min_cell, policy.release.min_cell) - 1} patients stay here.",
        _privacy_sentence(study, policy) if private else _no_privacy_sentence(),
        "No face, embedding, score of a patient, file name or error text leaves.",
    )


def _privacy_sentence(study: Study, policy: Policy) -> str:
    limit = min(study.privacy.epsilon, policy.privacy.epsilon_limit)
    delta = min(study.privacy.delta, policy.privacy.delta_limit)
    return (
        f"Training is differentially private per patient: at most epsilon {limit:g} at delta "
        f"{delta:g} for the trained numbers. Counts and sums are protected by the minimum cell, "
        "not by epsilon."
    )


def _no_privacy_sentence() -> str:
    return (
        "Training is NOT differentially private: a determined coordinator could learn something about single "
        "training patients. Set require_dp = true in policy.toml to change this."
    )
