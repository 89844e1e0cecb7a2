"""Four sites that really train the project's model on clinical inputs, one of them perhaps poisoned, in memory.

Each site draws its patients from its own ages; the fourth may send something else than what it learnt. Everything else
is the project's own: network, local training, strategies. Figures are of held-out patients of all four sites pooled.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from sklearn.metrics import roc_auc_score
from strategy_rounds import a_study

from f2b_server.strategies.choice import strategy_of
from f2b_server.strategies.strategy import SiteUpdate
from face2bone_model.contract.keys import OSTEOPOROSIS
from face2bone_model.contract.study import ModelSettings, TrainingSettings
from face2bone_model.contract.update import pack, signature_of, unpack
from face2bone_model.data.cohort import Cohort
from face2bone_model.data.preparation import Preparation
from face2bone_model.models.face2bone import build_model, load_trainable, trainable_tensors
from face2bone_model.training.evaluate import predict
from face2bone_model.training.steering import steering_of
from face2bone_model.training.train import train_round

SITES, POISONED = 4, 3
TRAINED, HELD_OUT, ROUNDS = 240, 600, 10
MODEL = ModelSettings(inputs="clinical", head="kan", head_hidden=8, dropout=0.0)
ADAMW = TrainingSettings(local_epochs=2, batch_size=32, learning_rate=1e-2, patience=9)
SGD = replace(ADAMW, optimizer="sgd", learning_rate=0.1)

Attack = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From the model received and the model honestly trained to what is sent."""

UPDATE_ATTACKS: Mapping[str, Attack] = {
    "scaled x100": lambda received, honest: received + 100 * (honest - received),
    "sign-flipped": lambda received, honest: received - (honest - received),
    "sign-flipped x4": lambda received, honest: received - 4 * (honest - received),
    "NaN": lambda received, honest: np.full_like(received, np.nan) * honest,
}
LABEL_FLIP = "labels flipped"
ATTACKS = (*UPDATE_ATTACKS, LABEL_FLIP)


def a_cohort(site, patients, *draw):
    """Age, sex and BMI decide the chance of each class, the same way everywhere; ages differ between the sites."""
    rng = np.random.default_rng([site, *draw])
    clinical = rng.normal(size=(patients, 3)).astype(np.float32)
    clinical[:, 0] += 0.2 * (site - 1.5)
    clinical[:, 1] = rng.choice([-0.5, 0.5], patients)
    bone = (
        -1.0 * clinical[:, 0] - 1.5 * clinical[:, 1] + 0.5 * clinical[:, 2] + rng.logistic(0, 0.5, patients)
    )
    labels = np.where(bone < -1.0, 2, np.where(bone < 0.5, 1, 0)).astype(np.int64)
    return Cohort(
        features=np.zeros((1, 1, 1, 1), np.float16),  # never read by a model of clinical inputs
        faces=np.zeros((0, 160, 160, 3), np.uint8),
        photo_rows=(np.zeros(1, np.int64),) * patients,
        patient_ids=tuple(f"p{number}" for number in range(patients)),
        labels=labels,
        ages=np.full(patients, 65),
        female=clinical[:, 1] > 0,
        clinical=clinical,
        splits=np.full(patients, "train"),
        preparation=Preparation(settings_digest="", trunk_digest="", background="ellipse-only"),
    )


class Laboratory:
    """The cohorts, and federations of them."""

    def __init__(self, draw=0):
        self.training = [a_cohort(site, TRAINED, 0, draw) for site in range(SITES)]
        self.nobody = self.training[0].take(np.array([], np.int64))
        self.held_out = [a_cohort(site, HELD_OUT, 1, draw) for site in range(SITES)]
        self.labels = np.concatenate([cohort.labels for cohort in self.held_out]) == OSTEOPOROSIS
        self._known = {}

    def auc(self, attack=None, training=ADAMW, **strategy):
        """Pooled held-out AUC of osteoporosis after all rounds; honest federations are run once."""
        key = (attack, training, tuple(sorted(strategy.items())))
        if key not in self._known:
            self._known[key] = self._federate(attack, a_study(SITES, training, **strategy))
        return self._known[key]

    def change(self, attack, training=ADAMW, **strategy):
        """How far the attack moves the AUC of the same federation."""
        return self.auc(attack, training, **strategy) - self.auc(None, training, **strategy)

    def _federate(self, attack, study):
        model = build_model(MODEL, seed=0)
        signature = signature_of(trainable_tensors(model), "trunk")
        strategy = strategy_of(study, signature)
        vector, state = pack(trainable_tensors(model), signature), {}
        for number in range(ROUNDS):
            updates = [
                self._update(
                    model, signature, study, vector, strategy.correction(name, state), site, number, attack
                )
                for site, name in enumerate(study.sites)
            ]
            done = strategy.step(updates, vector, state)
            vector, state = done.vector, dict(done.state)
        load_trainable(model, unpack(vector, signature))
        scores = [predict(model, cohort, device="cpu")[:, OSTEOPOROSIS] for cohort in self.held_out]
        return float(roc_auc_score(self.labels, np.concatenate(scores)))

    def _update(self, model, signature, study, received, correction, site, number, attack):  # noqa: PLR0913, PLR0917
        attack = attack if site == POISONED else None
        load_trainable(model, unpack(received, signature))
        cohort = self.training[site]
        if attack == LABEL_FLIP:
            cohort = replace(cohort, labels=2 - cohort.labels)
        added = None if correction is None else unpack(correction, signature)
        train_round(
            model, cohort, self.nobody, study.training, seed=100 * number + site, device="cpu",
            steering=steering_of(study, added),
        )  # fmt: skip
        vector = pack(trainable_tensors(model), signature)
        if attack in UPDATE_ATTACKS:
            vector = UPDATE_ATTACKS[attack](received, vector).astype(np.float32)
        return SiteUpdate(site=study.sites[site], vector=vector, num_patients=TRAINED, loss_variance=1.0)
