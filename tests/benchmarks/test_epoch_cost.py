"""What caching trunk features saves: an epoch on the cache against one in which each face passes the frozen trunk.

Both run the project's own training, batch 32, one thread, AdamW, features in a memory-mapped float16 file. Times are of
the process, not the clock, and the least of several repeats, so that what else the machine does weighs little.
"""

import sys
import time

import numpy as np
import pytest
import torch

from face2bone_model.contract.study import ModelSettings, TrainingSettings
from face2bone_model.data.cohort import Cohort
from face2bone_model.data.preparation import Preparation
from face2bone_model.models.face2bone import build_model, parameter_count
from face2bone_model.models.trunk import load_trunk
from face2bone_model.training.train import train_round

PATIENTS, BATCH, REPEATS = 256, 32, 4
BAR = 0.05


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cached_cohort(folder, patients=PATIENTS):
    """Patients with one photo each, their features in a file as the cache keeps them."""
    rng = np.random.default_rng(0)
    features = np.memmap(folder / "features", dtype=np.float16, mode="w+", shape=(patients, 896, 8, 8))
    features[:] = rng.random(features.shape, dtype=np.float32)
    features.flush()
    return Cohort(
        features=features,
        faces=rng.integers(0, 256, (patients, 160, 160, 3), dtype=np.uint8),
        photo_rows=tuple(np.array([row], dtype=np.int64) for row in range(patients)),
        patient_ids=tuple(f"p{row}" for row in range(patients)),
        labels=rng.integers(0, 3, patients),
        ages=rng.integers(50, 90, patients),
        female=rng.random(patients) < 0.5,
        clinical=rng.normal(size=(patients, 3)).astype(np.float32),
        splits=np.full(patients, "train"),
        preparation=Preparation(settings_digest="", trunk_digest="", background="ellipse-only"),
    )


def seconds_of(run):
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.benchmark
@pytest.mark.usefixtures("one_thread")
def test_an_epoch_on_cached_features_costs_a_twentieth_of_one_through_the_trunk(tmp_path, capsys):
    cohort = cached_cohort(tmp_path)
    nobody = cohort.take(np.array([], dtype=np.int64))
    model = build_model(ModelSettings(), seed=0)
    trunk = load_trunk(None, device="cpu")
    settings = TrainingSettings(local_epochs=1, batch_size=BATCH)

    def head():
        train_round(model, cohort, nobody, settings, seed=0, device="cpu")

    def through_the_trunk():
        for start in range(0, PATIENTS, BATCH):
            trunk.embed(cohort.faces[start : start + BATCH])

    head(), trunk.embed(cohort.faces[:BATCH])  # warm up
    times = np.array([(seconds_of(head), seconds_of(through_the_trunk)) for _ in range(REPEATS)])
    cached, embedding = times.min(axis=0) / PATIENTS * 1000
    ratio = cached / (cached + embedding)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{parameter_count(model)} trainable parameters; a face and epoch: {cached:.2f} ms cached,"
            f" {cached + embedding:.2f} ms through the trunk, ratio {ratio:.4f}\n"
        )
    assert ratio <= BAR


@pytest.mark.benchmark
def test_what_a_site_sends_each_round_is_a_small_part_of_the_full_network():
    full_network_bytes = 94_140_000  # InceptionResnetV1's state dict, 714 tensors
    assert 4 * parameter_count(build_model(ModelSettings(), seed=0)) / full_network_bytes <= 0.15
