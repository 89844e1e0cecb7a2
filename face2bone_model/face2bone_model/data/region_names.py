"""A site's own words for regions, sexes and menopausal states, and a tally of region names that were not used."""

from dataclasses import dataclass

from face2bone_model.data.dxa_row import Menopause, Sex
from face2bone_model.data.problem import Problem
from face2bone_model.data.site_settings import DxaValues
from face2bone_model.data.skeletal_site import (
    L1_TO_L4,
    Region,
    SkeletalSite,
    normalised,
    recognise,
    vertebrae_in,
)

_LISTABLE = (
    SkeletalSite.LUMBAR_SPINE,
    SkeletalSite.FEMORAL_NECK,
    SkeletalSite.TOTAL_HIP,
    SkeletalSite.RADIUS_33,
)


def sex_options(values: DxaValues) -> dict[Sex, tuple[str, ...]]:
    """Their words for each sex."""
    return {"female": values.female, "male": values.male}


def menopause_options(values: DxaValues) -> dict[Menopause, tuple[str, ...]]:
    """Their words for each menopausal state."""
    return {
        "postmenopausal": values.postmenopausal,
        "menopausal_transition": values.menopausal_transition,
        "premenopausal": values.premenopausal,
    }


def side_options(values: DxaValues) -> dict[str, tuple[str, ...]]:
    """Their words for left and right."""
    return {"left": values.left, "right": values.right}


@dataclass
class _Unused:
    """One region name that gave no measurement."""

    first: str
    count: int
    known: bool


class RegionNames:
    """Looks regions up; remembers each name it could not use once, however many rows have it."""

    def __init__(self, values: DxaValues) -> None:
        self._listed = {
            normalised(name): _listed_region(site, name)
            for site in _LISTABLE
            for name in getattr(values, site.value)
        }
        self._unused: dict[str, _Unused] = {}

    def region(self, name: str, where: str) -> Region | None:
        """The diagnostic region that `name` means, or None.

        A single vertebra is given back, for it tells whether its neighbours can be used; it is never a diagnosis.
        """
        region = self.listed(name)
        if region is not None:
            return region
        guess = recognise(name)
        known = guess is not None and guess.site is SkeletalSite.NOT_DIAGNOSTIC
        if guess is not None and not known and (not self._listed or len(guess.vertebrae) == 1):
            return guess
        self.not_used(name, where, known=known)
        return None

    def listed(self, name: str) -> Region | None:
        """The region whose list in `[dxa.values]` has `name`."""
        return self._listed.get(normalised(name))

    def not_used(self, name: str, where: str, *, known: bool) -> None:
        """Count a row whose region is known to be no diagnostic site, or is not known."""
        self._unused.setdefault(normalised(name), _Unused(first=where, count=0, known=known)).count += 1

    def problems(self, file: str) -> tuple[Problem, ...]:
        """One problem for each name that was not used."""
        return tuple(_describe(name, unused, file) for name, unused in self._unused.items())


def _listed_region(site: SkeletalSite, name: str) -> Region:
    if site is not SkeletalSite.LUMBAR_SPINE:
        return Region(site=site)
    return Region(site=site, vertebrae=vertebrae_in(name) or L1_TO_L4)


def _describe(name: str, unused: _Unused, file: str) -> Problem:
    rows = "1 row" if unused.count == 1 else f"{unused.count} rows of {file}"
    if unused.known:
        what = f"Region '{name}' ({rows}) is not a diagnostic site; it is not used."
        return Problem(unused.first, what, "Nothing to do.")
    what = f"Region '{name}' ({rows}) is not known; it is not used."
    return Problem(unused.first, what, "If it is diagnostic, add it to its list in [dxa.values].")
