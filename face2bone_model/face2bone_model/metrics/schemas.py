"""Which tables each phase may release: the study's statistics, and the digest that a study names them by."""

from dataclasses import replace

from face2bone_model.contract.keys import Phase, Split
from face2bone_model.contract.statistics import TableSpec, schema_digest
from face2bone_model.contract.study import EvaluationSettings
from face2bone_model.metrics.description import describe_schema
from face2bone_model.metrics.evaluation import evaluation_schema, validation_schema


def schema_of(phase: Phase, split: Split, settings: EvaluationSettings) -> tuple[TableSpec, ...]:
    """The tables that may answer a question of this phase about this split's patients."""
    match phase:
        case Phase.DESCRIBE:
            return describe_schema(settings)
        case Phase.TRAIN:
            return validation_schema(settings)
        case Phase.EVALUATE:
            return validation_schema(settings) if split is Split.VALIDATION else evaluation_schema(settings)


def statistics_signature(settings: EvaluationSettings) -> str:
    """Digest of every table that any phase may release under these settings, prefixed by its phase."""
    return schema_digest(
        [
            replace(spec, name=f"{phase}/{split}/{spec.name}")
            for phase in Phase
            for split in Split
            for spec in schema_of(phase, split, settings)
        ]
    )
