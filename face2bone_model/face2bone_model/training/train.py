"""One round of local training at one site: the global weights go in, the site's weights come out."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from face2bone_model.contract.errors import CohortError, SettingsError
from face2bone_model.contract.study import TrainingSettings
from face2bone_model.data.cohort import Cohort
from face2bone_model.training.batches import choose_photos, load_batch, pick_device, shuffled
from face2bone_model.training.evaluate import patient_means, photo_logits
from face2bone_model.training.loss import PatientLoss, class_weights
from face2bone_model.training.privacy import DpPlan, DpSegment
from face2bone_model.training.steering import PLAIN, Pull, Steering


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a round stands. For the hospital's own eyes: differential privacy does not cover these losses."""

    unit: Literal["epoch", "step"]
    done: int
    total: int
    train_loss: float
    validation_loss: float | None
    seconds: float
    """Since the round began."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a round of local training did. The weights are in the model."""

    train_loss: float
    """Mean over patients in the last epoch; 0 with differential privacy, which does not cover it."""
    epochs: int
    """Epochs run, those after the best included; 0 with differential privacy, which counts steps."""
    num_patients: int
    segment: DpSegment | None
    """What the round cost; None without differential privacy."""


@dataclass(kw_only=True)
class BestWeights:
    """The weights of the epoch with the lowest validation loss, and how long ago that was."""

    patience: int
    loss: float = math.inf
    epochs_since: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def seen(self, loss: float, model: nn.Module) -> bool:
        """Note an epoch's validation loss; True once `patience` epochs in a row brought no better one."""
        if loss < self.loss:
            frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
            self.weights = {
                name: tensor.clone() for name, tensor in model.state_dict().items() if name not in frozen
            }
            self.loss, self.epochs_since = loss, 0
        else:
            self.epochs_since += 1
        return self.epochs_since >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Put the best weights back; nothing happens if no epoch was noted."""
        model.load_state_dict(self.weights, strict=False)


def train_round(  # noqa: PLR0913  # a round has these parts
    model: nn.Module,
    cohort_train: Cohort,
    cohort_validation: Cohort,
    settings: TrainingSettings,
    *,
    seed: int,
    device: str = "auto",
    privacy: DpPlan | None = None,
    steering: Steering = PLAIN,
    on_epoch: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train `model` in place for one round.

    Without differential privacy: `settings.optimizer` for `settings.local_epochs` epochs; stops after
    `settings.patience` epochs without a better validation loss and keeps the weights of the best epoch, unless every
    step counts. The same seed on a CPU gives the same bits.

    With it: a fixed number of noisy steps (`dp_sgd`). No early stopping, no choice among epochs and no class weights,
    since each would look at patients outside the accounting. Who is drawn, and the noise, never follow the seed.

    Args:
        model: three logits from (features or faces, clinical), with the weights received.
        cohort_train: whom it learns from.
        cohort_validation: decide when to stop; may be empty, then all epochs run and the last counts.
        settings: of the study.
        seed: of this site and round; should differ between them.
        device: "auto", "cpu" or "cuda".
        privacy: this site's plan, or None.
        steering: what the study's strategy adds to the gradients.
        on_epoch: called after each epoch, or each step with differential privacy.

    Raises:
        CohortError: there are no training patients.
        SettingsError: training diverged, or the model cannot be trained with differential privacy.
    """
    if cohort_train.num_patients == 0:
        raise CohortError(
            "There are no training patients.", "Check the splits and the quarantine of this site."
        )
    model.to(pick_device(device))
    report = _reporter(on_epoch)
    with _reproducible(seed, _device_of(model)):
        if privacy is not None:
            return _train_privately(model, cohort_train, settings, privacy, steering, report)
        rng = np.random.default_rng(seed)
        cohorts = (cohort_train, cohort_validation)
        return _train_openly(model, cohorts, settings, steering, rng, report)


_Report = Callable[[Literal["epoch", "step"], int, int, float, float | None], None]


def _train_openly(
    model: nn.Module,
    cohorts: tuple[Cohort, Cohort],
    settings: TrainingSettings,
    steering: Steering,
    rng: np.random.Generator,
    report: _Report,
) -> TrainResult:
    training, validation = cohorts
    weights = class_weights(training.labels) if settings.class_weights else None
    criterion = PatientLoss(settings.loss, weights).to(_device_of(model))
    learner = _Learner(model, settings, steering)
    best = BestWeights(patience=settings.patience)
    loss, epoch = 0.0, 0
    for epoch in range(1, settings.local_epochs + 1):
        loss = _epoch(model, training, settings, (criterion, learner), rng)
        held_out = validation_loss(model, validation, criterion)
        report("epoch", epoch, settings.local_epochs, loss, held_out)
        if held_out is not None and not steering.every_step_counts and best.seen(held_out, model):
            break
    best.restore(model)
    learner.forget_gradients()
    return TrainResult(train_loss=loss, epochs=epoch, num_patients=training.num_patients, segment=None)


def _train_privately(
    model: nn.Module,
    cohort: Cohort,
    settings: TrainingSettings,
    plan: DpPlan,
    steering: Steering,
    report: _Report,
) -> TrainResult:
    from face2bone_model.training.dp_sgd import descend_privately  # opacus takes two seconds to import

    criterion = PatientLoss(settings.loss).to(_device_of(model))
    training_mode(model)
    descend_privately(
        model,
        cohort,
        plan,
        criterion,
        lambda step, loss: report("step", step, plan.steps_per_round, loss, None),
        steering,
    )
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise _diverged("[privacy]")
    return TrainResult(train_loss=0.0, epochs=0, num_patients=cohort.num_patients, segment=plan.segment)


class _Learner:
    """The steps of one round: gradients, what the strategy adds to them, and the optimizer."""

    def __init__(self, model: nn.Module, settings: TrainingSettings, steering: Steering) -> None:
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._pull = Pull(steering, self._trained)
        self._optimizer = _optimizer(list(self._trained.values()), settings)

    def step(self, loss: Tensor) -> None:
        """Descend along the gradient of a loss."""
        self.forget_gradients()
        loss.backward()  # type: ignore[no-untyped-call]  # torch does not say
        self._pull.add_to(self._trained)
        self._optimizer.step()

    def forget_gradients(self) -> None:
        """Free them."""
        self._optimizer.zero_grad(set_to_none=True)


def _optimizer(parameters: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW, or plain gradient descent: no momentum, which a round would begin without each time.

    Of a plain step, decaying the weights by learning_rate * weight_decay and adding weight_decay / 2 |w|^2 to the loss
    are the same: the setting means the same for both.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, fused=True)


def _epoch(
    model: nn.Module,
    cohort: Cohort,
    settings: TrainingSettings,
    learning: tuple[PatientLoss, _Learner],
    rng: np.random.Generator,
) -> float:
    """See every patient once, by one photo; the mean loss over patients, each as it was when seen."""
    criterion, learner = learning
    training_mode(model)
    total = torch.zeros((), device=_device_of(model))
    for patients in shuffled(cohort.num_patients, settings.batch_size, rng):
        batch = load_batch(
            cohort, model, patients, choose_photos(cohort, patients, rng.random(len(patients)))
        )
        with _precision(settings.mixed_precision, total.device):
            losses = criterion(model(batch.inputs, batch.clinical), batch.labels)
        learner.step(losses.mean())
        total += losses.detach().sum()
    mean = total.item() / cohort.num_patients
    if not math.isfinite(mean):
        raise _diverged("[training]")
    return mean


def validation_loss(model: nn.Module, cohort: Cohort, criterion: PatientLoss) -> float | None:
    """Mean over patients of the mean loss over their photos; None for an empty cohort."""
    if cohort.num_patients == 0:
        return None
    logits, patients = photo_logits(model, cohort)
    labels = torch.from_numpy(cohort.labels[patients])
    device = criterion.weights.device
    losses = criterion(logits.to(device), labels.to(device)).cpu().double()
    return float(patient_means(losses, patients, cohort.num_patients).mean())


def training_mode(model: nn.Module) -> None:
    """Switch to training, except for batch normalisation in frozen layers: its statistics stay as they are."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()):
            module.eval()


@contextmanager
def _reproducible(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout follows `seed` inside; outside, torch's generators are as if nothing had happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _precision(wanted: bool, device: torch.device) -> torch.autocast:
    """bfloat16 on GPUs that have it, which needs no scaling of the loss; otherwise float32."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted and able)


def _reporter(on_epoch: Callable[[Progress], None] | None) -> _Report:
    started = time.perf_counter()

    def report(
        unit: Literal["epoch", "step"], done: int, total: int, loss: float, held_out: float | None
    ) -> None:
        if on_epoch is not None:
            seconds = time.perf_counter() - started
            on_epoch(
                Progress(
                    unit=unit,
                    done=done,
                    total=total,
                    train_loss=loss,
                    validation_loss=held_out,
                    seconds=seconds,
                )
            )

    return report


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _diverged(table: str) -> SettingsError:
    return SettingsError(
        "Training diverged: the loss is no longer a number.", f"Lower {table} learning_rate."
    )
