"""Light hospitals: the executors of several in one process, without torch, photos or gate, that answer as is permitted.

Each answers its SuperNode over the usual socket. What they answer is made up: an update that is a small step, and the
sums of drawn predictions.
"""

import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from f2b_client.app import SiteApp
from f2b_client.executor import execute
from f2b_client.handover import FILE
from f2b_client.settings import SiteFolder
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.payload import encode
from face2bone_model.contract.reply import statistics_content, update_content
from face2bone_model.contract.request import Request, read_request
from face2bone_model.contract.study import EvaluationSettings, load_study
from face2bone_model.contract.update import Update
from face2bone_model.metrics.description import describe_update
from face2bone_model.metrics.evaluation import evaluation_update, validation_update

PATIENTS = 60
STEP = 1e-4
WORK_SECONDS = 1.0
"""How long a round's training takes."""


class LightSite:
    """One hospital's patients, and its answers."""

    def __init__(self, settings: EvaluationSettings, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._settings = settings
        self._labels = np.arange(PATIENTS) % 3
        self._female = np.arange(PATIENTS) % 2 == 0
        self._ages = rng.integers(45, 85, PATIENTS)
        scores = rng.random((PATIENTS, 3)) + 0.5 * np.eye(3)[self._labels]
        self._probabilities = scores / scores.sum(axis=1, keepdims=True)
        self._seed = seed

    def answer(self, payload: bytes) -> SimpleNamespace:
        """What a release of the gate would carry."""
        request = read_request(payload)
        tensors, header = self._content(request)
        return SimpleNamespace(payload=encode(tensors, {**header, "request": request.digest}))

    def _content(self, request: Request):
        if request.phase is Phase.DESCRIBE:
            return statistics_content(self._description())
        validation = validation_update(self._settings, self._probabilities, self._labels)
        if request.phase is Phase.TRAIN:
            time.sleep(WORK_SECONDS)
            step = np.random.default_rng([self._seed, request.round]).standard_normal(request.vector.shape)
            return update_content(
                Update(
                    vector=request.vector + np.float32(STEP) * step.astype(np.float32),
                    num_patients=PATIENTS,
                    train_loss=0.5,
                    epsilon=0.0,
                    delta=0.0,
                    noise_multiplier=0.0,
                    validation=validation,
                )
            )
        if request.split is Split.VALIDATION:
            return statistics_content(validation)
        about = (self._probabilities, self._labels, self._female, self._ages)
        return statistics_content(evaluation_update(self._settings, *about))

    def _description(self):
        return describe_update(
            self._settings,
            labels=self._labels,
            splits=np.where(np.arange(PATIENTS) % 5 == 0, "test", "train"),
            female=self._female,
            ages=self._ages,
            excluded_patients=1,
            quarantined_photos=2,
        )


def main() -> None:
    """The arguments are the hospitals' folders."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threads = []
    for seed, path in enumerate(sys.argv[1:]):
        folder = SiteFolder(Path(path))
        site = LightSite(load_study(folder.joined / "study.toml").evaluation, seed)
        threads.append(threading.Thread(target=serve, args=(folder, site, stopping)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve(folder: SiteFolder, site: LightSite, stopping: threading.Event) -> None:
    """Answer one hospital's SuperNode."""
    execute(folder.state / FILE, SiteApp(site.answer), should_stop=stopping.is_set, on_idle=lambda: None)


if __name__ == "__main__":
    main()
