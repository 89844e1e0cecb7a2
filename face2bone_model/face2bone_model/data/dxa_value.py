"""Single values of a DXA export: scores, ages, dates, body size. Each is read, or refused with a mend."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import ParamSpec, TypeVar

from face2bone_model.data.problem import Problem
from face2bone_model.data.skeletal_site import normalised

Ours = TypeVar("Ours", bound=str)
Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")

SCORE_RANGE = (Decimal(-8), Decimal(6))
"""T- and Z-scores outside are typing errors or another quantity."""

_MISSING = frozenset(
    {"", "-", "--", ".", "?", "na", "n/a", "#n/a", "n.a.", "nan", "nil", "null", "none", "unknown"}
)
_NUMBER = re.compile(r"([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+))\s*(.*)", re.DOTALL)
_SCORE_UNITS = frozenset(
    {"", "1", "sd", "{sd}", "{score}"} | {f"{{{x}-score}}" for x in "tz"} | {f"{x}-score" for x in "tz"}
)
_DENSITY = re.compile(r"gm? ?[/.]? ?cm")
_AGE_LIMIT_YEARS = 120
_HEIGHT_RANGE_CM = (Decimal(100), Decimal(230))
_WEIGHT_RANGE_KG = (Decimal(25), Decimal(300))
_BMI_RANGE = (Decimal(8), Decimal(80))


class BadValueError(Exception):
    """A value that cannot be used: what is wrong and how to mend it."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend


def attempt(
    problems: list[Problem],
    where: str,
    parse: Callable[Arguments, Value | None],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Value | None:
    """The value `parse` reads; or None and one more problem if it refuses."""
    try:
        return parse(*args, **kwargs)
    except BadValueError as bad:
        problems.append(Problem(where, bad.what, bad.mend))
        return None


def is_missing(text: str) -> bool:
    """Whether `text` is one of the usual ways of leaving a cell empty."""
    return normalised(text) in _MISSING


def number(text: str, name: str, *, decimal: str = ".") -> tuple[Decimal, str] | None:
    """Split ``"-2.5 SD"`` into value and unit; None if nothing is given.

    Full-width digits and typographic minus signs are understood.

    Raises:
        BadValueError: `text` is not a number, or uses the other decimal sign.
    """
    if is_missing(text):
        return None
    folded = re.sub(r"^[‐‑‒–—−]\s*", "-", unicodedata.normalize("NFKC", text).strip())
    match = _NUMBER.fullmatch(folded)
    if match is None:
        raise BadValueError(
            f"{name} is '{text.strip()}', which is not a number.", "Correct it in the export."
        )
    digits, unit = match.groups()
    other = "," if decimal == "." else "."
    if other in digits:
        raise BadValueError(
            f"{name} is '{text.strip()}', but site.toml says numbers are written with '{decimal}'.",
            f'Set [dxa] decimal = "{other}" if the whole file is written so.',
        )
    return Decimal(digits.replace(",", ".")), unit.strip()


def score(text: str, name: str, *, unit: str = "", decimal: str = ".") -> Decimal | None:
    """A T- or Z-score in standard deviations, exactly as written; None if nothing is given.

    Raises:
        BadValueError: it is not a number, is a density in g/cm2, has another unit, or lies outside -8 to +6.
    """
    parsed = number(text, name, decimal=decimal)
    if parsed is None:
        return None
    value, written_unit = parsed
    given_unit = normalised(unit or written_unit).replace("t score", "t-score").replace("z score", "z-score")
    if _DENSITY.search(given_unit):
        raise BadValueError(
            f"{name} is given as {value} g/cm2, which is a bone density.",
            "Export the T-score, not the density.",
        )
    if given_unit not in _SCORE_UNITS:
        raise BadValueError(
            f"{name} is given in '{unit or written_unit}'.", "A score has no unit; correct the export."
        )
    if not SCORE_RANGE[0] <= value <= SCORE_RANGE[1]:
        raise BadValueError(
            f"{name} is {value}, outside {SCORE_RANGE[0]} to +{SCORE_RANGE[1]}.",
            "Look it up in the DXA report and correct the export.",
        )
    return value


def age_years(text: str) -> int | None:
    """Completed years from ``67``, ``67.8``, or DICOM's ``067Y``; None if nothing is given.

    Raises:
        BadValueError: it is not an age in years from 0 to 120.
    """
    parsed = number(text, "Age")
    if parsed is None:
        return None
    value, unit = parsed
    if normalised(unit) not in ("", "y", "yr", "yrs", "years", "岁") or not 0 <= value <= _AGE_LIMIT_YEARS:
        raise BadValueError(f"Age is '{text.strip()}'.", f"Give years from 0 to {_AGE_LIMIT_YEARS}.")
    return int(value)


def day(text: str, name: str, date_format: str = "") -> date | None:
    """A calendar day; a time of day is dropped. None if nothing is given.

    Raises:
        BadValueError: it does not follow `date_format` (empty: ISO 8601).
    """
    if is_missing(text):
        return None
    cleaned = text.strip()
    try:
        if date_format:
            return datetime.strptime(cleaned, date_format).date()
        return datetime.fromisoformat(cleaned).date()
    except ValueError as error:
        expected = date_format or "ISO 8601, such as 2024-05-31"
        raise BadValueError(
            f"{name} is '{cleaned}', which does not follow {expected}.",
            'Set [dxa] date_format, such as "%d.%m.%Y".',
        ) from error


def age_on(birth: date, on: date) -> int:
    """Completed years between two days.

    Raises:
        BadValueError: they are not in order, or more than 120 years apart.
    """
    years = on.year - birth.year - ((on.month, on.day) < (birth.month, birth.day))
    if not 0 <= years <= _AGE_LIMIT_YEARS:
        raise BadValueError(
            f"Birth date {birth} and scan date {on} give an age of {years}.", "Correct one of them."
        )
    return years


def body_mass_index(
    height_cm: Decimal | None, weight_kg: Decimal | None, bmi: Decimal | None = None
) -> float | None:
    """Body mass index in kg/m2 from height and weight, else as given, else None.

    Raises:
        BadValueError: a value no adult has, mostly metres for centimetres or pounds for kilograms.
    """
    for name, value, (low, high), unit in (
        ("Height", height_cm, _HEIGHT_RANGE_CM, "cm"),
        ("Weight", weight_kg, _WEIGHT_RANGE_KG, "kg"),
        ("BMI", bmi, _BMI_RANGE, "kg/m2"),
    ):
        if value is not None and not low <= value <= high:
            raise BadValueError(
                f"{name} is {value}, outside {low} to {high} {unit}; BMI is taken as not known.",
                f"Give {unit}.",
            )
    if height_cm is not None and weight_kg is not None:
        return float(weight_kg / (height_cm / 100) ** 2)
    return None if bmi is None else float(bmi)


def choice(text: str, name: str, options: Mapping[Ours, tuple[str, ...]]) -> Ours | None:
    """Our value for theirs; None if nothing is given.

    Raises:
        BadValueError: `text` is not listed.
    """
    if is_missing(text):
        return None
    folded = normalised(text)
    for ours, theirs in options.items():
        if folded in map(normalised, theirs):
            return ours
    raise BadValueError(
        f"{name} is '{text.strip()}', which [dxa.values] does not list.",
        f"Add it to {' or '.join(options)} in [dxa.values].",
    )
