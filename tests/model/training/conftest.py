"""Small real cohorts, built from arrays, whose class shows in the features."""

from collections.abc import Callable

import numpy as np
import pytest

from face2bone_model.data.cohort import Cohort
from face2bone_model.data.preparation import Preparation

CohortMaker = Callable[..., Cohort]


def _make_cohort(labels, *, photos=1, seed=0, signal=2.0, with_faces=False, features=None) -> Cohort:
    """`photos`: how many each patient has, one number or one a patient."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels, dtype=np.int64)
    counts = np.broadcast_to(photos, labels.shape)
    owner = np.repeat(np.arange(len(labels)), counts)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if features is None:
        features = rng.random((len(owner), 896, 8, 8), dtype=np.float32)
        for row, patient in enumerate(owner):
            features[row, labels[patient] :: 3] *= signal
    faces = rng.integers(
        0, 256, (len(owner), 160, 160, 3) if with_faces else (0, 160, 160, 3), dtype=np.uint8
    )
    return Cohort(
        features=np.asarray(features).astype(np.float16),
        faces=faces,
        photo_rows=tuple(
            np.arange(starts[patient], starts[patient + 1], dtype=np.int64) for patient in range(len(labels))
        ),
        patient_ids=tuple(f"p{patient}" for patient in range(len(labels))),
        labels=labels,
        ages=rng.integers(50, 90, len(labels)),
        female=rng.random(len(labels)) < 0.5,
        clinical=rng.normal(size=(len(labels), 3)).astype(np.float32),
        splits=np.full(len(labels), "train"),
        preparation=Preparation(settings_digest="", trunk_digest="", background="ellipse-only"),
    )


@pytest.fixture(scope="session")
def make_cohort() -> CohortMaker:
    return _make_cohort
