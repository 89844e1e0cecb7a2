"""Which tables each phase may release: the study's statistics, and the digest that a study names them by."""

from face2bone_model.contract.statistics import TableSpec, schema_digest
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.description import describe_schema
from face2bone_model.metrics.evaluation import evaluation_schema, validation_schema


def statistics_signature(settings: EvaluationSettings) -> str:
    """Digest of every table that any phase may release under these settings, prefixed by its phase."""
    phases = {
        "describe": describe_schema(settings),
        "train": validation_schema(settings),
        "evaluate": evaluation_schema(settings),
    }
    return schema_digest([_of_phase(phase, spec) for phase, schema in phases.items() for spec in schema])


def _of_phase(phase: str, spec: TableSpec) -> TableSpec:
    return TableSpec(
        name=f"{phase}/{spec.name}", shape=spec.shape, dtype=spec.dtype, low=spec.low, high=spec.high
    )
