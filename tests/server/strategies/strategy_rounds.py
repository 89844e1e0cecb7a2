"""Rounds of updates in memory, and what every strategy is built from."""

from dataclasses import dataclass, replace

import numpy as np

from f2b_server.strategies.choice import strategy_of
from f2b_server.strategies.strategy import SiteUpdate
from face2bone_model.contract.study import Study, TrainingSettings
from face2bone_model.contract.update import ModelSignature

AVERAGING = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "scaffold")
ROBUST = ("trimmed_mean", "krum", "geometric_median")
NAMES = (*AVERAGING, *ROBUST)
PLAIN_STEPS = TrainingSettings(optimizer="sgd", local_epochs=2, batch_size=8, learning_rate=0.05)


@dataclass(frozen=True)
class Round:
    """Vectors that started from the same model."""

    received: np.ndarray
    updates: tuple
    sizes: tuple

    @property
    def signature(self):
        return ModelSignature(tuple((f"t{index}", (size,)) for index, size in enumerate(self.sizes)), "trunk")

    @property
    def vectors(self):
        return np.stack([update.vector for update in self.updates]).astype(np.float64)

    @property
    def patients(self):
        return np.array([update.num_patients for update in self.updates])


def an_update(site, vector, num_patients=10, loss_variance=float("nan"), noise_multiplier=0.0):
    return SiteUpdate(
        site=site,
        vector=np.asarray(vector, np.float32),
        num_patients=num_patients,
        loss_variance=loss_variance,
        noise_multiplier=noise_multiplier,
    )


def a_round(vectors, received=None, sizes=None, patients=None):
    """Sites s00, s01, … return `vectors`, starting from zeros unless told; one tensor unless `sizes` says otherwise."""
    start = np.asarray(np.zeros(len(vectors[0])) if received is None else received, np.float32)
    counts = patients or [10] * len(vectors)
    updates = tuple(
        an_update(f"s{i:02d}", v, n) for i, (v, n) in enumerate(zip(vectors, counts, strict=True))
    )
    return Round(start, updates, tuple(sizes or [len(start)]))


def a_random_round(seed=0, sites=5, size=40, sizes=None, received=None):
    """Steps of like length, so that none is an outlier."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=size).astype(np.float32) if received is None else received
    vectors = start + rng.normal(size=(sites, size)) + 0.5
    return a_round(list(vectors), start, sizes, [int(n) for n in rng.integers(5, 500, sites)])


def a_study(sites=5, training=PLAIN_STEPS, **strategy):
    adaptive = strategy.get("name") in {"fedadam", "fedyogi"}
    study = Study(
        name="Bones",
        question="?",
        sites=tuple(f"s{i:02d}" for i in range(sites)),
        trunk_name="random",
        trunk_digest="trunk",
        training=training,
    )
    changes = {"server_learning_rate": 0.05 if adaptive else 1.0, **strategy}
    return replace(study, strategy=replace(study.strategy, **changes))


def step_of(one, state=None, **strategy):
    """One step of the strategy that these settings name, in a study of the round's sites."""
    return strategy_of(a_study(len(one.updates), **strategy), one.signature).step(
        one.updates, one.received, state or {}
    )


def same_state(one, other):
    """Whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)
