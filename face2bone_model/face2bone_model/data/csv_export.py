"""DXA exports in CSV, one row per skeletal site (csv-long) or one row per patient (csv-wide)."""

from collections import Counter
from dataclasses import fields
from datetime import date
from decimal import Decimal
from pathlib import Path

from face2bone_model.contract.errors import InputError, SettingsError
from face2bone_model.data.csv_text import CsvRow, open_csv
from face2bone_model.data.dxa_row import DxaExport, DxaRow, Measurement
from face2bone_model.data.dxa_value import (
    age_on,
    age_years,
    attempt,
    body_mass_index,
    choice,
    day,
    is_missing,
    number,
    score,
)
from face2bone_model.data.problem import Problem
from face2bone_model.data.region_names import RegionNames, menopause_options, sex_options, side_options
from face2bone_model.data.site_settings import DxaColumns, DxaSettings
from face2bone_model.data.skeletal_site import L1_TO_L4, SkeletalSite, normalised

_WIDE_REGIONS = (
    ("lumbar_spine", SkeletalSite.LUMBAR_SPINE),
    ("femoral_neck", SkeletalSite.FEMORAL_NECK),
    ("femoral_neck_other_side", SkeletalSite.FEMORAL_NECK),
    ("total_hip", SkeletalSite.TOTAL_HIP),
    ("total_hip_other_side", SkeletalSite.TOTAL_HIP),
    ("radius_33", SkeletalSite.RADIUS_33),
)
_DENSITY_RANGE = (Decimal("0.2"), Decimal("1.8"))
_ENOUGH_TO_JUDGE = 20


def read_csv(path: Path, dxa: DxaSettings) -> DxaExport:
    """Read a CSV export; a bad cell becomes a problem and the rest of its row is still used.

    Raises:
        InputError: the file as a whole does not fit its settings.
        SettingsError: a column that is needed is not mapped.
    """
    return _CsvReader(path, dxa).read()


class _CsvReader:
    """One pass over one file."""

    def __init__(self, path: Path, dxa: DxaSettings) -> None:
        self.path = path
        self.dxa = dxa
        self.columns = _mapped_columns(dxa)
        self.names = RegionNames(dxa.values)
        self.problems: list[Problem] = []
        self.t_texts: Counter[bool] = Counter()

    def read(self) -> DxaExport:
        rows = [self._row(row) for row in open_csv(self.path, self.dxa, self.columns, self.problems)]
        found = tuple(row for row in rows if row is not None)
        self._check_decimal_sign()
        _check_not_density(self.path.name, found)
        return DxaExport(rows=found, problems=(*self.problems, *self.names.problems(self.path.name)))

    def _row(self, row: CsvRow) -> DxaRow | None:
        patient_id = row.get("patient").strip()
        if is_missing(patient_id):
            self.problems.append(
                Problem(row.where, "The row names no patient; it is not used.", "Fill in the patient.")
            )
            return None
        scan_date = attempt(
            self.problems, row.where, day, row.get("scan_date"), "Scan date", self.dxa.date_format
        )
        return DxaRow(
            where=row.where,
            patient_id=patient_id,
            sex=attempt(
                self.problems, row.where, choice, row.get("sex"), "Sex", sex_options(self.dxa.values)
            ),
            age_years=attempt(self.problems, row.where, self._age, row, scan_date),
            menopause=attempt(
                self.problems,
                row.where,
                choice,
                row.get("menopause"),
                "Menopause",
                menopause_options(self.dxa.values),
            ),
            bmi=attempt(self.problems, row.where, self._bmi, row),
            scan_date=scan_date,
            device=row.get("device").strip(),
            measurements=self._long(row) if self.dxa.format == "csv-long" else self._wide(row),
        )

    def _age(self, row: CsvRow, scan_date: date | None) -> int | None:
        stated = age_years(row.get("age").replace(",", "."))
        if stated is not None:
            return stated
        birth = day(row.get("birth_date"), "Birth date", self.dxa.date_format)
        return age_on(birth, scan_date) if birth and scan_date else None

    def _bmi(self, row: CsvRow) -> float | None:
        sizes = (
            number(row.get(name), name, decimal=self.dxa.decimal)
            for name in ("height_cm", "weight_kg", "bmi")
        )
        return body_mass_index(*(None if size is None else size[0] for size in sizes))

    def _long(self, row: CsvRow) -> tuple[Measurement, ...]:
        name = f"{row.get('scan_type')} {row.get('skeletal_site')}"
        region = self.names.region(name, row.where)
        if region is None:
            return ()
        side = attempt(
            self.problems, row.where, choice, row.get("side"), "Side", side_options(self.dxa.values)
        )
        t_score, unreadable = self._t_score(row, "t_score", "bmd", row.get("skeletal_site"))
        return (
            Measurement(
                site=region.site,
                region=normalised(f"{name} {side or ''}"),
                vertebrae=region.vertebrae,
                t_score=t_score,
                z_score=attempt(self.problems, row.where, self._score, row, "z_score", "Z-score"),
                bmd=attempt(self.problems, row.where, self._bmd, row, "bmd"),
                unreadable=unreadable,
            ),
        )

    def _wide(self, row: CsvRow) -> tuple[Measurement, ...]:
        measurements = (
            self._wide_region(row, name, site) for name, site in _WIDE_REGIONS if f"t_{name}" in self.columns
        )
        return tuple(measurement for measurement in measurements if measurement is not None)

    def _wide_region(self, row: CsvRow, name: str, site: SkeletalSite) -> Measurement | None:
        t_score, unreadable = self._t_score(row, f"t_{name}", f"bmd_{name}", site.words)
        z_score = attempt(
            self.problems, row.where, self._score, row, f"z_{name}", f"Z-score of the {site.words}"
        )
        if t_score is None and z_score is None and not unreadable:
            return None
        return Measurement(
            site=site,
            region=name,
            vertebrae=L1_TO_L4 if site is SkeletalSite.LUMBAR_SPINE else (),
            t_score=t_score,
            z_score=z_score,
            bmd=attempt(self.problems, row.where, self._bmd, row, f"bmd_{name}"),
            unreadable=unreadable,
        )

    def _score(self, row: CsvRow, column: str, name: str) -> Decimal | None:
        return score(row.get(column), name, decimal=self.dxa.decimal)

    def _bmd(self, row: CsvRow, column: str) -> Decimal | None:
        parsed = number(row.get(column), "BMD", decimal=self.dxa.decimal)
        return None if parsed is None else parsed[0]

    def _t_score(self, row: CsvRow, column: str, bmd_column: str, region: str) -> tuple[Decimal | None, bool]:
        """The T-score, and whether one was given that cannot be used."""
        text = row.get(column)
        name = f"T-score of the {region.strip()}"
        other_sign = "," if self.dxa.decimal == "." else "."
        if not is_missing(text):
            self.t_texts[other_sign in text] += 1
        value = attempt(self.problems, row.where, self._score, row, column, name)
        if value is not None and value > 0 and text.strip() == row.get(bmd_column).strip():
            what = f"{name} equals the density of the same row."
            self.problems.append(Problem(row.where, what, "Export the T-score, not the density."))
            value = None
        return value, value is None and not is_missing(text)

    def _check_decimal_sign(self) -> None:
        if self.t_texts[True] > self.t_texts[False]:
            found, other = self.dxa.decimal, "," if self.dxa.decimal == "." else "."
            raise InputError(
                f"{self.path.name} writes numbers with '{other}', but site.toml says '{found}'.",
                f'Set [dxa] decimal = "{other}".',
            )


def _mapped_columns(dxa: DxaSettings) -> dict[str, str]:
    """Mapped columns of this format.

    Raises:
        SettingsError: one that is needed is not mapped, or one belongs to the other format.
    """
    mapped = {item.name: getattr(dxa.columns, item.name) for item in fields(DxaColumns)}
    mapped = {ours: theirs for ours, theirs in mapped.items() if theirs}
    long_only = {"skeletal_site", "scan_type", "side", "t_score", "z_score", "bmd"}
    wide_only = {name for name in mapped if name.startswith(("t_", "z_", "bmd_"))} - long_only
    foreign = sorted(mapped.keys() & (wide_only if dxa.format == "csv-long" else long_only))
    if foreign:
        raise SettingsError(
            f"[dxa.columns] '{foreign[0]}' has no meaning in {dxa.format}.",
            "Remove it, or change [dxa] format.",
        )
    needed = ["patient", "sex"] + (["skeletal_site", "t_score"] if dxa.format == "csv-long" else [])
    missing = [name for name in needed if name not in mapped]
    if "age" not in mapped and not {"birth_date", "scan_date"} <= mapped.keys():
        missing.append("age (or birth_date and scan_date)")
    if dxa.format == "csv-wide" and not any(name.startswith("t_") for name in mapped):
        missing.append("t_lumbar_spine, t_femoral_neck or t_total_hip")
    if missing:
        raise SettingsError(
            f"[dxa.columns] does not name a column for {missing[0]}.", "Add the heading your export uses."
        )
    return mapped


def _check_not_density(name: str, rows: tuple[DxaRow, ...]) -> None:
    """Twenty patients without one negative T-score, all within the range of densities, were given in g/cm2."""
    values = [item.t_score for row in rows for item in row.measurements if item.t_score is not None]
    if len(values) >= _ENOUGH_TO_JUDGE and all(
        _DENSITY_RANGE[0] <= value <= _DENSITY_RANGE[1] for value in values
    ):
        low, high = _DENSITY_RANGE
        raise InputError(
            f"All {len(values)} T-scores in {name} lie between {low} and {high}, as densities in g/cm2 do.",
            "Map the T-score column in [dxa.columns].",
        )
