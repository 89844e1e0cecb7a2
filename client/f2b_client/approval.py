"""The hospital approves a study by its hash. Requests of any other study are refused."""

from dataclasses import dataclass
from pathlib import Path

from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import NotApprovedError, ProtocolError
from face2bone_model.contract.keys import PROTOCOL_VERSION
from face2bone_model.contract.policy import Policy
from face2bone_model.contract.study import Study, load_study
from face2bone_model.report.study_words import against_policy, differences, plain_words
from face2bone_model.system.files import write_atomic


@dataclass(frozen=True)
class Approval:
    """What was approved."""

    study: Study
    study_hash: str
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    """Where the study asks for more than policy.toml permits."""
    changes: tuple[str, ...]
    """What differs from the version of this study that was approved last; empty where there was none."""


def approve(folder: SiteFolder, study_path: Path, policy: Policy) -> Approval:
    """Record that this hospital takes part in the study, exactly as written.

    Raises:
        SettingsError: the file is not a study.
        ProtocolError: the study needs another version of face2bone.
    """
    study = load_study(study_path)
    if study.protocol != PROTOCOL_VERSION:
        raise ProtocolError(
            f"{study_path} speaks protocol {study.protocol}, this client {PROTOCOL_VERSION}.",
            "Install the face2bone version the study names.",
        )
    before = _approved_before(folder, study)
    approval = Approval(
        study,
        study.hash(),
        plain_words(study, policy),
        against_policy(study, policy),
        differences(before, study) if before else (),
    )
    write_atomic(folder.approved / f"{approval.study_hash}.toml", study_path.read_bytes())
    return approval


def _approved_before(folder: SiteFolder, study: Study) -> Study | None:
    """The version of the same study that was approved last."""
    paths = sorted(folder.approved.glob("*.toml"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    versions = (load_study(path) for path in paths)
    return next((one for one in versions if one.name == study.name and one != study), None)


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
