"""The noise has the distribution it claims and follows nobody's seed."""

import numpy as np
import torch
from scipy import stats

from face2bone_model.training.noise import secure_normal, secure_uniform


def test_uniform_numbers_are_uniform():
    drawn = secure_uniform(100_000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-6


def test_normal_numbers_are_standard_normal_and_independent():
    drawn = secure_normal(200_000)
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    assert abs(drawn.std() - 1) < 0.01
    halves = np.corrcoef(drawn[:100_000], drawn[100_000:])[0, 1]
    assert abs(halves) < 0.02


def test_any_count_can_be_drawn():
    assert [len(secure_normal(size)) for size in (0, 1, 2, 7, 20_000)] == [0, 1, 2, 7, 20_000]
    assert [len(secure_uniform(size)) for size in (0, 1, 7)] == [0, 1, 7]


def test_seeding_torch_and_numpy_does_not_repeat_the_noise():
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        np.random.seed(1)  # pykan's constructor does exactly this
        drawn.append((secure_normal(8), secure_uniform(8)))
    assert not np.intersect1d(drawn[0][0], drawn[1][0]).size
    assert not np.intersect1d(drawn[0][1], drawn[1][1]).size
