"""What stands at the head of every page: which study, which software, and what a reader must know first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the figures of a page come from."""

    title: str
    question: str
    study_hash: str
    """SHA-256 of the study, in hexadecimal."""
    written_at: datetime
    """With its time zone."""
    software_version: str
    model: str
    """The network and its trunk in one line, such as `FaceNet (CASIA-WebFace), FSA, both branches, KAN head`."""
    synthetic: bool = False
    """The faces are rendered, not photographed."""
    random_trunk: bool = False
    """No pretrained trunk was found: its weights are seeded random numbers."""
    ellipse_only: bool = False
    """No background network was found: the background is removed by an elliptical mask alone."""
    min_cell: int = 11
    """Smallest number of patients a released cell may hold; 1 or less means that nothing was withheld."""


@dataclass(frozen=True, kw_only=True)
class Banner:
    """A sentence that must be read before the figures."""

    heading: str
    text: str


def banners_of(provenance: Provenance) -> Sequence[Banner]:
    """The banners that apply, the gravest first."""
    told = (
        (provenance.synthetic, SYNTHETIC),
        (provenance.random_trunk, RANDOM_TRUNK),
        (provenance.ellipse_only, ELLIPSE_ONLY),
        (provenance.min_cell <= 1, UNSUPPRESSED),
    )
    return [banner for applies, banner in told if applies]


SYNTHETIC = Banner(
    heading="Synthetic faces: no clinical claim.",
    text="Every face on which this page rests was drawn by a program. The figures show that the software works, "
    "not that faces reveal bone.",
)
RANDOM_TRUNK = Banner(
    heading="Random trunk.",
    text="No pretrained FaceNet weights were found, so the frozen part of the network holds seeded random numbers. "
    "Expect lower figures than with the real weights.",
)
ELLIPSE_ONLY = Banner(
    heading="Ellipse only.",
    text="No background network was found, so backgrounds were removed by an elliptical mask alone.",
)
UNSUPPRESSED = Banner(
    heading="Small-cell suppression off (min_cell = 1).",
    text="Counts of any size left the hospitals. This suits rendered faces or a rehearsal, not patients.",
)
SITE_ONLY = Banner(
    heading="This page stays at the hospital.",
    text="It holds this hospital's own figures, small cells included, as they were before suppression. "
    "Do not send it to the coordinating centre or to another hospital.",
)
