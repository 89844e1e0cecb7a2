"""How photos are prepared: the thresholds, as one settings record whose digest tells faces prepared alike."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PreparationSettings:
    """Thresholds of preparation. Every value is ours: the paper names none."""

    recipe: int = 1
    """Version of the fixed parts (template, masks, measures). Raised when one of them changes."""
    max_side: int = 2048
    """Photos are reduced to this many pixels on the longer side."""
    detection_side: int = 640
    """The detector sees the photo at this size: MTCNN's landmarks are no better on larger ones, only slower."""
    smallest_face: float = 0.10
    """Faces narrower than this share of the shorter side are not looked for."""
    min_probability: float = 0.95
    """MTCNN's own confidence that the box holds a face."""
    rival_share: float = 0.5
    """A second face is a rival if its eye distance is at least this share of the largest face's."""
    min_eye_distance: float = 24.0
    """Pixels between the eyes in the photo. The aligned face has 46, so a face may be enlarged at most twofold."""
    max_outside: float = 0.10
    """Share of the face ellipse that may lie outside the photo; forehead and hair are what is usually cut."""
    max_chin_outside: float = 0.01
    """Share of the lower face, mouth to chin, that may lie outside."""
    max_yaw: float = 25.0
    """Degrees to either side."""
    max_pitch: float = 40.0
    """Degrees up or down. Five landmarks tell it less well than yaw: a long nose or a smile counts as looking down."""
    max_roll: float = 40.0
    """Degrees in the picture plane; alignment undoes it, but the detector's landmarks get worse."""
    min_light: float = 60.0
    """The brighter parts (95th percentile of luminance, 0 to 255) must reach this. Judged by the brighter parts and
    not by the mean, so that dark skin in good light is not taken for a dark photo."""
    max_clipped: float = 0.30
    """Share of the face at 250 or more in luminance, where detail is lost."""
    min_sharpness: float = 40.0
    """Variance of the Laplacian at 160x160 and equal contrast."""

    min_foreground: float = 0.8
    """Share of the inner face that background removal must keep to be believed at all."""

    def digest(self, *, background: str) -> str:
        """SHA-256 of these settings and of what removes the background (a file's SHA-256 or `ellipse-only`)."""
        record = {"settings": dataclasses.asdict(self), "background": background}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How the faces of a cohort were prepared; every report states it."""

    settings_digest: str
    trunk_digest: str
    background: str
    """`u2netp` or `ellipse-only`."""
