"""A site's cohort on paper: which patients, which photos, which class, which split, and why everyone else is left out.

The manifest stays at the site. `Manifest.flow` is the flow of patients as TRIPOD+AI asks for it; its counts
still pass the gate's suppression before they leave.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from face2bone_model.contract.keys import CLASSES, Split
from face2bone_model.data.dxa import DxaPatient, read_dxa
from face2bone_model.data.dxa_row import Sex
from face2bone_model.data.labels import Label, label_patient
from face2bone_model.data.photo_files import find_photos
from face2bone_model.data.problem import LeftOut, Problem, Reason
from face2bone_model.data.site_settings import SiteData, read_site_data
from face2bone_model.data.split import assign_splits

__all__ = ["Manifest", "ManifestEntry", "Problem", "read_manifest"]


@dataclass(frozen=True, kw_only=True)
class ManifestEntry:
    """One patient of the cohort."""

    patient_id: str
    photos: tuple[Path, ...]
    label: int
    """Index into `contract.keys.CLASSES`."""
    sex: Sex
    age_years: int
    bmi: float | None
    """kg/m2"""
    split: Split
    lowest_t: Decimal


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A site's cohort, with everything that was found on the way."""

    site: str
    entries: tuple[ManifestEntry, ...]
    """Sorted by patient id."""
    excluded: tuple[Problem, ...] = ()
    """One for each patient of the export who is not in the cohort."""
    problems: tuple[Problem, ...] = ()
    """Rows, photos and values that were not used, or used with a note."""
    flow: tuple[tuple[str, int], ...] = ()
    """From the export to the cohort: label and number of patients, in the order of a flow diagram."""
    lowest_sites: tuple[tuple[str, int], ...] = ()
    """Skeletal site that decided the class, and number of patients."""
    devices: tuple[tuple[str, int], ...] = ()
    """Densitometer and number of patients."""
    t_reference_db: str = "not stated"
    software: str = "not stated"
    patients: tuple[DxaPatient, ...] = ()
    """What the export says of each patient, in the cohort or not; without those whose rows contradict each other."""
    left_out: tuple[LeftOut, ...] = ()
    """The patients behind `excluded`, each with the reason."""
    splits: Mapping[str, Split] = field(default_factory=dict)
    """Patient id to split, of now and before: keep it, and hand it to the next `read_manifest`. A patient who is
    missing for a while comes back to her split."""

    def summary(self) -> dict[str, Any]:
        """Counts for the site report, ready for JSON; no patient and no file is named."""
        by_split = {
            split.value: {
                name: sum(entry.split is split and entry.label == index for entry in self.entries)
                for index, name in enumerate(CLASSES)
            }
            for split in Split
        }
        return {
            "site": self.site,
            "flow": [list(step) for step in self.flow],
            "patients_by_split_and_class": by_split,
            "photos": sum(len(entry.photos) for entry in self.entries),
            "problems": len(self.problems),
            "lowest_t_score_at": dict(self.lowest_sites),
            "devices": dict(self.devices),
            "t_reference_db": self.t_reference_db,
            "software": self.software,
        }


def read_manifest(site_folder: Path, *, previous_splits: Mapping[str, Split] | None = None) -> Manifest:
    """Join photos, DXA results and labels of one site.

    Args:
        site_folder: holds `site.toml`, the photo folder and the DXA export.
        previous_splits: `Manifest.splits` of an earlier reading; patients in it keep their split.

    Raises:
        InputError: photos or export are missing, empty, or do not fit `site.toml` as a whole.
        SettingsError: `site.toml` cannot be used.
    """
    data = read_site_data(site_folder)
    problems: list[Problem] = []
    photos = find_photos(site_folder, data.photos, problems)
    dxa = read_dxa(site_folder, data.dxa)
    problems.extend(dxa.problems)
    known = {patient.patient_id for patient in dxa.patients} | {item.patient_id for item in dxa.left_out}
    problems.extend(_strangers(site_folder, photos, known, data.dxa.file))
    classed, left_out = _class_patients(dxa.patients, photos, data)
    all_left_out = (*dxa.left_out, *left_out)
    entries = _entries(classed, photos, data, previous_splits)
    return Manifest(
        site=data.site.name,
        entries=entries,
        excluded=tuple(item.problem for item in all_left_out),
        problems=tuple(problems),
        flow=_flow(len(known), all_left_out, entries),
        lowest_sites=_tally(label.site.words for _, label in classed),
        devices=_tally(patient.device or "not stated" for patient, _ in classed),
        t_reference_db=data.dxa.t_reference_db,
        software=data.dxa.software,
        patients=dxa.patients,
        left_out=all_left_out,
        splits={**(previous_splits or {}), **{entry.patient_id: entry.split for entry in entries}},
    )


def _class_patients(
    patients: Iterable[DxaPatient], photos: Mapping[str, tuple[Path, ...]], data: SiteData
) -> tuple[list[tuple[DxaPatient, Label]], list[LeftOut]]:
    classed: list[tuple[DxaPatient, Label]] = []
    left_out: list[LeftOut] = []
    for patient in sorted(patients, key=lambda patient: patient.patient_id):
        outcome = label_patient(patient, data.labels)
        if isinstance(outcome, LeftOut):
            left_out.append(outcome)
        elif patient.patient_id not in photos:
            left_out.append(_without_photo(patient, data))
        else:
            classed.append((patient, outcome))
    return classed, left_out


def _without_photo(patient: DxaPatient, data: SiteData) -> LeftOut:
    what = f"Patient {patient.patient_id} has no usable photo in '{data.photos.folder}'."
    mend = "Add the photo; its name must give the patient exactly as the export does."
    return LeftOut(
        patient_id=patient.patient_id, reason=Reason.NO_PHOTO, problem=Problem(patient.where, what, mend)
    )


def _strangers(
    site_folder: Path, photos: Mapping[str, tuple[Path, ...]], known: set[str], export: str
) -> Iterable[Problem]:
    """Photos of patients whom the export does not have."""
    alike = {_loosely(patient_id): patient_id for patient_id in known}
    for patient_id in sorted(photos.keys() - known):
        near = alike.get(_loosely(patient_id))
        mend = "Add the patient to the export, or remove the photo."
        if near is not None:
            mend = f"The export has '{near}'; patients are matched exactly, so make the two alike."
        for photo in photos[patient_id]:
            where = photo.relative_to(site_folder).as_posix()
            yield Problem(where, f"Patient {patient_id} is not in {export}; the photo is not used.", mend)


def _loosely(patient_id: str) -> str:
    """Without case, leading zeros and signs: how ids differ when a spreadsheet has been at them."""
    return "".join(letter for letter in patient_id.casefold() if letter.isalnum()).lstrip("0")


def _entries(
    classed: Iterable[tuple[DxaPatient, Label]],
    photos: Mapping[str, tuple[Path, ...]],
    data: SiteData,
    previous: Mapping[str, Split] | None,
) -> tuple[ManifestEntry, ...]:
    pairs = list(classed)
    strata = {patient.patient_id: f"{CLASSES[label.label]} {patient.sex}" for patient, label in pairs}
    splits = assign_splits(strata, data.split.shares, salt=data.site.name, previous=previous)
    return tuple(
        _entry(patient, label, photos[patient.patient_id], splits[patient.patient_id])
        for patient, label in pairs
    )


def _entry(patient: DxaPatient, label: Label, photos: tuple[Path, ...], split: Split) -> ManifestEntry:
    return ManifestEntry(
        patient_id=patient.patient_id,
        photos=photos,
        label=label.label,
        sex=label.sex,
        age_years=label.age_years,
        bmi=patient.bmi,
        split=split,
        lowest_t=label.lowest_t,
    )


def _flow(
    known: int, left_out: Iterable[LeftOut], entries: tuple[ManifestEntry, ...]
) -> tuple[tuple[str, int], ...]:
    reasons = Counter(item.reason for item in left_out)
    without_photo = reasons.pop(Reason.NO_PHOTO, 0)
    eligible = known - reasons.total()
    labels = Counter(entry.label for entry in entries)
    return (
        ("patients in the export", known),
        *((f"left out: {reason}", reasons[reason]) for reason in Reason if reasons[reason]),
        ("eligible for a WHO class", eligible),
        *((f"left out: {Reason.NO_PHOTO}", without_photo) for _ in range(bool(without_photo))),
        ("in the cohort", len(entries)),
        *((f"of these {name}", labels[index]) for index, name in enumerate(CLASSES)),
    )


def _tally(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(names).most_common())
