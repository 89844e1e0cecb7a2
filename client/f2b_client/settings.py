"""A hospital's own settings: where things lie in its folder, and what its policy permits."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from face2bone_model.contract.errors import EnrolmentError, SettingsError
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
class PrivacyPolicy:
    """`[privacy]` of policy.toml."""

    require_dp: bool = False
    """Train with differential privacy even where the study leaves it open."""
    epsilon_limit: float = 8.0
    """Most that all studies together may spend of one cohort's budget."""
    delta_limit: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class ReleasePolicy:
    """`[release]` of policy.toml."""

    min_cell: int = 11
    """Tables with a cell of 1 to min_cell - 1 patients stay; the stricter of study and policy holds."""
    max_bytes_per_reply: int = 20_000_000
    max_rounds: int = 200
    max_models_per_round: int = 1
    """Different models for which one question of a round is answered. An honest centre has one; two models that differ
    by a little show, in the difference of their sums, whom they set apart."""
    max_test_models: int = 1
    """Different models evaluated on the held-out patients in one study."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`policy.toml`."""

    privacy: PrivacyPolicy = field(default_factory=PrivacyPolicy)
    release: ReleasePolicy = field(default_factory=ReleasePolicy)


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
