"""Find the face: MTCNN's box, probability and five landmarks, in photo pixels."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN
from numpy.typing import NDArray
from PIL import Image

from face2bone_model.data.preparation import PreparationSettings
from face2bone_model.data.quarantine import Quarantined, QuarantineReason


@dataclass(frozen=True)
class DetectedFace:
    """One face in a photo."""

    probability: float
    landmarks: NDArray[np.float64]
    """(5, 2) px: left eye, right eye, nose tip, left and right mouth corner, as seen in the photo."""

    @property
    def eye_distance(self) -> float:
        """Pixels between the eyes."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))


class FaceDetector:
    """MTCNN (Zhang et al., 2016; weights shipped with facenet-pytorch) on reduced photos, by any number of threads."""

    def __init__(self, settings: PreparationSettings, *, device: str = "auto") -> None:
        self._settings = settings
        self._device = choose_device(device)
        self._of_thread = threading.local()  # MTCNN keeps its smallest face in an attribute

    def find(self, photo: Image.Image, name: str) -> DetectedFace:
        """The patient's face.

        The largest face is the patient's. Another counts as a rival, and the photo is not used, if its eye distance is
        at least `rival_share` of it; smaller ones (a poster, somebody behind) do no harm.

        Raises:
            Quarantined: no face, or several comparable ones.
        """
        faces = sorted(self.find_all(photo), key=lambda face: face.eye_distance, reverse=True)
        if not faces:
            raise Quarantined(QuarantineReason.NO_FACE, name)
        rivals = [
            face for face in faces if face.eye_distance >= self._settings.rival_share * faces[0].eye_distance
        ]
        if len(rivals) > 1:
            raise Quarantined(QuarantineReason.SEVERAL_FACES, name, f"There are {len(rivals)}.")
        return faces[0]

    def find_all(self, photo: Image.Image) -> list[DetectedFace]:
        """Every face of sufficient probability."""
        small, shrink = self._reduced(photo)
        mtcnn = self._mtcnn()
        # MTCNN reads its smallest face from an attribute at each call; the constructor would reload the weights.
        mtcnn.min_face_size = max(20, round(self._settings.smallest_face * min(small.size)))
        try:
            found: tuple[Any, ...] = mtcnn.detect(small, landmarks=True)
        except torch.cuda.OutOfMemoryError:
            raise
        except (ValueError, IndexError, RuntimeError):
            # facenet-pytorch fails so, instead of finding nothing, when every candidate box lies outside the photo.
            return []
        _, probabilities, landmarks = found
        if landmarks is None:
            return []
        return [
            DetectedFace(
                probability=float(probability), landmarks=np.asarray(points, dtype=np.float64) / shrink
            )
            for probability, points in zip(probabilities, landmarks, strict=True)
            if probability >= self._settings.min_probability
        ]

    def _mtcnn(self) -> Any:
        """This thread's network."""
        if not hasattr(self._of_thread, "mtcnn"):
            self._of_thread.mtcnn = MTCNN(keep_all=True, device=self._device).eval()
        return self._of_thread.mtcnn

    def _reduced(self, photo: Image.Image) -> tuple[Image.Image, NDArray[np.float64]]:
        """The photo at detection size, and the exact (x, y) factors by which it was reduced."""
        scale = min(1.0, self._settings.detection_side / max(photo.size))
        if scale == 1.0:
            return photo, np.ones(2)
        size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        small = photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
        return small, np.array(size) / np.array(photo.size)


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
