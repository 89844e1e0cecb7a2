"""DXA exports in FHIR (R4 and R5): Patient, Observation and Condition resources.

Read are
    - `Observation` with a LOINC code of `data.loinc`, itself or in its components; `bodySite` (SNOMED CT or
      text) tells neck from total hip and must not contradict the code. A femur code without body site is
      "femur unspecified".
    - the T-score's unit: ``{T-score}`` in any case, ``1``, none, or SD. A density in g/cm2 under a T-score
      code is refused.
    - `Patient` for sex and birth date (a year alone counts as its middle); the age is that on the scan date.
    - body height, weight and BMI; menopausal state in a `Condition` or `Observation` whose code, display or
      text is listed in `[dxa.values]`.
Observations entered in error or cancelled are passed over.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from face2bone_model.data.coded_region import SNOMED_SIDES, SNOMED_SITES, coded_region
from face2bone_model.data.dxa_row import DxaExport, DxaRow, Measurement, Menopause, Sex
from face2bone_model.data.dxa_value import age_on, attempt, body_mass_index, choice, day, score
from face2bone_model.data.fhir_resources import Resource, read_resources
from face2bone_model.data.loinc import (
    BODY_HEIGHT,
    BODY_MASS_INDEX,
    BODY_WEIGHT,
    DXA_CODES,
    SYSTEM,
    LoincMeaning,
)
from face2bone_model.data.problem import Problem
from face2bone_model.data.region_names import RegionNames, menopause_options, sex_options
from face2bone_model.data.site_settings import DxaSettings
from face2bone_model.data.skeletal_site import normalised, side_in

Result = TypeVar("Result")

_VOID = ("entered-in-error", "cancelled")
_CENTIMETRES = {"cm": Decimal(1), "m": Decimal(100), "[in_i]": Decimal("2.54")}
_KILOGRAMS = {"kg": Decimal(1), "g": Decimal("0.001"), "[lb_av]": Decimal("0.45359237")}
_MENOPAUSE = re.compile(r"menopaus|绝经")
_LETTERS_OF_YEAR, _LETTERS_OF_MONTH = len("2024"), len("2024-05")


def read_fhir(path: Path, dxa: DxaSettings) -> DxaExport:
    """Read one JSON or NDJSON file, or a folder of them. A bad resource becomes a problem."""
    return _FhirReader(path, dxa).read()


@dataclass
class _Person:
    """What is known of one patient across resources."""

    where: str
    patient_id: str
    sex: Sex | None
    birth: date | None
    has_dxa: bool = False
    menopause: list[tuple[str, Menopause]] = field(default_factory=list)
    sizes: dict[str, Decimal] = field(default_factory=dict)


class _FhirReader:
    """One pass: patients first, then what refers to them."""

    def __init__(self, path: Path, dxa: DxaSettings) -> None:
        self.path = path
        self.dxa = dxa
        self.names = RegionNames(dxa.values)
        self.problems: list[Problem] = []
        self.people: dict[str, _Person] = {}

    def read(self) -> DxaExport:
        resources = list(read_resources(self.path, self.problems))
        for resource in resources:
            if resource.kind == "Patient":
                self._guarded(resource, self._patient)
        rows: list[DxaRow] = []
        for resource in filter(_counts, resources):
            rows.extend(self._guarded(resource, self._rows) or ())
        scanned = {id(person): person for person in self.people.values() if person.has_dxa}
        rows.extend(row for person in scanned.values() for row in self._person_rows(person))
        return DxaExport(rows=tuple(rows), problems=(*self.problems, *self.names.problems(self.path.name)))

    def _guarded(self, resource: Resource, read: Callable[[Resource], Result]) -> Result | None:
        try:
            return read(resource)
        except (AttributeError, TypeError, ArithmeticError):  # parts of other types than FHIR gives them
            what = f"The {resource.kind} is not formed as FHIR says; it is not used."
            self.problems.append(Problem(resource.where, what, "Export it again, or correct it."))
            return None

    def _rows(self, resource: Resource) -> list[DxaRow]:
        """DXA results of one resource; other facts are noted with the person."""
        person = self._subject(resource)
        return [] if person is None else list(self._facts(resource, person))

    def _patient(self, resource: Resource) -> None:
        patient_id = self._patient_id(resource)
        if not patient_id:
            system = self.dxa.patient_identifier_system
            what = (
                f"The patient has no identifier of system '{system}'." if system else "The patient has no id."
            )
            self.problems.append(Problem(resource.where, what, "Check [dxa] patient_identifier_system."))
            return
        sexes = sex_options(self.dxa.values)
        person = _Person(
            where=resource.where,
            patient_id=patient_id,
            sex=attempt(
                self.problems, resource.where, choice, str(resource.body.get("gender", "")), "Sex", sexes
            ),
            birth=attempt(self.problems, resource.where, _birth, str(resource.body.get("birthDate", ""))),
        )
        self.people[resource.name] = person
        if resource.full_url:
            self.people[resource.full_url] = person

    def _patient_id(self, resource: Resource) -> str:
        system = self.dxa.patient_identifier_system
        if not system:
            return str(resource.body.get("id", ""))
        identifiers = resource.body.get("identifier") or ()
        return next((str(item.get("value", "")) for item in identifiers if item.get("system") == system), "")

    def _subject(self, resource: Resource) -> _Person | None:
        reference = str((resource.body.get("subject") or {}).get("reference", "")).split("/_history/")[0]
        person = self.people.get(reference) or self.people.get("/".join(reference.split("/")[-2:]))
        if person is None and _concerns_dxa(resource):
            what = f"It refers to '{reference}', and the export has no such Patient; it is not used."
            self.problems.append(Problem(resource.where, what, "Export Patient resources too."))
        return person

    def _facts(self, resource: Resource, person: _Person) -> Iterator[DxaRow]:
        person.has_dxa |= _concerns_dxa(resource)
        body = resource.body
        for part in (body, *(body.get("component") or ())):
            codes = _loinc_codes(part.get("code"))
            meaning = next((DXA_CODES[code] for code in codes if code in DXA_CODES), None)
            if meaning is not None:
                row = attempt(self.problems, resource.where, self._row, resource, part, meaning, person)
                if row is not None:
                    yield row
            else:
                self._note_size(part, codes, person)
        self._note_menopause(resource, person)

    def _row(
        self, resource: Resource, part: Mapping[str, Any], meaning: LoincMeaning, person: _Person
    ) -> DxaRow | None:
        if "valueQuantity" not in part:
            return None
        words = _words(part.get("bodySite") or resource.body.get("bodySite"))
        region = coded_region(meaning.bone, words, self.names, resource.where)
        if region is None:
            return None
        scan = attempt(self.problems, resource.where, _effective, resource.body)
        side = meaning.side or side_in(" ".join(words))
        value, unreadable = self._quantity(resource.where, part["valueQuantity"], meaning, region.site.words)
        given = {"t_score": None, "z_score": None, "bmd": None, meaning.quantity: value}
        return DxaRow(
            where=resource.where,
            patient_id=person.patient_id,
            sex=person.sex,
            age_years=attempt(self.problems, resource.where, _age, person, scan),
            scan_date=scan,
            device=str((resource.body.get("device") or {}).get("display", "")),
            measurements=(
                Measurement(
                    site=region.site,
                    region=normalised(f"{region.site} {region.vertebrae} {side}"),
                    vertebrae=region.vertebrae,
                    unreadable=unreadable,
                    **given,
                ),
            ),
        )

    def _quantity(
        self, where: str, quantity: Mapping[str, Any], meaning: LoincMeaning, site: str
    ) -> tuple[Decimal | None, bool]:
        """The value, and whether a T-score was given that cannot be one."""
        text = str(quantity.get("value", ""))
        unit = str(quantity.get("code") or quantity.get("unit") or "")
        if meaning.quantity == "bmd":
            return (Decimal(text) if text else None), False
        name = f"{'T' if meaning.quantity == 't_score' else 'Z'}-score of the {site}"
        value = attempt(self.problems, where, score, text, name, unit=unit)
        return value, value is None and text != "" and meaning.quantity == "t_score"

    def _note_size(self, part: Mapping[str, Any], codes: tuple[str, ...], person: _Person) -> None:
        quantity = part.get("valueQuantity") or {}
        value, unit = quantity.get("value"), str(quantity.get("code") or quantity.get("unit") or "")
        if value is None:
            return
        for name, known, factors in (
            ("height", BODY_HEIGHT, _CENTIMETRES),
            ("weight", BODY_WEIGHT, _KILOGRAMS),
            ("bmi", BODY_MASS_INDEX, {unit: Decimal(1)}),
        ):
            if unit in factors and any(code in known for code in codes):
                person.sizes[name] = Decimal(str(value)) * factors[unit]

    def _note_menopause(self, resource: Resource, person: _Person) -> None:
        said = {
            normalised(text)
            for key in ("code", "valueCodeableConcept")
            for text in _texts(resource.body.get(key))
        }
        on_topic = any(_MENOPAUSE.search(text) for text in said)
        for state, theirs in menopause_options(self.dxa.values).items():
            # "pre" and "post" also stand in other observations; a code of menopause speaks for itself
            if any(text.isdigit() or on_topic for text in said & set(map(normalised, theirs))):
                person.menopause.append((resource.where, state))

    def _person_rows(self, person: _Person) -> Iterator[DxaRow]:
        """Facts about the patient without a scan: one row each, so that a contradiction names its source."""
        sizes = (person.sizes.get(name) for name in ("height", "weight", "bmi"))
        bmi = attempt(self.problems, person.where, body_mass_index, *sizes)
        yield DxaRow(where=person.where, patient_id=person.patient_id, sex=person.sex, bmi=bmi)
        for where, state in person.menopause:
            yield DxaRow(where=where, patient_id=person.patient_id, menopause=state)


def _counts(resource: Resource) -> bool:
    return resource.kind in ("Observation", "Condition") and resource.body.get("status") not in _VOID


def _concerns_dxa(resource: Resource) -> bool:
    parts = (resource.body, *(resource.body.get("component") or ()))
    return any(code in DXA_CODES for part in parts for code in _loinc_codes(part.get("code")))


def _loinc_codes(concept: Mapping[str, Any] | None) -> tuple[str, ...]:
    codings = (concept or {}).get("coding") or ()
    return tuple(str(item.get("code", "")) for item in codings if item.get("system", SYSTEM) == SYSTEM)


def _texts(concept: Mapping[str, Any] | None) -> Iterator[str]:
    """Every code, display and text of a concept."""
    for coding in (concept or {}).get("coding") or ():
        yield from (str(coding[key]) for key in ("code", "display") if coding.get(key))
    if concept and concept.get("text"):
        yield str(concept["text"])


def _words(body_site: Mapping[str, Any] | None) -> tuple[str, ...]:
    """A body site as words; SNOMED CT expressions such as ``71341001:272741003=7771000`` are spelt out."""
    words: list[str] = []
    for text in _texts(body_site):
        base, _, refinement = text.partition(":")
        side = SNOMED_SIDES.get(refinement.rpartition("=")[2], "")
        words.append(
            f"{side} {SNOMED_SITES[base]}".strip() if base in SNOMED_SITES else SNOMED_SIDES.get(text, text)
        )
    return tuple(word for word in words if not word.isdigit())


def _age(person: _Person, scan: date | None) -> int | None:
    return age_on(person.birth, scan) if person.birth and scan else None


def _effective(body: Mapping[str, Any]) -> date | None:
    stated = body.get("effectiveDateTime") or (body.get("effectivePeriod") or {}).get("start") or ""
    return day(_whole_day(str(stated)), "Scan date")


def _birth(text: str) -> date | None:
    return day(_whole_day(text), "Birth date")


def _whole_day(text: str) -> str:
    """FHIR dates may be a year or a month; the middle stands for them."""
    if len(text) == _LETTERS_OF_YEAR:
        return f"{text}-07-01"
    return f"{text}-15" if len(text) == _LETTERS_OF_MONTH else text
