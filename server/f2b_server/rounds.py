"""A study from the first question to the pooled evaluation: describe, train round by round, evaluate."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from f2b_server.aggregate import federated_average, pool
from f2b_server.checkpoint import (
    Checkpoint,
    Contribution,
    RoundRecord,
    finished_rounds,
    load_checkpoint,
    load_initial,
    save_checkpoint,
)
from f2b_server.collect import Check, Collected, Collector
from f2b_server.enrolment import roster
from f2b_server.federation import Federation
from f2b_server.progress import Progress, log_event, write_progress
from f2b_server.results import load_statistics, save_release, save_statistics
from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import EgressError
from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.payload import digest
from face2bone_model.contract.reply import Reply, check_step, check_update
from face2bone_model.contract.request import Request
from face2bone_model.contract.statistics import SiteStatistics, TableSpec, check_statistics
from face2bone_model.contract.study import Study, load_study
from face2bone_model.contract.update import ModelSignature, Update
from face2bone_model.metrics.description import describe_schema
from face2bone_model.metrics.evaluation import evaluation_schema, validation_schema
from face2bone_model.metrics.summary import validation_summary
from face2bone_model.system.files import write_json

Vector = NDArray[np.float32]


def run_study(folder: StudyFolder, federation: Federation) -> None:
    """Run what is left of a study. Finished rounds are read from their checkpoints.

    Raises:
        QuorumError: too few sites connected or answered.
        SettingsError: the study folder is incomplete.
    """
    study = load_study(folder.study)
    sites = tuple(entry.site for entry in roster(folder))
    vector, signature = load_initial(folder)
    run = StudyRun(folder, study, signature, Collector(folder, study, federation, sites))
    run.wait_and_describe()
    for number in range(1, study.training.rounds + 1):
        vector = run.train(number, vector)
    run.validate(study.training.rounds, vector)
    chosen = chosen_round(folder) or choose_round(validation_losses(folder, study), study.training.rounds)
    write_json(folder.chosen, chosen)
    run.evaluate(chosen)
    log_event(folder, "finished", chosen_round=chosen)
    write_progress(folder, Progress(phase="finished", round=chosen, rounds=study.training.rounds))


def chosen_round(folder: StudyFolder) -> int:
    """The round chosen before; 0 where none was. Sites evaluate one model on their held-out patients, so it stays."""
    return int(json.loads(folder.chosen.read_bytes())) if folder.chosen.exists() else 0


def choose_round(losses: Mapping[int, float], rounds: int) -> int:
    """The round with the lowest pooled validation loss; the last where every loss was withheld.

    Args:
        losses: pooled validation loss of the global model after each round, by round.
        rounds: rounds of the study.
    """
    known = {number: loss for number, loss in losses.items() if number > 0 and math.isfinite(loss)}
    return min(known, key=lambda number: (known[number], number)) if known else rounds


def validation_losses(folder: StudyFolder, study: Study) -> dict[int, float]:
    """Pooled validation loss of the global model after each round, as far as it was released."""
    losses: dict[int, float] = {}
    for number in range(study.training.rounds + 1):
        if statistics := load_statistics(folder, validation_name(number)):
            losses[number] = validation_summary(pool(statistics), study.evaluation).loss.value
    return losses


def validation_name(number: int) -> str:
    """Under which name the validation sums of the model after a round are kept."""
    return f"validation-{number:03d}"


class StudyRun:
    """The phases of one run."""

    def __init__(
        self, folder: StudyFolder, study: Study, signature: ModelSignature, collector: Collector
    ) -> None:
        self._folder = folder
        self._study = study
        self._signature = signature
        self._collector = collector

    def wait_and_describe(self) -> None:
        """Ask for cohort sizes; a site whose trunk or model differs says so here, before round 1."""
        seconds = self._study.deadlines.describe_seconds
        self._collector.wait_for_sites(seconds)
        request = self._request(Phase.DESCRIBE, 0, None)
        check = _statistics_check(describe_schema(self._study.evaluation))
        self._keep("describe", self._collector.collect(request, check, seconds))

    def train(self, number: int, vector: Vector) -> Vector:
        """One round: ask, check, average, checkpoint. A finished round is read instead."""
        if number <= finished_rounds(self._folder):
            return load_checkpoint(self._folder, number).vector
        request = self._request(Phase.TRAIN, number, vector)
        collected = self._collector.collect(
            request, self._update_check(vector), self._study.deadlines.train_seconds
        )
        updates = {site: reply for site, reply in collected.replies.items() if isinstance(reply, Update)}
        validation = {site: update.validation for site, update in updates.items()}
        save_statistics(self._folder, validation_name(number - 1), validation)
        record = RoundRecord(
            round=number,
            contributions=_contributions(updates, collected),
            faults=collected.faults,
            bytes_sent=len(request.encode()),
        )
        average = federated_average(updates, vector, self._signature)
        save_checkpoint(self._folder, Checkpoint(record, average))
        log_event(self._folder, "round", round=number, sites=sorted(updates), faults=collected.faults)
        return average

    def validate(self, number: int, vector: Vector) -> None:
        """Validation sums of the last global model, which no later round's update carries."""
        request = self._request(Phase.EVALUATE, number, vector, Split.VALIDATION)
        check = _statistics_check(validation_schema(self._study.evaluation))
        seconds = self._study.deadlines.evaluate_seconds
        self._keep(validation_name(number), self._collector.collect(request, check, seconds))

    def evaluate(self, number: int) -> None:
        """Pooled evaluation of the chosen model on every site's held-out patients."""
        vector = load_checkpoint(self._folder, number).vector
        request = self._request(Phase.EVALUATE, number, vector, Split.TEST)
        check = _statistics_check(evaluation_schema(self._study.evaluation))
        self._keep(
            "evaluate", self._collector.collect(request, check, self._study.deadlines.evaluate_seconds)
        )
        save_release(self._folder, vector, self._signature, number, self._study)

    def _keep(self, name: str, collected: Collected) -> None:
        statistics = {s: reply for s, reply in collected.replies.items() if isinstance(reply, SiteStatistics)}
        save_statistics(self._folder, name, statistics)
        sizes = {site: len(collected.answers[site].payload) for site in statistics}
        log_event(self._folder, "statistics", name=name, bytes=sizes, faults=collected.faults)

    def _request(
        self, phase: Phase, number: int, vector: Vector | None, split: Split = Split.TEST
    ) -> Request:
        return Request(
            study_hash=self._study.hash(),
            phase=phase,
            round=number,
            signature_digest=self._signature.digest(),
            split=split,
            vector=vector,
        )

    def _update_check(self, sent: Vector) -> Check:
        schema, longest = validation_schema(self._study.evaluation), self._study.training.max_update_norm

        def check(reply: Reply) -> None:
            if not isinstance(reply, Update):
                raise EgressError("The reply to a training request is not an update.")
            check_update(reply, self._signature, schema)
            check_step(reply.vector, sent, longest)

        return check


def _statistics_check(schema: Sequence[TableSpec]) -> Check:
    def check(reply: Reply) -> None:
        if not isinstance(reply, SiteStatistics):
            raise EgressError("The reply to a question for statistics is not statistics.")
        check_statistics(reply, schema)

    return check


def _contributions(updates: Mapping[str, Update], collected: Collected) -> dict[str, Contribution]:
    return {
        site: Contribution(
            num_patients=update.num_patients,
            train_loss=update.train_loss,
            epsilon=update.epsilon,
            delta=update.delta,
            noise_multiplier=update.noise_multiplier,
            bytes_received=len(collected.answers[site].payload),
            seconds=round(collected.answers[site].seconds, 3),
            payload_digest=digest(collected.answers[site].payload),
        )
        for site, update in updates.items()
    }
