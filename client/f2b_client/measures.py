"""What a site measures of its patients in each phase, and whom each table is about. Nothing is withheld here yet."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from f2b_client.disclosure import Subject
from f2b_client.prepare import PreparedSite
from face2bone_model.contract.keys import Split
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.data.background import ELLIPSE_ONLY
from face2bone_model.data.cohort import Cohort
from face2bone_model.metrics.description import describe_update
from face2bone_model.metrics.evaluation import evaluation_update, validation_update
from face2bone_model.metrics.population_audit import Patients

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """Sums of some patients, and who they are. The second never leaves."""

    statistics: SiteStatistics
    subject: Subject


@dataclass(frozen=True)
class Measures:
    """The measurements of one study at one site."""

    settings: EvaluationSettings
    patients: Patients
    """The whole prepared cohort, as the disclosure memory names it."""

    def description(self, prepared: PreparedSite) -> Measured:
        """Sizes of the cohort, before any model."""
        statistics = describe(prepared, self.settings)
        return Measured(statistics, self._subject(None, None))

    def validation(self, cohort: Cohort, probabilities: NDArray[np.float64]) -> Measured:
        """A model on the validation patients; probabilities (P, 3) in their order."""

        def of(mask: Mask) -> SiteStatistics:
            return validation_update(self.settings, probabilities[mask], cohort.labels[mask])

        return Measured(of(_everyone(cohort)), self._subject(Split.VALIDATION, of))

    def test(self, cohort: Cohort, probabilities: NDArray[np.float64]) -> Measured:
        """A model on the held-out patients; probabilities (P, 3) in their order."""

        def of(mask: Mask) -> SiteStatistics:
            return evaluation_update(
                self.settings,
                probabilities[mask],
                cohort.labels[mask],
                cohort.female[mask],
                cohort.ages[mask],
            )

        return Measured(of(_everyone(cohort)), self._subject(Split.TEST, of))

    def _subject(self, split: Split | None, measure: Callable[[Mask], SiteStatistics] | None) -> Subject:
        return Subject(
            patients=self.patients, split=split, age_edges=self.settings.age_edges, measure=measure
        )


def describe(prepared: PreparedSite, settings: EvaluationSettings) -> SiteStatistics:
    """Sizes of a cohort by split, class, sex and age band, and how many photos and patients were left out."""
    cohort = prepared.cohort
    return describe_update(
        settings,
        labels=cohort.labels,
        splits=cohort.splits,
        female=cohort.female,
        ages=cohort.ages,
        excluded_patients=sum(prepared.report.left_out.values()),
        quarantined_photos=sum(prepared.report.quarantined.values()),
        ellipse_only=prepared.report.background == ELLIPSE_ONLY,
    )


def _everyone(cohort: Cohort) -> Mask:
    return np.ones(cohort.num_patients, np.bool_)
