"""A hospital's own settings: where things lie in its folder, and what its policy permits."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from face2bone_model.contract.errors import EnrolmentError, SettingsError
from face2bone_model.contract.policy import Policy
from face2bone_model.contract.settings_table import read_settings
from face2bone_model.contract.study import read_toml

MOST_WORKERS = 8


@dataclass(frozen=True)
class SiteFolder:
    """The hospital's folder. Everything of the client lives in it; `keys/` and faces never leave it."""

    path: Path

    @property
    def settings(self) -> Path:
        """Where photos and DXA lie, and how to read them."""
        return self.path / "site.toml"

    @property
    def policy(self) -> Path:
        """What this hospital permits."""
        return self.path / "policy.toml"

    @property
    def keys(self) -> Path:
        """Private keys, readable by their owner only."""
        return self.path / "keys"

    @property
    def joined(self) -> Path:
        """What the coordinating centre's kit brought: address, CA, study."""
        return self.path / "joined"

    @property
    def approved(self) -> Path:
        """Studies this hospital approved, by hash."""
        return self.path / "approved"

    @property
    def cache(self) -> Path:
        """Prepared faces and trunk features."""
        return self.path / "cache"

    @property
    def replies(self) -> Path:
        """Every reply, stored before it was sent."""
        return self.path / "replies"

    @property
    def personal(self) -> Path:
        """Tensors a study trains for this hospital alone; they never leave it."""
        return self.path / "personal"

    @property
    def receipts(self) -> Path:
        """Signed receipts of everything that left."""
        return self.path / "receipts.db"

    @property
    def ledger(self) -> Path:
        """What was spent of the privacy budget."""
        return self.path / "ledger.db"

    @property
    def reports(self) -> Path:
        """The hospital's own pages."""
        return self.path / "reports"

    @property
    def requests(self) -> Path:
        """What was asked of this site."""
        return self.path / "requests.jsonl"

    @property
    def state(self) -> Path:
        """What the client is doing now, for `status` and for people."""
        return self.path / "state"

    @property
    def log(self) -> Path:
        """Logs of the client's processes."""
        return self.path / "log"


@dataclass(frozen=True, kw_only=True)
class WeightsSettings:
    """`[weights]` of site.toml."""

    folder: str = ""
    """Where pretrained weights lie, relative to the site folder; empty: $F2B_WEIGHTS, else `weights`."""


@dataclass(frozen=True, kw_only=True)
class ComputeSettings:
    """`[compute]` of site.toml."""

    device: str = "auto"
    threads: int = 1
    """Threads of the training process. With several sites on one machine, 1 is fastest."""
    workers: int = 0
    """Photos prepared at once; 0: as many as this process may use processors, at most 8."""

    @property
    def preparing(self) -> int:
        """Photos prepared at once."""
        return self.workers if self.workers > 0 else min(MOST_WORKERS, len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Joined:
    """What the kit brought."""

    site: str
    study: str
    address: str
    ca: Path


def load_policy(folder: SiteFolder) -> Policy:
    """Read the site's `policy.toml`.

    Raises:
        SettingsError: it is missing or has an unknown key or a value of the wrong type.
    """
    return read_policy(folder.policy)


def read_policy(path: Path) -> Policy:
    """Read a policy, such as one that is not in force yet.

    Raises:
        SettingsError: see `load_policy`.
    """
    return read_settings(Policy, read_toml(path), path.name)


def load_weights_settings(folder: SiteFolder) -> WeightsSettings:
    """Read `[weights]` of `site.toml`."""
    return read_settings(
        WeightsSettings, read_toml(folder.settings).get("weights", {}), "site.toml [weights]"
    )


def default_weights_folder() -> Path:
    """Where commands keep weights unless told otherwise: $F2B_WEIGHTS, or `weights` here."""
    return Path(os.environ.get("F2B_WEIGHTS", "weights"))


def weights_folder(folder: SiteFolder) -> Path:
    """The site's weights folder: `[weights] folder` of site.toml, else $F2B_WEIGHTS, else `weights` in its folder."""
    named = load_weights_settings(folder).folder
    if named:
        return folder.path / named
    return Path(os.environ.get("F2B_WEIGHTS", str(folder.path / "weights")))


def load_compute_settings(folder: SiteFolder) -> ComputeSettings:
    """Read `[compute]` of `site.toml`."""
    return read_settings(
        ComputeSettings, read_toml(folder.settings).get("compute", {}), "site.toml [compute]"
    )


def load_joined(folder: SiteFolder) -> Joined:
    """Read what `join` unpacked.

    Raises:
        EnrolmentError: this site has not joined a study.
    """
    path = folder.joined / "kit.json"
    if not path.exists():
        raise EnrolmentError(f"{folder.path} has not joined a study.", "Run `f2b-client join KIT` first.")
    try:
        kit = json.loads(path.read_text(encoding="utf-8"))
        return Joined(kit["site"], kit["study"], kit["address"], folder.joined / "ca.pem")
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path} is damaged.", "Run `f2b-client join KIT` again.") from error
