"""The study's model at this site: what travels comes with each request, what is personal lies in the site's folder."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from f2b_client.personal import BEGINNING, PersonalRounds
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import RequestError
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.request import Request
from face2bone_model.contract.study import Study
from face2bone_model.contract.update import ModelSignature, signature_of, unpack
from face2bone_model.models.division import (
    check_division,
    check_private_division,
    personal_tensors,
    shared_tensors,
)
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import load_trainable, trainable_tensors

Tensors = dict[str, NDArray[np.float32]]


class SiteModel:
    """One network, built once for all rounds. A study without personal layers keeps nothing here."""

    def __init__(self, study: Study, folder: SiteFolder, trunk_digest: str) -> None:
        self._study = study
        self._trunk_digest = trunk_digest
        self._rounds = PersonalRounds(folder, study.hash()) if study.strategy.personal else None
        self._began_with = BEGINNING

    @cached_property
    def network(self) -> nn.Module:
        """The network, at first with the weights the study's seed gives.

        Raises:
            SettingsError: the study cannot be divided as it says.
        """
        network = self._initial()
        check_division(network, self._study)
        return network

    @cached_property
    def signature(self) -> ModelSignature:
        """Names and shapes of what this site would send, and its trunk."""
        return signature_of(self.shared(), self._trunk_digest)

    def shared(self) -> Tensors:
        """Copies of the tensors that travel, as they are now."""
        return shared_tensors(self.network, self._study)

    def load(self, request: Request) -> None:
        """Put in the request's tensors, and this site's own as they were before that round or, to evaluate, after it.

        Raises:
            RequestError: there is no model in the request, or the site's own tensors of that round are kept no more.
            RecordsError: the site's own tensors are damaged.
        """
        if request.vector is None:
            raise RequestError("The request carries no model.")
        own = self._own(request.round + (request.phase is Phase.EVALUATE))
        load_trainable(self.network, {**unpack(request.vector, self.signature), **own})

    def correction(self, request: Request) -> Tensors | None:
        """SCAFFOLD's correction by tensor; None where the request carries none."""
        return None if request.correction is None else unpack(request.correction, self.signature)

    def check_private(self) -> None:
        """Refuse private training of tensors that all stay here: it would cost budget and teach nobody.

        Raises:
            SettingsError: see above.
        """
        check_private_division(trainable_tensors(self.network), self._study)

    def keep_own(self, request: Request) -> None:
        """Store what a round made of the site's own tensors, durable on return, before the reply may leave."""
        if self._rounds is not None:
            own = personal_tensors(self.network, self._study)
            self._rounds.put(request, self._began_with, own)

    def left(self, request: Request) -> None:
        """The reply left: a round's own tensors count from now on; once a round was chosen, older ones go."""
        if self._rounds is None:
            return
        if request.phase is Phase.TRAIN:
            self._rounds.count(request.round)
        elif request.split is Split.TEST:
            self._rounds.forget_before(self._began_with)

    def _own(self, next_round: int) -> Tensors:
        if self._rounds is None:
            return {}
        self._began_with = self._rounds.before(next_round)
        if self._began_with == BEGINNING:
            return personal_tensors(self._initial(), self._study)
        return self._rounds.read(self._began_with)

    def _initial(self) -> nn.Module:
        return build_model(self._study.model, seed=self._study.training.seed)
