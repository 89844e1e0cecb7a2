"""What one picture shows: a face, its skin and hair, its pose, the light and the backdrop.

Lengths are in *face units*: half the height of the head. The origin lies between the eyes and the nose, x points to
the viewer's right, y down, z at the camera. Shape features are in standard deviations from the average face.
"""

from dataclasses import astuple, dataclass
from typing import Literal

HairStyle = Literal["short", "bob", "long", "tied"]
BackdropKind = Literal["wall", "curtain", "tiles", "shelves"]
Colour = tuple[float, float, float]
"""Linear red, green, blue between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class PlantedShape:
    """The five bony features that bone density drives, in standard deviations."""

    mandible_width: float = 0.0
    """Distance between the jaw angles."""
    mandible_angle: float = 0.0
    """Gonial angle: positive is more obtuse, a steeper and narrower lower face."""
    chin_projection: float = 0.0
    orbital_aperture: float = 0.0
    maxillary_retrusion: float = 0.0

    def values(self) -> tuple[float, ...]:
        """The five values in the order of the fields."""
        return astuple(self)


@dataclass(frozen=True, kw_only=True)
class FaceShape:
    """Individual shape that has nothing to do with bone, in standard deviations."""

    face_width: float = 0.0
    eye_spacing: float = 0.0
    eye_tilt: float = 0.0
    nose_width: float = 0.0
    nose_length: float = 0.0
    mouth_width: float = 0.0
    brow_weight: float = 0.0
    fullness: float = 0.0
    """Soft tissue, from the body mass index."""
    male: bool = False


@dataclass(frozen=True, kw_only=True)
class Skin:
    """Colour and age of the skin; every value between 0 and 1."""

    melanin: float = 0.3
    redness: float = 0.4
    wrinkles: float = 0.3
    sag: float = 0.3
    spots: float = 0.2
    texture: int = 0
    """Which piece of the noise tiles is used."""


@dataclass(frozen=True, kw_only=True)
class Hair:
    """Style, pigment (0 blond to 1 black), share of grey and how far the hairline has moved up (0 to 1)."""

    style: HairStyle = "short"
    pigment: float = 0.7
    grey: float = 0.2
    recession: float = 0.2


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the head is: angles in radians, `scale` in picture heights per face unit, shifts in face units."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    scale: float = 0.27
    shift_x: float = 0.0
    shift_y: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Light:
    """One key light and an ambient: direction in radians (0, 0 is the camera), strengths, colour."""

    azimuth: float = 0.4
    elevation: float = 0.5
    key: float = 0.8
    ambient: float = 0.45
    colour: Colour = (1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """What is behind the patient, and the colour of the clothes."""

    kind: BackdropKind = "wall"
    colour: Colour = (0.55, 0.6, 0.62)
    clothes: Colour = (0.25, 0.35, 0.45)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything the renderer needs for one face."""

    planted: PlantedShape = PlantedShape()
    shape: FaceShape = FaceShape()
    skin: Skin = Skin()
    hair: Hair = Hair()
    pose: Pose = Pose()
    light: Light = Light()
    backdrop: Backdrop = Backdrop()
