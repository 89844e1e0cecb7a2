"""Prediction: the class probabilities of each patient, averaged over the patient's photos."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from face2bone_model.data.cohort import Cohort
from face2bone_model.training.batches import every_photo, load_batch, pick_device

_PHOTOS_AT_ONCE = 64


def predict(model: nn.Module, cohort: Cohort, *, device: str = "auto") -> NDArray[np.float64]:
    """Probabilities of the three classes for each patient: the mean over photos of the softmax.

    Args:
        model: three logits from (features or faces, clinical); both training losses use the softmax of them.
        cohort: P patients, each with at least one photo.
        device: "auto", "cpu" or "cuda".

    Returns:
        Shape (P, 3), rows sum to 1.
    """
    model.to(pick_device(device))
    logits, patients = photo_logits(model, cohort)
    probabilities = torch.softmax(logits.double(), dim=1)
    means: NDArray[np.float64] = patient_means(probabilities, patients, cohort.num_patients).numpy()
    return means


def photo_logits(model: nn.Module, cohort: Cohort) -> tuple[Tensor, NDArray[np.int64]]:
    """Logits (N, 3) of every photo, on the CPU, and the patient (N,) each belongs to."""
    patients, choice = every_photo(cohort)
    was_training = model.training
    model.eval()
    parts = [torch.zeros(0, 3)]
    try:
        with torch.inference_mode():
            for start in range(0, len(patients), _PHOTOS_AT_ONCE):
                part = slice(start, start + _PHOTOS_AT_ONCE)
                batch = load_batch(cohort, model, patients[part], choice[part])
                parts.append(model(batch.inputs, batch.clinical).float().cpu())
    finally:
        model.train(was_training)
    return torch.cat(parts), patients


def patient_means(values: Tensor, patients: NDArray[np.int64], num_patients: int) -> Tensor:
    """Mean over each patient's photos: values (N, ...) to (P, ...)."""
    index = torch.from_numpy(patients)
    sums = values.new_zeros((num_patients, *values.shape[1:])).index_add(0, index, values)
    counts = torch.bincount(index, minlength=num_patients).reshape(-1, *[1] * (values.dim() - 1))
    return sums / counts
