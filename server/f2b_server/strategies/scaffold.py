"""SCAFFOLD: control variates that take out each site's own drift (Karimireddy et al. 2020, arXiv 1910.06378).

Option II of the paper, with the control variates kept at the centre: a site gets c - c_i with the request, adds it to
every gradient, and need not remember anything. The centre computes c_i from what it sees: the model sent, the model
returned, the number of local steps and their length. That is the paper's own formula; nothing more leaves a site.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from f2b_server.strategies.blocks import as_block, blocks_of, on_all_cores
from f2b_server.strategies.scratch import Scratch, block_or_zeros
from f2b_server.strategies.screened import Screened, screened
from f2b_server.strategies.strategy import SiteUpdate, State, Step, Vector
from f2b_server.strategies.survey import Part
from f2b_server.strategies.weights import shares, weighted_sum
from face2bone_model.contract.local_steps import local_steps
from face2bone_model.contract.study import Study
from face2bone_model.contract.update import ModelSignature

CONTROL = "control"
WEIGHT = "weight"


@dataclass(frozen=True, kw_only=True)
class Scaffold:
    """State: `control` (c), and for each site seen `control/SITE` (c_i) and `weight/SITE`, one number."""

    study: Study
    signature: ModelSignature
    scratch: Scratch

    def correction(self, site: str, state: State) -> Vector | None:
        """The control c - c_i, which a site adds to each gradient; None in the first round, when both are zero."""
        if CONTROL not in state:
            return None
        found: Vector = np.zeros(self.signature.size, np.float32)
        for block in blocks_of((slice(0, found.size),)):
            found[block] = block_or_zeros(state, CONTROL, block) - block_or_zeros(state, _of(site), block)
        return found

    def step(self, updates: Sequence[SiteUpdate], received: Vector, state: State) -> Step:
        """Next x' = x + η Σ p_i (y_i - x); then each c_i' = c_i - c + (x - y_i) / (K η_l), and c' their mean."""
        found = screened(updates, received, self.signature, self.study.strategy)
        controls = dict(state) | {
            _of(update.site): self.scratch.copy_of(state, _of(update.site)) for update in found.updates
        }
        for part in found.parts:
            self._renew_controls(part, received, state, controls)
        for update in found.updates:
            controls[f"{WEIGHT}/{update.site}"] = np.array([found.weights[update.site]], np.float32)
        self._renew_mean_control(controls)
        vector = self._model(found, received)
        return Step(vector=vector, state=controls, left_out=found.left_out, notes=found.notes)

    def _model(self, found: Screened, received: Vector) -> Vector:
        vector = np.array(received)
        for part in found.parts:
            self._move(part, shares(part, found.weights), vector)
        return vector

    def _move(self, part: Part, factors: NDArray[np.float64], vector: Vector) -> None:
        """Move a part of the vector towards the mean of its trainers, in place."""
        rate = self.study.strategy.server_learning_rate

        def move(block: slice) -> None:
            start = as_block(vector, block)
            vector[block] = start + rate * (weighted_sum(part, factors, block) - start)

        on_all_cores(move, blocks_of(part.spans))

    def _renew_controls(
        self, part: Part, received: Vector, before: State, controls: dict[str, Vector]
    ) -> None:
        """c_i' = c_i - c + (x - y_i) / (K η_l) for the tensors of one part, in place."""
        path_lengths = [self._path_length(update) for update in part.trainers]

        def renew(block: slice) -> None:
            start, mean = as_block(received, block), block_or_zeros(before, CONTROL, block)
            for update, path_length in zip(part.trainers, path_lengths, strict=True):
                own = controls[_of(update.site)]
                own[block] = own[block] - mean + (start - update.vector[block]) / path_length

        on_all_cores(renew, blocks_of(part.spans))

    def _path_length(self, update: SiteUpdate) -> float:
        """K η_l: how many local steps a site takes in a round, times their learning rate."""
        steps = local_steps(self.study, update.num_patients, private=update.noise_multiplier > 0)
        return steps.count * steps.learning_rate

    def _renew_mean_control(self, controls: dict[str, Vector]) -> None:
        """Set c = Σ w_i c_i / Σ w_i over all sites of the study; an unseen one counts with c_i = 0 and a mean weight.

        With equal weights this is the paper's c' = c + (1/N) Σ (c_i' - c_i). Computed afresh each round, it
        stays the mean of the c_i when weights or participants change.
        """
        sites = sorted(name.removeprefix(f"{WEIGHT}/") for name in controls if name.startswith(f"{WEIGHT}/"))
        weights = [float(controls[f"{WEIGHT}/{site}"][0]) for site in sites]
        if not sites:
            return
        total = sum(weights) * max(1.0, len(self.study.sites) / len(sites))
        mean = self.scratch.zeros()

        def renew(block: slice) -> None:
            found = np.zeros(block.stop - block.start)
            for site, weight in zip(sites, weights, strict=True):
                found += as_block(controls[_of(site)], block) * (weight / total)
            mean[block] = found

        on_all_cores(renew, blocks_of((slice(0, mean.size),)))
        controls[CONTROL] = mean


def _of(site: str) -> str:
    return f"{CONTROL}/{site}"
