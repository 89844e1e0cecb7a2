"""What training and evaluation read: a site's patients with labels, clinical values and memory-mapped photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.errors import CohortError
from face2bone_model.contract.keys import Split
from face2bone_model.data.features import map_faces, map_features, read_current
from face2bone_model.data.manifest import Manifest, ManifestEntry
from face2bone_model.data.preparation import Preparation
from face2bone_model.data.problem import LeftOut, Problem, Reason


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """P patients, each with at least one usable photo. Identifiers and arrays stay at the site.

    `features` and `faces` hold all N rows of the cache, whichever patients are selected; `photo_rows` says whose is
    which.
    """

    features: NDArray[np.float16]
    """(N, 896, 8, 8), memory-mapped."""
    faces: NDArray[np.uint8]
    """(N, 160, 160, 3), memory-mapped."""
    photo_rows: tuple[NDArray[np.int64], ...]
    """For each patient the rows of the photos."""
    patient_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    """(P,) 0 normal, 1 osteopenia, 2 osteoporosis."""
    ages: NDArray[np.int64]
    """(P,) years."""
    female: NDArray[np.bool_]
    """(P,)."""
    clinical: NDArray[np.float32]
    """(P, 3): age, sex, BMI, see `standardise`."""
    splits: NDArray[np.str_]
    """(P,) "train", "validation" or "test"."""
    preparation: Preparation
    left_out: tuple[LeftOut, ...] = ()
    """Patients of the manifest without a usable photo."""
    problems: tuple[Problem, ...] = ()
    """Photos that were prepared but cannot be attributed."""

    @property
    def num_patients(self) -> int:
        """P."""
        return len(self.patient_ids)

    @property
    def num_photos(self) -> int:
        """Photos of these patients."""
        return sum(len(rows) for rows in self.photo_rows)

    def select(self, split: Split) -> "Cohort":
        """The patients of one split."""
        return self.take(np.flatnonzero(self.splits == split.value))

    def take(self, patients: NDArray[np.int64]) -> "Cohort":
        """These patients, in this order; the photos stay where they are."""
        return replace(
            self,
            photo_rows=tuple(self.photo_rows[patient] for patient in patients),
            patient_ids=tuple(self.patient_ids[patient] for patient in patients),
            labels=self.labels[patients],
            ages=self.ages[patients],
            female=self.female[patients],
            clinical=self.clinical[patients],
            splits=self.splits[patients],
        )

    def features_of(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """Features (B, 896, 8, 8) of photos by row, as cached."""
        return np.asarray(self.features[rows])

    def batch(
        self, patients: NDArray[np.int64], choice: NDArray[np.int64]
    ) -> tuple[NDArray[np.float16], NDArray[np.float32], NDArray[np.int64]]:
        """One photo each of B patients as trunk features.

        Args:
            patients: (B,) indices into the patients.
            choice: (B,) which of each patient's photos, from 0.

        Returns:
            features (B, 896, 8, 8) as cached, clinical (B, 3), labels (B,).
        """
        return self.features_of(self._rows(patients, choice)), self.clinical[patients], self.labels[patients]

    def batch_faces(
        self, patients: NDArray[np.int64], choice: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
        """The same with faces (B, 160, 160, 3) in place of features, for models that read pictures."""
        return (
            np.array(self.faces[self._rows(patients, choice)]),
            self.clinical[patients],
            self.labels[patients],
        )

    def _rows(self, patients: NDArray[np.int64], choice: NDArray[np.int64]) -> NDArray[np.int64]:
        pairs = zip(patients, choice, strict=True)
        return np.array([self.photo_rows[patient][which] for patient, which in pairs], dtype=np.int64)


def load_cohort(cache_folder: Path, manifest: Manifest) -> Cohort:
    """Join the cache's photos with the manifest's patients.

    Patients without a usable photo go to `left_out`. A photo listed for two patients is used for neither: nobody can
    tell whose face it is, and it might be in two splits at once.

    Args:
        cache_folder: `cache` in the site folder.
        manifest: that site's.

    Raises:
        CohortError: nothing was prepared yet, or the cache lacks rows it should have.
    """
    preparation, rows = read_current(cache_folder)
    features, faces = map_features(cache_folder), map_faces(cache_folder)
    if rows and max(rows.values()) >= min(len(features), len(faces)):
        raise CohortError(
            f"{cache_folder} holds fewer rows than its list names.", "Run `f2b-client prepare` again."
        )
    rows_of, problems = _attribute(manifest.entries, rows, cache_folder.parent)
    usable = [entry for entry in manifest.entries if rows_of[entry.patient_id]]
    return Cohort(
        features=features,
        faces=faces,
        photo_rows=tuple(np.array(rows_of[entry.patient_id], dtype=np.int64) for entry in usable),
        patient_ids=tuple(entry.patient_id for entry in usable),
        labels=np.array([entry.label for entry in usable], dtype=np.int64),
        ages=np.array([entry.age_years for entry in usable], dtype=np.int64),
        female=np.array([entry.sex == "female" for entry in usable], dtype=np.bool_),
        clinical=_clinical(usable),
        splits=np.array([entry.split.value for entry in usable], dtype=np.str_),
        preparation=preparation,
        left_out=tuple(_without_photo(entry) for entry in manifest.entries if not rows_of[entry.patient_id]),
        problems=problems,
    )


def standardise(age_years: float, sex: str, bmi: float | None) -> tuple[float, float, float]:
    """Clinical inputs on a scale of about one, with public constants: a site's own mean would tell about its patients.

    Returns:
        (age - 65) / 10; +0.5 female, -0.5 male; (BMI - 25) / 4, or 0 where BMI is missing.
    """
    return (age_years - 65) / 10, 0.5 if sex == "female" else -0.5, 0.0 if bmi is None else (bmi - 25) / 4


def photo_name(path: Path, site_folder: Path) -> str:
    """A photo's path below the site folder, with forward slashes; the whole path if it lies elsewhere."""
    path, site_folder = path.absolute(), site_folder.absolute()
    return path.relative_to(site_folder).as_posix() if path.is_relative_to(site_folder) else path.as_posix()


def _clinical(entries: Sequence[ManifestEntry]) -> NDArray[np.float32]:
    values = [standardise(entry.age_years, entry.sex, entry.bmi) for entry in entries]
    return np.array(values, dtype=np.float32).reshape(len(entries), 3)


def _attribute(
    entries: Sequence[ManifestEntry], rows: Mapping[str, int], site_folder: Path
) -> tuple[dict[str, list[int]], tuple[Problem, ...]]:
    """Each patient's rows, without those that two patients claim."""
    claims: dict[int, dict[str, str]] = {}
    for entry in entries:
        for path in entry.photos:
            name = photo_name(path, site_folder)
            if name in rows:
                claims.setdefault(rows[name], {}).setdefault(entry.patient_id, name)
    rows_of: dict[str, list[int]] = {entry.patient_id: [] for entry in entries}
    for row, claimants in claims.items():
        if len(claimants) == 1:
            rows_of[next(iter(claimants))].append(row)
    shared = [list(claimants.values()) for claimants in claims.values() if len(claimants) > 1]
    return rows_of, tuple(_shared_photo(names) for names in shared)


def _shared_photo(names: Sequence[str]) -> Problem:
    return Problem(
        where=names[0],
        what=f"The same picture is filed for more than one patient: {', '.join(names)}. It is used for none.",
        mend="Keep the copy of the patient it shows.",
    )


def _without_photo(entry: ManifestEntry) -> LeftOut:
    return LeftOut(
        patient_id=entry.patient_id,
        reason=Reason.NO_PHOTO,
        problem=Problem(
            where=f"patient {entry.patient_id}",
            what="None of the patient's photos can be used.",
            mend="See reports/contact-sheet.html for each photo's reason.",
        ),
    )
