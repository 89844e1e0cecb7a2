"""Released models at a hospital: verified, installed under `models/`, listed. No torch."""

from dataclasses import dataclass
from pathlib import Path

from f2b_client.approval import approved_study
from f2b_client.receipts import read_receipts
from f2b_client.settings import SiteFolder, load_joined
from face2bone_model.contract.errors import ReleaseError, UsageError
from face2bone_model.contract.release import ModelRelease, verified_release
from face2bone_model.system.files import write_atomic

SUFFIX = ".zip"


@dataclass(frozen=True)
class Installed:
    """A file under `models/`, verified again when it is listed."""

    name: str
    path: Path
    release: ModelRelease | None
    fault: str
    """Why it is not used; empty where it is as it was installed."""


@dataclass(frozen=True)
class OwnShare:
    """This hospital's part in a release."""

    rounds: tuple[int, ...]
    """Rounds whose model holds an update that the centre says this hospital sent."""
    unknown: tuple[int, ...]
    """Those of them for which this hospital has no receipt of such a reply."""

    def words(self) -> str:
        """A sentence."""
        if not self.rounds:
            return "The centre names no update of this hospital in it."
        if self.unknown:
            listed = ", ".join(map(str, self.unknown))
            return f"It names updates of this hospital that have no receipt here, in rounds: {listed}. Ask the centre."
        return f"It holds {len(self.rounds)} updates of this hospital; each has its receipt here."


def models_folder(folder: SiteFolder) -> Path:
    """Where installed releases lie."""
    return folder.path / "models"


def verify_release(folder: SiteFolder, path: Path) -> ModelRelease:
    """Check a release against the CA that this site joined.

    Raises:
        ReleaseError: it is not the centre's, or was changed.
        EnrolmentError: this site has not joined a study.
    """
    return verified_release(path, load_joined(folder).ca)


def install_release(folder: SiteFolder, path: Path) -> tuple[Path, ModelRelease]:
    """Verify a release of a study this hospital approved, and keep it. Installing it again changes nothing.

    Raises:
        ReleaseError: it is not the centre's, or was changed.
        NotApprovedError: the hospital has not approved its study.
        EnrolmentError: this site has not joined a study.
    """
    release = verify_release(folder, path)
    approved_study(folder, release.manifest.study_hash)
    target = models_folder(folder) / f"{release.name}{SUFFIX}"
    kept = _look(folder, target).release if target.exists() else None
    if kept is None:
        write_atomic(target, release.archive)
    return target, kept or release


def installed_releases(folder: SiteFolder) -> tuple[Installed, ...]:
    """Everything under `models/`, verified again; one that does not hold is listed with its fault."""
    return tuple(_look(folder, path) for path in sorted(models_folder(folder).glob(f"*{SUFFIX}")))


def installed_release(folder: SiteFolder, name: str) -> ModelRelease:
    """An installed release by name, verified again.

    Raises:
        UsageError: none of that name is installed.
        ReleaseError: it was changed since.
    """
    paths = {path.stem: path for path in models_folder(folder).glob(f"*{SUFFIX}")}
    if name not in paths:
        known = ", ".join(sorted(paths)) or "none"
        raise UsageError(
            f"No model '{name}' is installed.", f"Installed: {known}. Use `f2b-client model install FILE`."
        )
    found = _look(folder, paths[name])
    if found.release is None:
        raise ReleaseError(found.fault, "Remove the file and install the release again.")
    return found.release


def own_share(folder: SiteFolder, release: ModelRelease) -> OwnShare:
    """Compare what the release says this hospital sent with the receipts of what left.

    Raises:
        EnrolmentError: this site has not joined a study.
        RecordsError: the receipts cannot be read.
    """
    site = load_joined(folder).site
    named = {one["round"]: one["sites"][site] for one in release.contributors if site in one["sites"]}
    left = {receipt.payload_digest for receipt in read_receipts(folder.receipts)}
    unknown = tuple(number for number, sent in named.items() if sent["reply_sha256"] not in left)
    return OwnShare(tuple(named), unknown)


def _look(folder: SiteFolder, path: Path) -> Installed:
    try:
        release = verify_release(folder, path)
    except ReleaseError as error:
        return Installed(path.stem, path, None, error.what)
    if release.name != path.stem:
        return Installed(path.stem, path, None, f"{path.name} holds another release: {release.name}.")
    return Installed(path.stem, path, release, "")
