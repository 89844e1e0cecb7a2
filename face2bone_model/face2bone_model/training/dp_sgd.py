"""Differentially private gradient descent, one record a patient, on Opacus.

Each step: every patient is drawn with the same probability (Poisson sampling), one photo of each is chosen, its
gradient is clipped to `max_grad_norm`, Gaussian noise is added to the sum, and the noisy sum is divided by a public
constant (Abadi et al. 2016, arXiv 1607.00133). A patient's photos share one place in the draw, so a second photo buys
no second contribution.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from typing_extensions import override

from face2bone_model.contract.errors import SettingsError
from face2bone_model.data.cohort import Cohort
from face2bone_model.models.trunk import Trunk
from face2bone_model.training.batches import choose_photos, load_batch
from face2bone_model.training.loss import PatientLoss
from face2bone_model.training.noise import secure_normal, secure_uniform
from face2bone_model.training.privacy import DpPlan, refuse_fine_tuning


class PatientGradients(GradSampleModule):  # type: ignore[misc]  # opacus ships no types
    """Opacus's wrapper, given activations in plain memory order.

    Its convolution rule (1.6.0, `unfold2d`) reads any other order with the wrong strides: gradients that are wrong and,
    worse, read another patient's values, which clipping cannot bound.
    """

    @override
    def capture_activations_hook(
        self, module: nn.Module, forward_input: list[Tensor], output: Tensor
    ) -> None:
        """Keep the inputs of a layer for the backward pass."""
        super().capture_activations_hook(module, [tensor.contiguous() for tensor in forward_input], output)


class SecureNoiseOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus ships no types
    """Opacus's optimizer with its noise drawn from the operating system's generator."""

    @override
    def add_noise(self) -> None:
        """Set each gradient to the clipped sum plus noise of deviation noise_multiplier * max_grad_norm."""
        deviation = self.noise_multiplier * self.max_grad_norm
        for parameter in self.params:
            noise = torch.from_numpy(deviation * secure_normal(parameter.numel()))
            clipped = parameter.summed_grad  # pyright: ignore[reportAttributeAccessIssue]  # Opacus sets it
            parameter.grad = clipped + noise.view_as(parameter).to(parameter)


def descend_privately(
    model: nn.Module,
    cohort: Cohort,
    plan: DpPlan,
    criterion: PatientLoss,
    on_step: Callable[[int, float], None],
) -> None:
    """Take `plan.steps_per_round` noisy steps from the model's weights, in place.

    Args:
        model: on its device, in training mode; leaves without a trace of Opacus.
        cohort: the training patients.
        plan: noise, sampling, clipping and step size.
        criterion: losses of single patients; its class weights must not come from private counts.
        on_step: called with the step (from 1) and the mean loss of the patients drawn. The accounting does not cover
            that loss: it stays at the site.

    Raises:
        SettingsError: the trunk is trained too, the model has no head to train alone, or a layer mixes patients or
            keeps statistics of them.
    """
    if any(isinstance(module, Trunk) and _is_trainable(module) for module in model.modules()):
        refuse_fine_tuning("finetune")
    with _only(model, plan.trains), single_patient_gradients(model) as private:
        optimizer = private_optimizer(model, plan)
        for step in range(1, plan.steps_per_round + 1):
            patients = draw_patients(cohort.num_patients, plan.sample_rate)
            loss = _accumulate(private, optimizer, cohort, patients, criterion, plan.physical_batch_size)
            optimizer.zero_grad(set_to_none=True)
            on_step(step, loss / max(1, len(patients)))


def private_optimizer(model: nn.Module, plan: DpPlan) -> SecureNoiseOptimizer:
    """Plain gradient descent: adaptive methods divide by estimates that here are mostly noise."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return SecureNoiseOptimizer(
        torch.optim.SGD(trainable, lr=plan.learning_rate),
        noise_multiplier=plan.noise_multiplier,
        max_grad_norm=plan.max_grad_norm,
        expected_batch_size=plan.expected_batch_size,
    )


def draw_patients(num_patients: int, sample_rate: float) -> NDArray[np.int64]:
    """Indices of the patients of one step: each takes part with probability `sample_rate`, independently."""
    return np.flatnonzero(secure_uniform(num_patients) < sample_rate).astype(np.int64)


@contextmanager
def single_patient_gradients(model: nn.Module) -> Iterator[PatientGradients]:
    """Make `backward` leave each patient's gradient in `grad_sample`; undo that on the way out.

    Raises:
        SettingsError: see `descend_privately`.
    """
    try:
        private = PatientGradients(model, loss_reduction="sum")
    except NotImplementedError as error:
        raise SettingsError(
            f"This model cannot be trained with differential privacy: {error}",
            "Choose a model without batch normalisation, or train without differential privacy.",
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="Full backward hook is firing"
            )  # the first layer: inputs are data
            yield private
    finally:
        private.to_standard_module()
        _remove_traces(model)


@contextmanager
def _only(model: nn.Module, trains: Literal["head", "all"]) -> Iterator[None]:
    """Freeze all but the head inside, if only the head is to be trained."""
    others = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and trains == "head" and not name.startswith("head.")
    ]
    if others and not any(name.startswith("head.") for name, _ in model.named_parameters()):
        raise SettingsError(
            "[privacy] trains = 'head', but this model has no head of its own.", "Set trains = 'all'."
        )
    try:
        for parameter in others:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in others:
            parameter.requires_grad = True


def _accumulate(
    private: PatientGradients,
    optimizer: SecureNoiseOptimizer,
    cohort: Cohort,
    patients: NDArray[np.int64],
    criterion: PatientLoss,
    physical_batch_size: int,
) -> float:
    """Clip and add the gradients of one draw in portions that fit into memory, then step. The summed loss."""
    total = 0.0
    portions = np.array_split(patients, max(1, math.ceil(len(patients) / physical_batch_size)))
    for number, portion in enumerate(portions, start=1):
        optimizer.signal_skip_step(do_skip=number < len(portions))
        if len(portion) == 0:
            _no_gradients(optimizer)
        else:
            choice = choose_photos(cohort, portion, secure_uniform(len(portion)))
            batch = load_batch(cohort, private._module, portion, choice)
            loss = criterion(private(batch.inputs, batch.clinical), batch.labels).sum()
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        if number < len(portions):
            optimizer.zero_grad(set_to_none=True)
    return total


def _no_gradients(optimizer: SecureNoiseOptimizer) -> None:
    """A draw of nobody is a draw too: the step is then noise alone, and costs the same."""
    for parameter in optimizer.params:
        empty = parameter.new_zeros((0, *parameter.shape))
        parameter.grad_sample = empty  # pyright: ignore[reportAttributeAccessIssue]  # where Opacus looks


def _is_trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _remove_traces(model: nn.Module) -> None:
    """What Opacus's own clean-up leaves behind, gradients of single patients among it."""
    for parameter in model.parameters():
        parameter.grad = None
        vars(parameter).pop("summed_grad", None)
    for module in model.modules():
        for name in ("activations", "max_batch_len", "autograd_grad_sample_hooks"):
            vars(module).pop(name, None)
