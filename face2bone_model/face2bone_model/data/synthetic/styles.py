"""What distinguishes one hospital's photos, patients and export from another's."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.random import Generator

from face2bone_model.data.synthetic.scene import Backdrop, BackdropKind, Colour, Light, Pose

ExportFormat = Literal["csv-long", "csv-wide", "fhir"]


@dataclass(frozen=True, kw_only=True)
class CaseMix:
    """Who is referred to this hospital. Prevalence differs between sites through age, sex and body mass alone."""

    age_mean: float
    age_sd: float = 9.5
    share_male: float = 0.25
    bmi_mean: float = 25.0
    melanin: tuple[float, float] = (0.25, 0.12)
    """Mean and standard deviation of skin pigment, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """The site's camera: picture size in pixels, lens, colour and file."""

    width: int
    height: int
    jpeg_quality: int
    cast: Colour = (1.0, 1.0, 1.0)
    """Gain of red, green and blue that white balance left."""
    exposure: float = 1.0
    blur: tuple[float, float] = (0.3, 0.7)
    """Range of the lens blur's standard deviation, pixels of a 400-pixel high picture."""
    noise: float = 0.006
    """Sensor noise at mid-grey, share of full scale."""
    vignette: float = 0.06
    contrast: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Studio:
    """The room where patients are photographed: backdrop, light and how well heads are held."""

    backdrop_kind: BackdropKind
    backdrop_colour: Colour
    clothes: tuple[Colour, ...]
    azimuth: float
    azimuth_sd: float
    ambient: float
    key: float
    yaw_sd: float = 0.05
    pitch_sd: float = 0.04
    roll_sd: float = 0.03
    scale: float = 0.27

    def pose(self, rng: Generator) -> Pose:
        """A head held about straight."""
        yaw, pitch, roll = np.clip(rng.standard_normal(3), -2.2, 2.2) * (
            self.yaw_sd,
            self.pitch_sd,
            self.roll_sd,
        )
        scale = self.scale * float(rng.uniform(0.94, 1.06))
        shift = rng.uniform(-0.08, 0.08, 2)
        return Pose(
            yaw=float(yaw),
            pitch=float(pitch),
            roll=float(roll),
            scale=scale,
            shift_x=float(shift[0]),
            shift_y=float(shift[1]),
        )

    def light(self, rng: Generator) -> Light:
        """The room's light as it falls today."""
        return Light(
            azimuth=float(rng.normal(self.azimuth, self.azimuth_sd)),
            elevation=float(rng.uniform(0.35, 0.70)),
            key=self.key * float(rng.uniform(0.92, 1.08)),
            ambient=self.ambient * float(rng.uniform(0.92, 1.08)),
        )

    def backdrop(self, rng: Generator) -> Backdrop:
        """The room's backdrop and what the patient wears."""
        shade = float(rng.uniform(0.92, 1.08))
        red, green, blue = (shade * channel for channel in self.backdrop_colour)
        clothes = self.clothes[int(rng.integers(len(self.clothes)))]
        return Backdrop(kind=self.backdrop_kind, colour=(red, green, blue), clothes=clothes)


@dataclass(frozen=True, kw_only=True)
class SiteStyle:
    """One hospital."""

    mix: CaseMix
    camera: Camera
    studio: Studio
    export: ExportFormat
    photo_name: str = "{patient}_{index}{suffix}"
    photo_pattern: str = "^(?P<patient>[A-Za-z0-9]+)"
    """Finds the patient in a photo's file name; goes into `site.toml`."""
    bad_photos: float = 0.06
    """Unusable or odd photos, as a share of the good patients; they come on top."""
    bad_rows: float = 0.04
    first_bad: int = 0
    """Which kind of bad item comes first, so that small cohorts of different sites differ."""


_HARBOUR = SiteStyle(
    mix=CaseMix(age_mean=66.0, share_male=0.25, bmi_mean=25.0, melanin=(0.18, 0.10)),
    camera=Camera(width=480, height=600, jpeg_quality=92, cast=(1.03, 1.0, 0.96)),
    studio=Studio(
        backdrop_kind="wall",
        backdrop_colour=(0.50, 0.55, 0.60),
        azimuth=0.25,
        azimuth_sd=0.15,
        ambient=0.48,
        key=0.72,
        clothes=((0.25, 0.38, 0.50), (0.55, 0.55, 0.52), (0.20, 0.22, 0.30), (0.45, 0.20, 0.22)),
    ),
    export="csv-long",
)
_HILLTOP = SiteStyle(
    mix=CaseMix(age_mean=70.5, share_male=0.20, bmi_mean=24.3, melanin=(0.30, 0.12)),
    camera=Camera(
        width=400,
        height=500,
        jpeg_quality=80,
        cast=(0.94, 1.0, 1.08),
        exposure=0.92,
        blur=(0.5, 0.9),
        noise=0.010,
    ),
    studio=Studio(
        backdrop_kind="tiles",
        backdrop_colour=(0.62, 0.64, 0.60),
        azimuth=-0.35,
        azimuth_sd=0.20,
        ambient=0.40,
        key=0.82,
        clothes=((0.62, 0.66, 0.64), (0.30, 0.45, 0.40)),
        scale=0.25,
        yaw_sd=0.06,
    ),
    export="csv-wide",
    photo_name="frontal-{patient}-{index}{suffix}",
    photo_pattern="^frontal-(?P<patient>[A-Za-z0-9]+)",
    bad_photos=0.05,
    first_bad=3,
)
_RIVERSIDE = SiteStyle(
    mix=CaseMix(age_mean=62.5, share_male=0.35, bmi_mean=25.8, melanin=(0.42, 0.20)),
    camera=Camera(
        width=540,
        height=720,
        jpeg_quality=85,
        cast=(1.08, 1.0, 0.88),
        exposure=1.06,
        contrast=1.06,
        vignette=0.12,
    ),
    studio=Studio(
        backdrop_kind="curtain",
        backdrop_colour=(0.35, 0.45, 0.38),
        azimuth=0.0,
        azimuth_sd=0.35,
        ambient=0.50,
        key=0.66,
        clothes=((0.15, 0.30, 0.28), (0.60, 0.50, 0.36), (0.30, 0.26, 0.42)),
        scale=0.25,
        pitch_sd=0.05,
    ),
    export="fhir",
    photo_name="{patient}.front.{index}{suffix}",
    bad_photos=0.07,
    first_bad=6,
)
BUILT_IN: dict[str, SiteStyle] = {"harbour": _HARBOUR, "hilltop": _HILLTOP, "riverside": _RIVERSIDE}


def style_of(site: str) -> SiteStyle:
    """The style of a site: built in, or made up from the name's hash, always the same for the same name."""
    if site in BUILT_IN:
        return BUILT_IN[site]
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(site.encode()).digest()[:8], "big"))
    body, picture, room = (list(BUILT_IN.values())[int(rng.integers(3))] for _ in range(3))
    cast = (float(rng.uniform(0.93, 1.08)), 1.0, float(rng.uniform(0.88, 1.08)))
    kind: BackdropKind = ("wall", "curtain", "tiles", "shelves")[int(rng.integers(4))]
    red, green, blue = (float(value) for value in rng.uniform(0.3, 0.65, 3))
    return SiteStyle(
        mix=replace(
            body.mix, age_mean=float(rng.uniform(62.5, 70.5)), melanin=(float(rng.uniform(0.15, 0.5)), 0.15)
        ),
        camera=replace(picture.camera, cast=cast),
        studio=replace(room.studio, backdrop_kind=kind, backdrop_colour=(red, green, blue)),
        export=body.export,
        first_bad=int(rng.integers(9)),
    )
