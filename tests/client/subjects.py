"""Whom made-up statistics are about, as the gate wants to know."""

import numpy as np

from f2b_client.disclosure import Subject
from f2b_client.measures import Measured
from face2bone_model.contract.keys import Split
from face2bone_model.metrics.population_audit import Patients

EDGES = (50, 60, 70, 80)


def subject_of(labels, split=None, *, splits=None, female=None, ages=None, measure=None):
    """A subject of these patients; all women of 65 in the split asked about, unless said otherwise."""
    number = len(labels)
    splits = np.full(number, split or "train") if splits is None else splits
    patients = Patients(
        keys=tuple(f"patient {index}" for index in range(number)),
        splits=tuple(Split(str(one)) for one in splits),
        labels=np.asarray(labels, np.int64),
        female=np.ones(number, bool) if female is None else female,
        ages=np.full(number, 65) if ages is None else ages,
    )
    return Subject(patients=patients, split=Split(split) if split else None, age_edges=EDGES, measure=measure)


def measured(statistics, labels, split=None, **facts):
    """Statistics and their subject."""
    return Measured(statistics, subject_of(labels, split, **facts))
