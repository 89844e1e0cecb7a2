"""Rows of a DXA export that must not become labels: each kind takes a good record and spoils it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from face2bone_model.data.synthetic.records import DxaRecord, Reading

_PREMENOPAUSAL_AGE = 38


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """One kind of bad row; `spoil` returns the records that stand in the export instead of the good one."""

    kind: str
    what: str
    spoil: Callable[[DxaRecord], tuple[DxaRecord, ...]]


def _every_reading(record: DxaRecord, change: Callable[[Reading], Reading]) -> DxaRecord:
    return replace(record, readings=tuple(change(reading) for reading in record.readings))


def _lost_decimal_point(record: DxaRecord) -> tuple[DxaRecord, ...]:
    return (_every_reading(record, lambda reading: replace(reading, t="25")),)


def _density_as_t(record: DxaRecord) -> tuple[DxaRecord, ...]:
    return (_every_reading(record, lambda reading: replace(reading, t=reading.bmd, t_unit="g/cm2")),)


def _second_record(record: DxaRecord) -> tuple[DxaRecord, ...]:
    other = _every_reading(record, lambda reading: replace(reading, t=f"{float(reading.t) + 1.5:.1f}"))
    return (record, other)


def _without_sex(record: DxaRecord) -> tuple[DxaRecord, ...]:
    return (replace(record, sex="", menopause=None),)


def _premenopausal(record: DxaRecord) -> tuple[DxaRecord, ...]:
    born = record.birth_date.replace(
        year=record.birth_date.year + record.age_years - _PREMENOPAUSAL_AGE, day=1
    )
    return (
        replace(
            record, sex="female", age_years=_PREMENOPAUSAL_AGE, birth_date=born, menopause="premenopausal"
        ),
    )


def _single_vertebra(record: DxaRecord) -> tuple[DxaRecord, ...]:
    spine = next(reading for reading in record.readings if reading.region == "lumbar_spine")
    return (replace(record, readings=(replace(spine, region="single_vertebra"),)),)


BAD_ROWS: tuple[BadRow, ...] = (
    BadRow(
        kind="t_score_of_25",
        what="Every T-score reads 25: the decimal point is lost.",
        spoil=_lost_decimal_point,
    ),
    BadRow(
        kind="duplicate_patient", what="Two records of one day with T-scores 1.5 apart.", spoil=_second_record
    ),
    BadRow(kind="missing_sex", what="No sex given.", spoil=_without_sex),
    BadRow(
        kind="density_as_t_score", what="Densities in g/cm2 stand where T-scores should.", spoil=_density_as_t
    ),
    BadRow(
        kind="premenopausal",
        what="A premenopausal woman of 38: T-scores do not class her.",
        spoil=_premenopausal,
    ),
    BadRow(
        kind="single_vertebra",
        what="Only one vertebra was measured, or no diagnostic site.",
        spoil=_single_vertebra,
    ),
)
"""A patient with any of these has no label and is to be left out."""
