"""Why a photo is not used: one reason each, with a sentence and how to mend it."""

from enum import StrEnum

from face2bone_model.contract.errors import InputError


class QuarantineReason(StrEnum):
    """The reasons for which a photo goes into quarantine."""

    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    TOO_SMALL = "too_small"
    TOUCHES_EDGE = "touches_edge"
    TURNED_AWAY = "turned_away"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    TOO_BLURRED = "too_blurred"

    @property
    def sentence(self) -> str:
        """What is wrong."""
        return _TEXTS[self][0]

    @property
    def mend(self) -> str:
        """How to mend it."""
        return _TEXTS[self][1]


_TEXTS: dict[QuarantineReason, tuple[str, str]] = {
    QuarantineReason.UNREADABLE: (
        "The file cannot be read as a picture.",
        "Export it again as JPEG, PNG, TIFF, BMP, WebP or HEIC.",
    ),
    QuarantineReason.TOO_LARGE: ("The picture has too many pixels.", "Export it with at most 80 megapixels."),
    QuarantineReason.NO_FACE: (
        "No face was found.",
        "Use an upright frontal photo in which the face takes up at least a tenth of the width.",
    ),
    QuarantineReason.SEVERAL_FACES: (
        "More than one face was found, the others at least half as large as the largest.",
        "Crop the photo to the patient. Smaller faces in the background do no harm.",
    ),
    QuarantineReason.TOO_SMALL: (
        "The face has too few pixels.",
        "Use the original photo, or one taken from closer by.",
    ),
    QuarantineReason.TOUCHES_EDGE: (
        "Part of the face lies outside the photo.",
        "Use a photo that shows the whole face with the chin and some space around it.",
    ),
    QuarantineReason.TURNED_AWAY: ("The face is turned away from the camera.", "Use a frontal photo."),
    QuarantineReason.TOO_DARK: ("The face is too dark.", "Use a photo with more light on the face."),
    QuarantineReason.TOO_BRIGHT: (
        "The face is overexposed.",
        "Use a photo with less light, or without flash.",
    ),
    QuarantineReason.TOO_BLURRED: (
        "The face is blurred.",
        "Use a sharp photo, or one with less compression.",
    ),
}


class Quarantined(InputError):  # noqa: N818  # a verdict on a photo, not a fault; reads as one at every raise
    """One photo cannot be used; the rest goes on."""

    def __init__(self, reason: QuarantineReason, photo: str, detail: str = "") -> None:
        super().__init__(" ".join(filter(None, (f"{photo}: {reason.sentence}", detail))), reason.mend)
        self.reason = reason
        self.photo = photo
        self.detail = detail
