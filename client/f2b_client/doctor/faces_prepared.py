"""Prepared faces: colour, masks and glasses, sharpness, one face under two patients, and what is in quarantine."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab

from f2b_client.doctor.data_facts import SYSTEMATIC, SiteFacts, patients, photos, places
from f2b_client.doctor.faces_alike import similar_pairs
from f2b_client.doctor.finding import Finding, Verdict
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.prepare import PreparedSite
from face2bone_model.data.detection import FaceDetector
from face2bone_model.data.masks import inner_face
from face2bone_model.data.photo import read_photo
from face2bone_model.data.preparation import PreparationSettings
from face2bone_model.data.quality import measure_pixels
from face2bone_model.data.quarantine import Quarantined, QuarantineReason

MOST_FACES = 500
"""Faces whose pixels are looked at, evenly drawn where there are more."""

_BLUER = 6.0
"""Grey levels by which blue must exceed red. Skin of every tone reflects more red than blue; exchanged channels give 30
and more, and a blue light at most takes the difference away."""
_GREY = 2.0
"""Mean difference between channels, grey levels: JPEG leaves about 1 in a photo without colour."""
_MASK_DISTANCE = 12.0
"""CIELAB chroma units between mouth and forehead. Skin against skin gives 1 to 8, a blue mask 35, a white one 18."""
_BRIDGE_STEP = 0.6
"""Steepest step of luminance down the bridge of the nose, in standard deviations of the face: frames give more than 1,
skin 0.05 to 0.15."""
_DARK_EYES = 0.4
"""Share of the eye region below 45 % of the cheeks' luminance: sunglasses give 0.9, dark eyes and lashes up to 0.1."""
_OCCLUDED_SHARE = 0.1
_OTHER_SHARE = 0.05
_UNSHARP = 2.0
"""Times `min_sharpness`; below it a face is used, but shows few lines of the skin."""
_UNSHARP_SHARE = 0.2
_QUARANTINE_FAILS = 0.5
_MOST_TURNED = 20
"""Photos without a face that are tried in other directions."""
_QUARTER_TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)

# Regions of the aligned face (160, 160), in its pixels: eyes at y 62, mouth at y 120.
_FOREHEAD = (slice(30, 45), slice(60, 100))
_MOUTH = (slice(112, 140), slice(60, 100))
_BRIDGE = (slice(52, 72), slice(74, 86))
_EYES = ((slice(50, 75), slice(40, 75)), (slice(50, 75), slice(85, 120)))
_CHEEKS = (slice(88, 104), slice(50, 110))
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601

Sample = tuple[list[str], list[NDArray[np.uint8]]]
"""Photos, and their faces (160, 160, 3)."""


def check_faces(facts: SiteFacts, prepared: PreparedSite) -> Iterator[Finding]:
    """Everything that the pixels of prepared faces tell, each face read once."""
    sample = _sample(facts, prepared)
    yield from _check_colour(sample)
    yield from _check_occlusion(sample)
    yield _check_sharpness(sample)


def _sample(facts: SiteFacts, prepared: PreparedSite) -> Sample:
    names = facts.cached_photos()
    rows = sorted({int(row) for own in prepared.cohort.photo_rows for row in own})
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_FACES)).round().astype(int))
    picked = [rows[place] for place in chosen]
    return [names.get(row, f"row {row}") for row in picked], [
        np.asarray(prepared.cohort.faces[row]) for row in picked
    ]


def _check_colour(sample: Sample) -> Iterator[Finding]:
    spreads = [float(np.ptp(face[inner_face()].astype(np.int16), axis=1).mean()) for face in sample[1]]
    bluer = [name for name, face in zip(*sample, strict=True) if has_blue_skin(face)]
    yield _by_share(
        "bgr-photos", bluer, sample, 0.0,
        bad="show blue skin: red and blue are exchanged (BGR)", good="Skin is redder than blue on every face.",
        mend="Export the photos again; a program wrote its channels in the order blue, green, red.",
        verdict=Verdict.FAIL if len(bluer) > SYSTEMATIC * len(sample[0]) else Verdict.WARN,
    )  # fmt: skip
    grey = [name for name, spread in zip(sample[0], spreads, strict=True) if spread <= _GREY]
    yield _by_share(
        "greyscale-photos", grey, sample, _OTHER_SHARE,
        bad="have no colour", good="Nearly all photos have colour.",
        mend="Use colour photos throughout: a mix lets the network tell one half from the other.",
    )  # fmt: skip


def has_blue_skin(face: NDArray[np.uint8]) -> bool:
    """Whether forehead and cheeks of an aligned face (160, 160, 3) are bluer than red: a blue mask hides the cheeks."""
    medians = (np.median(face[region].reshape(-1, 3), axis=0) for region in (_FOREHEAD, _CHEEKS))
    return all(float(blue - red) > _BLUER for red, _, blue in medians)


def _check_occlusion(sample: Sample) -> Iterator[Finding]:
    masked = [name for name, face in zip(*sample, strict=True) if wears_mask(face)]
    yield _by_share(
        "face-masks", masked, sample, _OCCLUDED_SHARE,
        bad="seem to show a mask over mouth and nose", good="Few faces or none are covered by a mask.",
        mend="Photograph patients without a mask; half of the face is missing.",
    )  # fmt: skip
    glasses = [name for name, face in zip(*sample, strict=True) if wears_glasses(face)]
    yield _by_share(
        "glasses", glasses, sample, _OCCLUDED_SHARE,
        bad="seem to show glasses", good="Few faces or none wear glasses.",
        mend="Photograph patients without glasses, as the study's protocol for photos asks.",
    )  # fmt: skip


def wears_mask(face: NDArray[np.uint8]) -> bool:
    """Whether mouth and forehead of an aligned face (160, 160, 3) have different colours."""
    lab = rgb2lab(face)
    mouth, forehead = (np.median(lab[region].reshape(-1, 3), axis=0) for region in (_MOUTH, _FOREHEAD))
    return float(np.hypot(*(mouth - forehead)[1:])) > _MASK_DISTANCE


def wears_glasses(face: NDArray[np.uint8]) -> bool:
    """Whether an aligned face (160, 160, 3) has a frame over the nose, or eyes as dark as sunglasses."""
    luminance = face.astype(np.float64) @ _LUMINANCE
    contrast = max(float(luminance[inner_face()].std()), 1.0)
    step = float(np.abs(np.diff(luminance[_BRIDGE].mean(axis=1))).max()) / contrast
    eyes = np.concatenate([luminance[region].ravel() for region in _EYES])
    dark = float(np.mean(eyes < 0.45 * np.median(luminance[_CHEEKS])))
    return step > _BRIDGE_STEP or dark > _DARK_EYES


def _check_sharpness(sample: Sample) -> Finding:
    limit = _UNSHARP * PreparationSettings().min_sharpness
    soft = [name for name, face in zip(*sample, strict=True) if measure_pixels(face)["sharpness"] < limit]
    return _by_share(
        "soft-photos", soft, sample, _UNSHARP_SHARE,
        bad="are only just sharp enough", good="Most photos are sharp.",
        mend="Clean the lens, hold the camera still, and export without strong compression.",
    )  # fmt: skip


def _by_share(  # noqa: PLR0913  # the words of one finding
    check: str,
    found: list[str],
    sample: Sample,
    share: float,
    *,
    bad: str,
    good: str,
    mend: str,
    verdict: Verdict = Verdict.WARN,
) -> Finding:
    of = len(sample[0])
    if not found or len(found) < share * of:
        return passed(check, good, "cache/")
    what = f"{photos(len(found))} of {of} {bad}."
    return Finding(check=check, verdict=verdict, what=what, where=places(found), mend=mend)


def check_same_face(facts: SiteFacts, prepared: PreparedSite) -> Iterator[Finding]:
    """Find one face under two patients by what the trunk sees, whatever was done to the file."""
    cohort, names = prepared.cohort, facts.cached_photos()
    rows = np.array([row for own in cohort.photo_rows for row in own], dtype=np.int64)
    owner = np.array([index for index, own in enumerate(cohort.photo_rows) for _ in own], dtype=np.int64)
    pairs = similar_pairs(cohort.features, rows, owner)
    across = [(a, b) for a, b in pairs if cohort.splits[owner[a]] != cohort.splits[owner[b]]]
    yield _alike_finding("same-face-two-ids", pairs, rows, names)
    yield _alike_finding("same-face-across-splits", across, rows, names)


def _alike_finding(
    check: str, pairs: list[tuple[int, int]], rows: NDArray[np.int64], names: dict[int, str]
) -> Finding:
    across = check == "same-face-across-splits"
    if not pairs:
        words = "in two splits" if across else "under two patients"
        return passed(check, f"None of {photos(len(rows))} shows a face that stands {words}.", "cache/")
    where = places([f"{names.get(int(rows[a]), '')} = {names.get(int(rows[b]), '')}" for a, b in pairs])
    mend = "Compare the photos; if they show one person, keep one identifier. Twins may stay."
    if across:
        what = f"{len(pairs)} pairs of photos show the same face in two splits: a test patient is trained on."
        return failed(check, what, where, mend)
    return warned(check, f"{len(pairs)} pairs of photos show the same face under two patients.", where, mend)


def check_quarantine(facts: SiteFacts, prepared: PreparedSite) -> Iterator[Finding]:
    """Find that many photos could not be used."""
    report = prepared.report
    aside = sum(report.quarantined.values())
    share = aside / max(1, report.photos)
    if share >= SYSTEMATIC:
        reason, most = Counter(report.quarantined).most_common(1)[0]
        what = f"{photos(aside)} of {report.photos} are in quarantine, {most} of them as '{reason}'."
        verdict = Verdict.FAIL if share >= _QUARANTINE_FAILS else Verdict.WARN
        where, mend = (
            places([str(record["photo"]) for record in facts.quarantined()]),
            (QuarantineReason(reason).mend + " reports/contact-sheet.html shows each one."),
        )
        yield Finding(check="quarantine", verdict=verdict, what=what, where=where, mend=mend)
    else:
        yield passed("quarantine", f"{photos(aside)} of {report.photos} are in quarantine.", "quarantine/")


def check_turned(facts: SiteFacts, _: PreparedSite) -> Iterator[Finding]:
    """Find photos lying on their side or upside down: turned, they show the face that was not found."""
    sideways = {QuarantineReason.NO_FACE.value, QuarantineReason.TURNED_AWAY.value}
    tried = [str(record["photo"]) for record in facts.quarantined() if record["reason"] in sideways]
    detector = FaceDetector(PreparationSettings(), device="cpu") if tried else None
    turned = [name for name in tried[:_MOST_TURNED] if detector and _faces_when_turned(detector, facts, name)]
    if turned:
        what = (
            f"{photos(len(turned))} show a face only when turned: {patients(len(turned))} or fewer are lost."
        )
        mend = "Turn them upright and save them again; the camera did not note how it was held."
        yield warned("rotated-photos", what, places(turned), mend)
    else:
        yield passed("rotated-photos", "No photo without a face shows one when turned.", "quarantine/")


def _faces_when_turned(detector: FaceDetector, facts: SiteFacts, name: str) -> bool:
    try:
        photo = Image.fromarray(read_photo(facts.folder.path / name, max_side=640))
    except Quarantined:
        return False
    return any(len(detector.find_all(photo.transpose(turn))) == 1 for turn in _QUARTER_TURNS)
