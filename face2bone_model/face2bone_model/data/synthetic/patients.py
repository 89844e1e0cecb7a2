"""Drawing synthetic patients: age, sex, body, T-scores, and the scene of each of their photos.

Each patient has a random stream of its own, from the seed, the site and the patient's number, so that the first
hundred patients of a cohort are the same however many follow.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator

from face2bone_model.contract.keys import OSTEOPOROSIS
from face2bone_model.data.synthetic.generator import (
    NORMAL_TENTHS,
    OSTEOPOROSIS_TENTHS,
    T_MEAN,
    T_SD,
    Mode,
    bone_model,
    loadings,
)
from face2bone_model.data.synthetic.scene import FaceShape, Hair, PlantedShape, Scene, Skin
from face2bone_model.data.synthetic.styles import CaseMix, SiteStyle

AGE_RANGE = (45, 88)
_MEN_FROM = 50
_SKELETAL_SITES = ("lumbar_spine", "femoral_neck", "total_hip")
_SECOND_PHOTO = 0.08


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One synthetic patient, with the truth nobody at a real hospital knows."""

    number: int
    sex: Literal["female", "male"]
    age_years: int
    height_cm: float
    weight_kg: float
    latent_t: float
    t_tenths: dict[str, int]
    """T-score of each skeletal site in tenths; the lowest is the latent T rounded."""
    planted: PlantedShape
    shape: FaceShape
    skin: Skin
    hair: Hair
    num_photos: int

    @property
    def bmi(self) -> float:
        """Body mass index, kg/m2, from height and weight as exported."""
        return self.weight_kg / (self.height_cm / 100) ** 2

    @property
    def label(self) -> int:
        """Index into `contract.keys.CLASSES`, from the lowest reported T-score."""
        lowest = min(self.t_tenths.values())
        if lowest <= OSTEOPOROSIS_TENTHS:
            return OSTEOPOROSIS
        return 0 if lowest >= NORMAL_TENTHS else 1


def stream(site: str, seed: int, number: int, purpose: str) -> Generator:
    """The random stream for one purpose of one patient; equal arguments, equal numbers."""
    digest = hashlib.sha256(f"{site}/{purpose}".encode()).digest()
    return np.random.default_rng([seed, number, int.from_bytes(digest[:8], "big")])


def draw_patient(site: str, mix: CaseMix, *, seed: int, number: int, mode: Mode) -> Patient:
    """Draw one eligible patient: a postmenopausal woman, or a man of 50 or more."""
    rng = stream(site, seed, number, "patient")
    male = bool(rng.random() < mix.share_male)
    age = _age(rng, mix, _MEN_FROM if male else AGE_RANGE[0])
    height = round(float(rng.normal(174 if male else 161, 6.5)), 1)
    bmi = float(np.clip(rng.normal(mix.bmi_mean, 3.8), 17.5, 39))
    weight = round(bmi * (height / 100) ** 2, 1)
    exact_bmi = weight / (height / 100) ** 2
    bone = bone_model(mode)
    latent = bone.expected_t(age=age, male=male, bmi=exact_bmi) + bone.residual_sd * float(
        rng.standard_normal()
    )
    tenths = _skeletal_sites(rng, latent)
    planted = _planted(rng, latent, mode)
    look = stream(site, seed, number, "look")
    return Patient(
        number=number,
        sex="male" if male else "female",
        age_years=age,
        height_cm=height,
        weight_kg=weight,
        latent_t=latent,
        t_tenths=tenths,
        planted=planted,
        shape=_shape(look, exact_bmi, male=male),
        skin=_skin(look, age, mix),
        hair=_hair(look, age, mix, male=male),
        num_photos=1 + int(look.random() < _SECOND_PHOTO),
    )


def _age(rng: Generator, mix: CaseMix, youngest: int) -> int:
    while True:
        age = round(float(rng.normal(mix.age_mean, mix.age_sd)))
        if youngest <= age <= AGE_RANGE[1]:
            return age


def _skeletal_sites(rng: Generator, latent: float) -> dict[str, int]:
    lowest = round(10 * latent)
    extra = [0, *(round(10 * abs(float(value))) for value in rng.normal(0.5, 0.4, 2))]
    order = rng.permutation(3)
    return {site: lowest + extra[place] for site, place in zip(_SKELETAL_SITES, order, strict=True)}


def _planted(rng: Generator, latent: float, mode: Mode) -> PlantedShape:
    standard = (latent - T_MEAN) / T_SD
    return PlantedShape(
        **{
            name: loading * standard + float(np.sqrt(1 - loading**2) * rng.standard_normal())
            for name, loading in loadings(mode).items()
        }
    )


def _shape(rng: Generator, bmi: float, *, male: bool) -> FaceShape:
    spread = [float(value) for value in rng.normal(0, 0.8, 7)]
    return FaceShape(
        face_width=spread[0],
        eye_spacing=spread[1],
        eye_tilt=spread[2],
        nose_width=spread[3] + 0.5 * male,
        nose_length=spread[4],
        mouth_width=spread[5],
        brow_weight=spread[6] + 0.5 * male,
        fullness=float(np.clip((bmi - 25) / 4 + 0.2 * rng.standard_normal(), -2, 2.5)),
        male=male,
    )


def _skin(rng: Generator, age: int, mix: CaseMix) -> Skin:
    wear = (age - 42) / 46
    wrinkles, sag, spots = np.clip(wear + rng.normal(0, (0.09, 0.10, 0.15)), 0, 1)
    melanin = float(np.clip(rng.normal(*mix.melanin), 0, 1))
    return Skin(
        melanin=melanin,
        redness=float(rng.uniform(0.1, 0.8)),
        wrinkles=float(wrinkles),
        sag=float(sag),
        spots=float(spots),
        texture=int(rng.integers(1, 5000)),
    )


def _hair(rng: Generator, age: int, mix: CaseMix, *, male: bool) -> Hair:
    grey = float(np.clip((age - 44) / 40 + rng.normal(0, 0.13), 0, 1))
    recession = (
        float(np.clip((age - 35) / 50 + rng.normal(0, 0.25), 0, 1)) if male else float(rng.uniform(0, 0.15))
    )
    style = (
        "short" if male else ("short", "bob", "long", "tied")[int(rng.choice(4, p=(0.30, 0.25, 0.15, 0.30)))]
    )
    pigment = float(np.clip(0.35 + 0.6 * mix.melanin[0] + rng.normal(0, 0.2), 0.05, 1))
    return Hair(style=style, pigment=pigment, grey=grey, recession=recession)  # type: ignore[arg-type]  # one of the four


def scene_of(patient: Patient, style: SiteStyle, rng: Generator) -> Scene:
    """The scene of one photo of a patient at a site; pose and light differ from photo to photo."""
    return Scene(
        planted=patient.planted,
        shape=patient.shape,
        skin=patient.skin,
        hair=patient.hair,
        pose=style.studio.pose(rng),
        light=style.studio.light(rng),
        backdrop=style.studio.backdrop(rng),
    )
