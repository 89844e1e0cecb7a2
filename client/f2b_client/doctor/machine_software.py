"""What is installed: the versions this release was tested with, and the weights the study needs."""

import platform
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from f2b_client.approval import approved_studies
from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.settings import SiteFolder, weights_folder
from face2bone_model.contract.errors import Face2BoneError
from face2bone_model.models.weights import find_background, find_trunk

DISTRIBUTION = "face2bone"
RANDOM = "random"
"""The name of the seeded random trunk, which needs no file."""
ADD = "Add it with `f2b-client weights add FILE` or `f2b-client weights add --from-registry`."
REINSTALL = "Install again into a fresh environment (docs/hospital-guide.md); the site folder is not touched."


def check_versions(folder: SiteFolder) -> Iterator[Finding]:
    """Compare Python and every library with what the installed release asks for."""
    try:
        about = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        yield failed("versions", "face2bone is not installed; it runs from loose files.", "", REINSTALL)
        return
    wanted = str(about.metadata.json.get("requires_python", ""))
    yield from judge_versions(wanted, platform.python_version(), about.requires or (), metadata.version)


def judge_versions(
    python_wanted: str, python: str, requirements: Sequence[str], version_of: Callable[[str], str]
) -> Iterator[Finding]:
    """Judge versions.

    Args:
        python_wanted: such as ">=3.11,<3.13".
        python: the version that runs.
        requirements: of the release, as in its metadata.
        version_of: the installed version of a library; raises PackageNotFoundError.
    """
    faults = []
    if python not in SpecifierSet(python_wanted, prereleases=True):
        faults.append(
            failed("python", f"This is Python {python}; the release asks for {python_wanted}.", "", REINSTALL)
        )
    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            faults.extend(_fault_of(requirement, version_of))
    yield from faults or [
        passed("versions", "Python and libraries are the versions this release was tested with.")
    ]


def _fault_of(requirement: Requirement, version_of: Callable[[str], str]) -> Iterator[Finding]:
    try:
        installed = version_of(requirement.name)
    except metadata.PackageNotFoundError:
        yield failed(
            "versions", f"The library {requirement.name} is not installed.", requirement.name, REINSTALL
        )
        return
    if requirement.specifier.contains(installed, prereleases=True):
        return
    exact = any(one.operator == "==" for one in requirement.specifier)
    yield (failed if exact else warned)(
        "versions",
        f"{requirement.name} is {installed}; the release asks for {requirement.specifier}.",
        requirement.name,
        REINSTALL,
    )


def check_weights(folder: SiteFolder) -> Iterator[Finding]:
    """Whether the weights folder holds what the approved studies, or any study, need; torch is not loaded for it."""
    try:
        weights, studies = weights_folder(folder), approved_studies(folder)
        wanted = {study.trunk_digest for study in studies if study.trunk_name != RANDOM}
        missing = [digest for digest in wanted if find_trunk(weights, digest) is None]
        has_trunk = find_trunk(weights) is not None
    except Face2BoneError as error:
        yield failed("weights", error.what, "site.toml [weights]", error.mend)
        return
    where = str(weights)
    if missing:
        yield failed(
            "weights", f"The trunk an approved study needs ({missing[0][:12]}…) is not there.", where, ADD
        )
    elif not studies and not has_trunk:
        yield warned(
            "weights", "There are no pretrained weights; the seeded random trunk would be used.", where, ADD
        )
    elif has_trunk and find_background(weights) is None:
        yield warned(
            "weights",
            "The network that removes backgrounds (u2netp) is missing; an ellipse is cut out instead.",
            where,
            f"{ADD} Every hospital of a study should prepare its photos alike.",
        )
    else:
        yield passed("weights", "The weights the studies need are there.", where)
