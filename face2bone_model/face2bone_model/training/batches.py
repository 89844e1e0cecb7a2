"""Which patients, and which of their photos, are seen together. A record is a patient, never a photo."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from face2bone_model.contract.errors import SettingsError
from face2bone_model.data.cohort import Cohort


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One photo each of B patients, on the model's device."""

    inputs: Tensor
    """Trunk features (B, 896, 8, 8) float32, or faces (B, 160, 160, 3) uint8 for models that read faces."""
    clinical: Tensor
    """Standardised age, sex, BMI, (B, 3) float32."""
    labels: Tensor
    """(B,) int64."""

    def __len__(self) -> int:
        return len(self.labels)


def load_batch(
    cohort: Cohort, model: nn.Module, patients: NDArray[np.int64], choice: NDArray[np.int64]
) -> Batch:
    """Read the chosen photos in the form the model takes, onto the device the model is on.

    Args:
        cohort: whose patients.
        model: `input_kind` "features" (the default) or "faces".
        patients: indices into the cohort's patients, shape (B,).
        choice: which of each patient's photos, counted from 0, shape (B,).
    """
    read = cohort.batch_faces if getattr(model, "input_kind", "features") == "faces" else cohort.batch
    device = next(model.parameters()).device
    inputs, clinical, labels = (torch.from_numpy(array).to(device) for array in read(patients, choice))
    features = inputs.float() if inputs.dtype == torch.float16 else inputs  # torch converts faster than NumPy
    return Batch(inputs=features, clinical=clinical, labels=labels)


def choose_photos(
    cohort: Cohort, patients: NDArray[np.int64], uniform: NDArray[np.float64]
) -> NDArray[np.int64]:
    """One photo of each patient, each as likely: `uniform` holds a number in [0, 1) for each patient."""
    counts = np.array([len(cohort.photo_rows[patient]) for patient in patients], dtype=np.int64)
    return (uniform * counts).astype(np.int64)


def shuffled(num_patients: int, batch_size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Every patient once, in random order, in batches of nearly equal size, at most `batch_size`."""
    order = rng.permutation(num_patients).astype(np.int64)
    yield from np.array_split(order, -(-num_patients // batch_size))


def every_photo(cohort: Cohort) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All photos as (patient, which of the patient's photos), both of shape (number of photos,)."""
    counts = [len(rows) for rows in cohort.photo_rows]
    patients = np.repeat(np.arange(cohort.num_patients, dtype=np.int64), counts)
    choice = np.concatenate([np.arange(count, dtype=np.int64) for count in counts] or [patients])
    return patients, choice


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is a GPU where there is one.

    Raises:
        SettingsError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"'{name}' is not a device.", "Use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError("This machine has no usable CUDA device.", "Use auto or cpu.")
    return device
