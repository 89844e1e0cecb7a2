"""Find a site's photos and tell from each file's name whose face it is. No photo is decoded here."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from face2bone_model.contract.errors import InputError
from face2bone_model.data.problem import Problem
from face2bone_model.data.site_settings import PhotoSettings

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".heic", ".heif")


def find_photos(
    site_folder: Path, photos: PhotoSettings, problems: list[Problem]
) -> dict[str, tuple[Path, ...]]:
    """Photos of each patient, sorted by path.

    A name that does not tell the patient becomes a problem. Two files with the same bytes are one photo; under two
    patients they belong to neither, for whose face it is cannot be known.

    Raises:
        InputError: the folder is missing or holds no photo.
    """
    folder = site_folder / photos.folder
    if not folder.is_dir():
        raise InputError(f"The photo folder {folder} does not exist.", "Set [photos] folder in site.toml.")
    files = sorted(item for item in folder.rglob("*") if item.is_file() and not item.name.startswith("."))
    found = [file for file in files if file.suffix.lower() in PHOTO_SUFFIXES]
    if not found:
        suffixes = ", ".join(PHOTO_SUFFIXES)
        raise InputError(
            f"The photo folder {folder} holds no photo.", f"Put photos there; read are {suffixes}."
        )
    problems.extend(_other_files(photos.folder, files))
    patients = _patients(site_folder, folder, found, photos.pattern, problems)
    for file in _repeated(site_folder, patients, problems):
        del patients[file]
    by_patient: dict[str, list[Path]] = defaultdict(list)
    for file, patient_id in patients.items():
        by_patient[patient_id].append(file)
    return {patient_id: tuple(own) for patient_id, own in by_patient.items()}


def _other_files(folder: str, files: Iterable[Path]) -> list[Problem]:
    """One note for each kind of file that is not read as a photo."""
    others = Counter(file.suffix.lower() for file in files if file.suffix.lower() not in PHOTO_SUFFIXES)
    mend = "If they are photos, convert them to JPEG."
    return [
        Problem(folder, f"{count} file(s) ending in '{suffix}' are not read.", mend)
        for suffix, count in sorted(others.items())
    ]


def _patients(
    site_folder: Path, folder: Path, files: Iterable[Path], pattern: str, problems: list[Problem]
) -> dict[Path, str]:
    """The patient that each file's name tells."""
    expression = re.compile(pattern)
    patients: dict[Path, str] = {}
    for file in files:
        subject = file.relative_to(folder).as_posix() if "/" in pattern else file.name
        match = expression.search(subject)
        if match is not None and match["patient"]:
            patients[file] = match["patient"]
        else:
            where = file.relative_to(site_folder).as_posix()
            what = f"The name does not fit [photos] pattern '{pattern}'; whose photo it is is not known."
            problems.append(Problem(where, what, "Rename the file, or correct the pattern in site.toml."))
    return patients


def _repeated(site_folder: Path, patients: Mapping[Path, str], problems: list[Problem]) -> list[Path]:
    """Files to drop because another has the same bytes."""
    dropped: list[Path] = []
    for same in _same_bytes(site_folder, patients, problems, dropped):
        owners = sorted({patients[file] for file in same})
        names = [file.relative_to(site_folder).as_posix() for file in same]
        if len(owners) > 1:
            what = f"The same photo stands under patients {' and '.join(owners)} ({', '.join(names)}); it is not used."
            problems.append(Problem(names[0], what, "Find out whose face it is and remove the other file."))
            dropped.extend(same)
        else:
            what = f"The same photo is stored {len(same)} times ({', '.join(names)}); it is used once."
            problems.append(Problem(names[0], what, "Nothing to do."))
            dropped.extend(same[1:])
    return dropped


def _same_bytes(
    site_folder: Path, files: Iterable[Path], problems: list[Problem], dropped: list[Path]
) -> list[list[Path]]:
    """Groups of two or more files with equal content; only files of equal size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        by_size[file.stat().st_size].append(file)
    by_digest: dict[str, list[Path]] = defaultdict(list)
    for file in (file for group in by_size.values() if len(group) > 1 for file in group):
        try:
            with file.open("rb") as stream:
                by_digest[hashlib.file_digest(stream, "sha256").hexdigest()].append(file)
        except OSError as error:
            where = file.relative_to(site_folder).as_posix()
            problems.append(
                Problem(where, f"The file cannot be read: {error.strerror}.", "Check its permissions.")
            )
            dropped.append(file)
    return [group for group in by_digest.values() if len(group) > 1]
