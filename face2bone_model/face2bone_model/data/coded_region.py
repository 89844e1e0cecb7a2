"""The region of a coded result (FHIR, DICOM SR): from its LOINC code, its body site and the words around it."""

from face2bone_model.data.dxa_value import BadValueError
from face2bone_model.data.loinc import Bone
from face2bone_model.data.region_names import RegionNames
from face2bone_model.data.skeletal_site import L1_TO_L4, Region, SkeletalSite, recognise

SNOMED_SITES: dict[str, str] = {
    "29627003": "neck of femur",
    "122496007": "lumbar spine",
    "29836001": "hip",
    "24136001": "hip",
    "71341001": "femur",
    "62413002": "radius",
    "75129005": "ultradistal radius",
}
SNOMED_SIDES: dict[str, str] = {"7771000": "left", "24028007": "right"}

_DEFAULT: dict[Bone, Region] = {
    "spine": Region(site=SkeletalSite.LUMBAR_SPINE, vertebrae=L1_TO_L4),
    "hip": Region(site=SkeletalSite.TOTAL_HIP),
    "femur": Region(site=SkeletalSite.FEMUR_UNSPECIFIED),
}
_AGREE: dict[Bone, tuple[SkeletalSite, ...]] = {
    "spine": (SkeletalSite.LUMBAR_SPINE,),
    "hip": (SkeletalSite.FEMORAL_NECK, SkeletalSite.TOTAL_HIP),
    "femur": (SkeletalSite.FEMORAL_NECK, SkeletalSite.TOTAL_HIP),
    "radius": (SkeletalSite.RADIUS_33,),
}


def coded_region(bone: Bone | None, words: tuple[str, ...], names: RegionNames, where: str) -> Region | None:
    """The diagnostic region, or None if it is not one.

    Args:
        bone: as the LOINC code says; None if the result has no such code.
        words: body site and surrounding headings, innermost first.
        names: the site's own words.
        where: for the tally of names that were not used.

    Raises:
        BadValueError: code and body site name different bones.
    """
    region = _by_words(words, names)
    if region is None or (region.site is SkeletalSite.FEMUR_UNSPECIFIED and bone in ("hip", "femur")):
        region = _DEFAULT.get(bone) if bone else None
    elif bone and region.site is not SkeletalSite.NOT_DIAGNOSTIC and region.site not in _AGREE.get(bone, ()):
        raise BadValueError(
            f"The code says {bone}, the body site '{_spoken(words)}' says {region.site.words}; the result is not used.",
            "Correct the code or the body site.",
        )
    if region is None or region.site is SkeletalSite.NOT_DIAGNOSTIC:
        names.not_used(
            _spoken(words) or bone or "not named", where, known=region is not None or bone == "calcaneus"
        )
        return None
    return region


def _spoken(words: tuple[str, ...]) -> str:
    """From the outside in, as a person would say it."""
    return " ".join(reversed(words))


def _by_words(words: tuple[str, ...], names: RegionNames) -> Region | None:
    """The innermost words that name a region; outer headings are added until they do."""
    for depth in range(1, len(words) + 1):
        text = _spoken(words[:depth])
        region = names.listed(text) or recognise(text)
        if region is not None and (region.site is not SkeletalSite.FEMUR_UNSPECIFIED or depth == len(words)):
            return region
    return None
