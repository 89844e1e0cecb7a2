"""Which trained tensors of a study's model travel, and which each site keeps for itself.

Personal layers as in FedPer (Arivazhagan et al. 2019, arXiv 1912.00818): tensors whose name fits a pattern of
`[strategy] personal` are trained at every site and never leave it; the others are averaged.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray
from torch import nn

from face2bone_model.contract.errors import SettingsError
from face2bone_model.contract.study import Study
from face2bone_model.models.parameters import trainable_tensors

HEAD = "head."
"""How the names of the head's tensors begin."""


def shared_tensors(model: nn.Module, study: Study) -> dict[str, NDArray[np.float32]]:
    """Copies of the tensors that travel, by name."""
    tensors = trainable_tensors(model).items()
    return {name: tensor for name, tensor in tensors if not study.is_personal(name)}


def personal_tensors(model: nn.Module, study: Study) -> dict[str, NDArray[np.float32]]:
    """Copies of the tensors that stay, by name."""
    return {name: tensor for name, tensor in trainable_tensors(model).items() if study.is_personal(name)}


def check_division(model: nn.Module, study: Study) -> None:
    """Refuse patterns that name nothing, or that leave nothing to be trained together.

    Raises:
        SettingsError: see above.
    """
    if not study.strategy.personal:
        return
    names = list(trainable_tensors(model))
    for pattern in study.strategy.personal:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = sorted({f"{name.partition('.')[0]}.*" for name in names})
            raise SettingsError(
                f"[strategy] personal: no trained tensor is named '{pattern}'.",
                f"The parts of this model are {', '.join(parts)}.",
            )
    if all(study.is_personal(name) for name in names):
        raise SettingsError(
            "[strategy] personal names every trained tensor: nothing would be trained together.",
            "Leave a part of the model out of it.",
        )
    if study.privacy.required:
        check_private_division(names, study)


def check_private_division(names: Iterable[str], study: Study) -> None:
    """Refuse private training of the head alone where the head stays: updates would leave as the model came.

    Args:
        names: of all trained tensors.
        study: whose division.

    Raises:
        SettingsError: see above.
    """
    head = [name for name in names if name.startswith(HEAD)]
    if study.privacy.trains == "head" and head and all(study.is_personal(name) for name in head):
        raise SettingsError(
            "[privacy] trains only the head, and [strategy] personal keeps the head at each site: nothing that is "
            "trained would travel, and every round would cost privacy.",
            'Write trains = "all" in [privacy], or make other parts personal.',
        )
