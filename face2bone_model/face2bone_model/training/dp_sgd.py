"""Differentially private gradient descent, one record a patient.

Each step: every patient is drawn with the same probability (Poisson sampling), one photo of each is chosen, its
gradient is clipped to `max_grad_norm`, Gaussian noise is added to the sum, and the noisy sum is divided by a public
constant (Abadi et al. 2016, arXiv 1607.00133). A patient's photos share one place in the draw, so a second photo buys
no second contribution.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from face2bone_model.contract.errors import SettingsError
from face2bone_model.data.cohort import Cohort
from face2bone_model.models.parameters import check_private
from face2bone_model.training.batches import Batch, choose_photos, load_batch
from face2bone_model.training.loss import PatientLoss
from face2bone_model.training.noise import secure_normal, secure_uniform
from face2bone_model.training.patient_gradients import Gradients, Recorder, norms, recorded
from face2bone_model.training.privacy import DpPlan
from face2bone_model.training.steering import PLAIN, Pull, Steering

_SMALLEST_NORM = 1e-6
_MOST_NUMBERS = 2**26
"""Of single patients' gradients held at once: 256 MB."""


def descend_privately(
    model: nn.Module,
    cohort: Cohort,
    plan: DpPlan,
    criterion: PatientLoss,
    on_step: Callable[[int, float], None],
    steering: Steering = PLAIN,
) -> None:
    """Take `plan.steps_per_round` noisy steps from the model's weights, in place.

    Plain gradient descent: adaptive methods divide by estimates that here are mostly noise.

    Args:
        model: on its device, in training mode; leaves as it came but for its weights.
        cohort: the training patients.
        plan: noise, sampling, clipping and step size.
        criterion: losses of single patients, without class weights.
        on_step: called with the step (from 1) and the mean loss of the patients drawn. The accounting does not cover
            that loss: it stays at the site.
        steering: what the study's strategy adds to the noisy mean gradient.

    Raises:
        SettingsError: the trunk is trained too, the model has no head to train alone, a layer mixes patients or
            keeps statistics of them, or classes are weighted.
    """
    check_private(model)
    _refuse_class_weights(criterion)
    trained = _trained(model, plan.trains)
    pull = Pull(steering, trained)
    weights = sum(tensor.numel() for tensor in trained.values())
    at_once = max(1, min(plan.physical_batch_size, _MOST_NUMBERS // weights))
    with recorded(model, frozenset(trained)) as recorder:
        for step in range(1, plan.steps_per_round + 1):
            drawn = draw_patients(cohort.num_patients, plan.sample_rate)
            total = _ClippedSum({name: torch.zeros_like(tensor) for name, tensor in trained.items()})
            for batch in _portions(cohort, model, drawn, at_once):
                total.add(model, batch, criterion, recorder, plan.max_grad_norm)
            take_noisy_step(trained, total.sums, plan, pull)
            on_step(step, total.loss / max(1, len(drawn)))


def draw_patients(num_patients: int, sample_rate: float) -> NDArray[np.int64]:
    """Indices of the patients of one step: each takes part with probability `sample_rate`, independently."""
    return np.flatnonzero(secure_uniform(num_patients) < sample_rate).astype(np.int64)


def clipped_sum(gradients: Gradients, max_grad_norm: float) -> dict[str, Tensor]:
    """Sum over patients of gradients no longer than `max_grad_norm`, by parameter.

    A patient whose gradient is not a number is left out: it would undo everyone's noise, and the failed round would
    tell that the patient is there.
    """
    lengths = norms(gradients)
    factors = (max_grad_norm / (lengths + _SMALLEST_NORM)).clamp(max=1.0)
    usable = lengths.isfinite()
    if not bool(usable.all()):
        gradients = {name: gradient.take(usable) for name, gradient in gradients.items()}
        factors = factors[usable]
    return {name: gradient.weighted_sum(factors) for name, gradient in gradients.items()}


def take_noisy_step(trained: dict[str, Tensor], sums: dict[str, Tensor], plan: DpPlan, pull: Pull) -> None:
    """Add noise to each tensor's clipped sum, whether anybody was drawn or not, and step, in place.

    The strategy's pull is added after the noise. It follows from the model received, the centre's correction and
    weights that carry all noise so far, never from a patient beside these: it is post-processing and costs nothing.
    Tensors that stay at the site get the same noise: next round's shared tensors are trained on top of them.
    """
    deviation = plan.noise_multiplier * plan.max_grad_norm
    sizes = [tensor.numel() for tensor in trained.values()]
    noise = torch.from_numpy(deviation * secure_normal(sum(sizes)))
    for (name, tensor), part in zip(trained.items(), torch.split(noise, sizes), strict=True):
        noisy = sums[name] + part.view_as(tensor).to(tensor)
        extra = pull.of(name, tensor)
        tensor.sub_(noisy, alpha=plan.learning_rate / plan.expected_batch_size)
        if extra is not None:
            tensor.sub_(extra, alpha=plan.learning_rate)


@dataclass
class _ClippedSum:
    """What one draw of patients adds up to, portion by portion."""

    sums: dict[str, Tensor]
    loss: float = 0.0

    def add(
        self, model: nn.Module, batch: Batch, criterion: PatientLoss, recorder: Recorder, max_grad_norm: float
    ) -> None:
        losses = criterion(model(batch.inputs, batch.clinical), batch.labels)
        for name, gradient in clipped_sum(recorder.gradients(losses), max_grad_norm).items():
            self.sums[name] += gradient
        self.loss += float(losses.detach().sum())


def _portions(cohort: Cohort, model: nn.Module, drawn: NDArray[np.int64], at_once: int) -> Iterator[Batch]:
    """One photo of each patient drawn, in portions that fit into memory; none for a draw of nobody."""
    choice = choose_photos(cohort, drawn, secure_uniform(len(drawn)))
    count = math.ceil(len(drawn) / at_once)
    for portion in np.array_split(np.arange(len(drawn)), count) if count else ():
        yield load_batch(cohort, model, drawn[portion], choice[portion])


def _trained(model: nn.Module, trains: Literal["head", "all"]) -> dict[str, Tensor]:
    """The tensors that move, by name: all trainable ones, or the head's."""
    trainable = {name: tensor.detach() for name, tensor in model.named_parameters() if tensor.requires_grad}
    if trains == "all":
        return trainable
    head = {name: tensor for name, tensor in trainable.items() if name.startswith("head.")}
    if not head:
        raise SettingsError(
            "[privacy] trains = 'head', but this model has no head of its own.", "Set trains = 'all'."
        )
    return head


def _refuse_class_weights(criterion: PatientLoss) -> None:
    if not bool((criterion.weights == 1).all()):
        raise SettingsError(
            "Class weights are counted from the patients' labels, which no privacy budget has paid for.",
            "Train with differential privacy without class weights.",
        )
