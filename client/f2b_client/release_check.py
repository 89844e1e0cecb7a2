"""Whether a released model works here: its network, its tensors, this site's trunk. Loads torch; nothing leaves."""

from dataclasses import dataclass

from torch import nn

from f2b_client.settings import SiteFolder, weights_folder
from f2b_client.trunk import trunk_in
from face2bone_model.contract.errors import SignatureError
from face2bone_model.contract.release import ModelRelease
from face2bone_model.contract.update import signature_of
from face2bone_model.models.division import personal_tensors, shared_tensors
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import load_trainable


@dataclass(frozen=True)
class ReleaseCheck:
    """What was found to fit."""

    trunk: str
    """Name of this site's trunk, which is the one the study names."""
    scalars: int
    tensors_left_at_sites: tuple[str, ...]
    """Trained at each hospital and not in the release; they hold their starting values."""


def check_release(folder: SiteFolder, release: ModelRelease) -> ReleaseCheck:
    """Build the network, load the model, and compare it with the study and with this site's weights.

    Raises:
        WeightsError: the site does not have the trunk that the study names.
        SignatureError: this face2bone builds another network than the model is of.
    """
    trunk = trunk_in(weights_folder(folder), release.study.trunk_digest)
    network = load_model(release)
    signature = signature_of(shared_tensors(network, release.study), trunk.digest)
    if release.study.model_signature not in ("", signature.digest()):
        raise SignatureError(
            "The network that this face2bone builds is not the study's.",
            "Install the version that the release's software.json names.",
        )
    return ReleaseCheck(trunk.name, signature.size, tuple(sorted(personal_tensors(network, release.study))))


def load_model(release: ModelRelease) -> nn.Module:
    """The network of a verified release with its tensors; those that stayed at the hospitals as they began.

    Raises:
        SignatureError: the tensors are not those of the network.
    """
    network = build_model(release.study.model, seed=release.study.training.seed)
    load_trainable(network, {**personal_tensors(network, release.study), **release.tensors()})
    return network
