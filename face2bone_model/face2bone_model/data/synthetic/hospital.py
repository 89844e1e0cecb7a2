"""Write one synthetic hospital's folder: photos, DXA export, `site.toml`, and the truth beside them.

    photos/         what the camera saved
    <export>        what the densitometer exported
    site.toml       how to read both
    truth/          generator.json, truth.csv, bad.csv, regions/<photo>.png (label maps): not for the hospital

Bad photos and rows belong to patients of their own, on top of the good ones. Equal arguments give equal bytes; an
interrupted run goes on where it stopped.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from face2bone_model.contract.errors import UsageError
from face2bone_model.data.synthetic.bad_photos import BAD_PHOTOS, BadPhoto, Shots, jpeg
from face2bone_model.data.synthetic.bad_rows import BAD_ROWS, BadRow
from face2bone_model.data.synthetic.camera import take, take_room
from face2bone_model.data.synthetic.exports import FILES, TABLES, WRITERS
from face2bone_model.data.synthetic.generator import Mode
from face2bone_model.data.synthetic.patients import Patient, draw_patient, scene_of, stream
from face2bone_model.data.synthetic.records import DxaRecord, record_of
from face2bone_model.data.synthetic.styles import SiteStyle, style_of
from face2bone_model.data.synthetic.truth import CARD_FILE, BadItem, card, write_bad, write_card, write_truth

Kind = TypeVar("Kind")

_FIRST_BAD_PATIENT = 1_000_000
_FEWEST_BAD_PHOTOS = 3
_FEWEST_BAD_ROWS = 2


@dataclass(frozen=True, kw_only=True)
class HospitalSummary:
    """What was written."""

    folder: Path
    site: str
    num_patients: int
    """Good patients: one label and at least one usable photo each."""
    num_photos: int
    """Photos of good patients."""
    class_counts: tuple[int, int, int]
    """Good patients with normal bone, osteopenia, osteoporosis."""
    bad_photos: int
    bad_rows: int


@dataclass
class _Cohort:
    """What accumulates while a hospital is written."""

    folder: Path
    site: str
    style: SiteStyle
    seed: int
    mode: Mode
    step: Callable[[], None]
    records: list[DxaRecord] = field(default_factory=list)
    good: list[tuple[str, Patient, list[str]]] = field(default_factory=list)
    bad: list[BadItem] = field(default_factory=list)

    def patient(self, number: int) -> tuple[str, Patient]:
        """Draw a patient; the identifier says nothing but the order."""
        patient = draw_patient(self.site, self.style.mix, seed=self.seed, number=number, mode=self.mode)
        letters = "".join(letter for letter in self.site.upper() if letter.isascii() and letter.isalpha())
        return f"{letters[:2] or 'XX'}{100_003 + 7 * number:07d}", patient

    def record(self, patient_id: str, patient: Patient) -> DxaRecord:
        """The patient's examination."""
        return record_of(patient, patient_id, stream(self.site, self.seed, patient.number, "record"))

    def shoot(self, patient: Patient, index: int) -> tuple[Image.Image, Image.Image]:
        """Take the patient's photo number `index`: picture and region labels."""
        rng = stream(self.site, self.seed, patient.number, f"photo {index}")
        return take(scene_of(patient, self.style, rng), self.style.camera, rng)

    def room(self, patient: Patient) -> Image.Image:
        """The room without the patient."""
        rng = stream(self.site, self.seed, patient.number, "room")
        return take_room(scene_of(patient, self.style, rng), self.style.camera, rng)

    def name(self, patient_id: str, index: int, suffix: str = ".jpg") -> str:
        """File name of a photo."""
        return self.style.photo_name.format(patient=patient_id, index=index, suffix=suffix)


def write_hospital(
    folder: Path,
    *,
    site: str,
    patients: int,
    seed: int,
    mode: Mode = "causal",
    on_progress: Callable[[int, int], None] | None = None,
) -> HospitalSummary:
    """Write a hospital's folder.

    Args:
        folder: made if missing; an earlier run with the same arguments is completed.
        site: `harbour`, `hilltop`, `riverside`, or any other name, whose style then follows from the name.
        patients: number of good patients; bad items come on top.
        seed: equal seeds give equal files; the same patient differs between sites.
        mode: `causal`: bone density shapes the face. `shortcut`: age alone drives the label.
        on_progress: called with (patients done, patients in all).

    Raises:
        UsageError: `patients` is not positive, or the folder holds something else.
    """
    if patients < 1:
        raise UsageError(f"{patients} patients cannot be drawn.", "Ask for at least 1.")
    style = style_of(site)
    bad_photos = _kinds(BAD_PHOTOS, style, max(_FEWEST_BAD_PHOTOS, round(style.bad_photos * patients)))
    bad_rows = _kinds(BAD_ROWS, style, max(_FEWEST_BAD_ROWS, round(style.bad_rows * patients)))
    _begin(folder, card(site, seed, patients, mode))
    step = _counter(patients + len(bad_photos) + len(bad_rows), on_progress)
    cohort = _Cohort(folder=folder, site=site, style=style, seed=seed, mode=mode, step=step)
    for number in range(patients):
        _add_good(cohort, *cohort.patient(number))
    for offset, photo_kind in enumerate(bad_photos):
        _add_bad_photo(cohort, _FIRST_BAD_PATIENT + offset, photo_kind)
    for offset, row_kind in enumerate(bad_rows, start=len(bad_photos)):
        _add_bad_row(cohort, _FIRST_BAD_PATIENT + offset, row_kind)
    return _finish(cohort, len(bad_photos), len(bad_rows))


def _kinds(kinds: tuple[Kind, ...], style: SiteStyle, count: int) -> list[Kind]:
    return [kinds[(style.first_bad + place) % len(kinds)] for place in range(count)]


def _counter(total: int, on_progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress:
            on_progress(done, total)

    return step


def _begin(folder: Path, content: dict[str, object]) -> None:
    """Make the folders, or make sure that they are from the same cohort."""
    card_file = folder / "truth" / CARD_FILE
    if card_file.exists():
        if json.loads(card_file.read_text(encoding="utf-8")) != json.loads(json.dumps(content)):
            raise UsageError(
                f"{folder} holds another synthetic cohort.", "Choose another folder, or remove it first."
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty.", "Choose a new folder.")
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    (folder / "truth" / "regions").mkdir(parents=True, exist_ok=True)
    write_card(folder / "truth", content)


def _add_good(cohort: _Cohort, patient_id: str, patient: Patient) -> None:
    names = [cohort.name(patient_id, index) for index in range(1, patient.num_photos + 1)]
    for index, name in enumerate(names, start=1):
        _photograph(cohort, patient, index, name)
    cohort.records.append(cohort.record(patient_id, patient))
    cohort.good.append((patient_id, patient, names))
    cohort.step()


def _photograph(cohort: _Cohort, patient: Patient, index: int, name: str) -> None:
    photo, labels = _places(cohort.folder, name)
    if photo.exists() and labels.exists():
        return
    picture, regions = cohort.shoot(patient, index)
    _write(labels, _png(regions))
    _write(photo, jpeg(picture, cohort.style.camera))


def _add_bad_photo(cohort: _Cohort, number: int, kind: BadPhoto) -> None:
    patient_id, patient = cohort.patient(number)
    name = cohort.name(patient_id, 1, kind.suffix)
    photo, labels = _places(cohort.folder, name)
    if not photo.exists():
        picture, regions = cohort.shoot(patient, 1)
        shots = Shots(
            patient=picture,
            other=lambda: cohort.shoot(cohort.patient(number + _FIRST_BAD_PATIENT)[1], 1)[0],
            room=lambda: cohort.room(patient),
            camera=cohort.style.camera,
        )
        if kind.expected == "usable":
            _write(labels, _png(regions))
        _write(photo, kind.make(shots))
    cohort.records.append(cohort.record(patient_id, patient))
    cohort.bad.append(
        BadItem(
            where=f"photos/{name}", patient=patient_id, kind=kind.kind, what=kind.what, expected=kind.expected
        )
    )
    cohort.step()


def _add_bad_row(cohort: _Cohort, number: int, kind: BadRow) -> None:
    patient_id, patient = cohort.patient(number)
    _photograph(cohort, patient, 1, cohort.name(patient_id, 1))
    cohort.records.extend(kind.spoil(cohort.record(patient_id, patient)))
    where = FILES[cohort.style.export]
    cohort.bad.append(
        BadItem(where=where, patient=patient_id, kind=kind.kind, what=kind.what, expected="excluded")
    )
    cohort.step()


def _places(folder: Path, photo: str) -> tuple[Path, Path]:
    return folder / "photos" / photo, folder / "truth" / "regions" / f"{photo}.png"


def _png(labels: Image.Image) -> bytes:
    buffer = io.BytesIO()
    labels.save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)


def _finish(cohort: _Cohort, bad_photos: int, bad_rows: int) -> HospitalSummary:
    folder, style = cohort.folder, cohort.style
    order = np.random.default_rng([cohort.seed, len(cohort.records)]).permutation(len(cohort.records))
    WRITERS[style.export]([cohort.records[place] for place in order], folder / FILES[style.export])
    (folder / "site.toml").write_text(site_toml(cohort.site, style), encoding="utf-8")
    write_truth(folder / "truth", cohort.good, cohort.mode)
    write_bad(folder / "truth", cohort.bad)
    labels = np.bincount([patient.label for _, patient, _ in cohort.good], minlength=3)
    return HospitalSummary(
        folder=folder,
        site=cohort.site,
        num_patients=len(cohort.good),
        num_photos=sum(len(names) for *_, names in cohort.good),
        class_counts=(int(labels[0]), int(labels[1]), int(labels[2])),
        bad_photos=bad_photos,
        bad_rows=bad_rows,
    )


def site_toml(site: str, style: SiteStyle) -> str:
    """The `site.toml` of a synthetic hospital."""
    return (
        "# How to read this hospital's photos and DXA export.\n\n"
        f"[site]\nname = {json.dumps(site)}\n\n"
        f"[photos]\nfolder = \"photos\"\npattern = '{style.photo_pattern}'\n\n"
        f"{TABLES[style.export]}\n"
        "[labels]\nnormal_includes_minus_one = true\n"
    )
