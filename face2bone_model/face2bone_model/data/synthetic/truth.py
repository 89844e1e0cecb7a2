"""What nobody at a real hospital knows: written beside the cohort, outside the photos' folder."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from face2bone_model.data.synthetic.anatomy import AGE_REGIONS, FEATURE_REGIONS, Region, causal_regions
from face2bone_model.data.synthetic.bad_photos import Expected
from face2bone_model.data.synthetic.best_possible import chance_of_osteoporosis
from face2bone_model.data.synthetic.generator import Mode, generator_card
from face2bone_model.data.synthetic.patients import Patient

CARD_FILE = "generator.json"


@dataclass(frozen=True, kw_only=True)
class BadItem:
    """One thing that is wrong on purpose, or odd but fine."""

    where: str
    """A photo's file name, or the export's."""
    patient: str
    kind: str
    what: str
    expected: Expected


def card(site: str, seed: int, patients: int, mode: Mode) -> dict[str, Any]:
    """The settings of a cohort, the generator's coefficients, and the meaning of the label maps."""
    return {
        "site": site,
        "seed": seed,
        "patients": patients,
        "mode": mode,
        "regions": {region.name.lower(): region.value for region in Region},
        "causal_regions": sorted(region.name.lower() for region in causal_regions(mode)),
        "age_regions": [region.name.lower() for region in AGE_REGIONS],
        "feature_regions": {
            name: [region.name.lower() for region in found] for name, found in FEATURE_REGIONS.items()
        },
        "generator": generator_card(),
    }


def write_card(folder: Path, content: dict[str, Any]) -> None:
    """Write `generator.json`."""
    (folder / CARD_FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_truth(folder: Path, people: Sequence[tuple[str, Patient, Sequence[str]]], mode: Mode) -> None:
    """Write `truth.csv`: one row per patient with identifier, photos, T-scores, features, looks and exact risk."""
    rows = [_truth_row(*person, mode) for person in people]
    with (folder / "truth.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _truth_row(patient_id: str, patient: Patient, photos: Sequence[str], mode: Mode) -> dict[str, Any]:
    looks = {name: getattr(patient.skin, name) for name in ("melanin", "wrinkles", "sag", "spots")}
    numbers = {**asdict(patient.planted), **looks, "grey": patient.hair.grey}
    return {
        "patient": patient_id,
        "photos": " ".join(photos),
        "sex": patient.sex,
        "age_years": patient.age_years,
        "bmi": f"{patient.bmi:.3f}",
        "latent_t": f"{patient.latent_t:.4f}",
        **{f"t_{site}": f"{tenths / 10:.1f}" for site, tenths in patient.t_tenths.items()},
        "label": patient.label,
        "chance_of_osteoporosis": f"{chance_of_osteoporosis(patient, mode):.6f}",
        **{name: f"{value:.4f}" for name, value in numbers.items()},
    }


def write_bad(folder: Path, items: Sequence[BadItem]) -> None:
    """Write `bad.csv`: one row per bad item."""
    with (folder / "bad.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(BadItem)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(item) for item in items)
