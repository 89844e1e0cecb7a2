"""The data half of the doctor: export, patients, photos and prepared faces of one site."""

from collections.abc import Iterator

from f2b_client.doctor.data_cohort import (
    check_children,
    check_identifiers,
    check_left_out,
    check_prevalence,
    check_sizes,
)
from f2b_client.doctor.data_export import (
    check_age_of_export,
    check_dates,
    check_devices,
    check_diagnosis,
    check_headings,
    check_letters,
    check_regions,
)
from f2b_client.doctor.data_facts import ExportRule, FaceRule, PhotoRule, SiteFacts, read_facts
from f2b_client.doctor.data_problems import check_readable, check_rows
from f2b_client.doctor.data_values import (
    check_body_size,
    check_density,
    check_same_scan,
    check_t_against_density,
    check_z_for_t,
)
from f2b_client.doctor.faces_files import check_pictures
from f2b_client.doctor.faces_prepared import check_faces, check_quarantine, check_same_face, check_turned
from f2b_client.doctor.finding import Check, Finding
from f2b_client.doctor.outcome import failed
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import Face2BoneError

EXPORT_RULES: tuple[ExportRule, ...] = (
    check_rows,
    check_letters,
    check_headings,
    check_regions,
    check_density,
    check_z_for_t,
    check_t_against_density,
    check_body_size,
    check_diagnosis,
    check_same_scan,
    check_dates,
    check_age_of_export,
    check_devices,
    check_identifiers,
    check_children,
    check_left_out,
    check_sizes,
    check_prevalence,
)
PHOTO_RULES: tuple[PhotoRule, ...] = (check_pictures,)
FACE_RULES: tuple[FaceRule, ...] = (check_faces, check_same_face, check_quarantine, check_turned)


def check_data(folder: SiteFolder) -> Iterator[Finding]:
    """Read the site once and look for everything; what cannot be read is a finding, and the rest goes on."""
    try:
        facts = read_facts(folder)
    except Face2BoneError as error:
        mend = error.mend or "docs/hospital-guide.md explains each line."
        yield failed("site-settings", error.what, "site.toml", mend)
        return
    yield from check_readable(facts)
    yield from _check_parts(facts)


def _check_parts(facts: SiteFacts) -> Iterator[Finding]:
    if facts.manifest is not None:
        for export_rule in EXPORT_RULES:
            yield from export_rule(facts, facts.manifest)
    for photo_rule in PHOTO_RULES:
        yield from photo_rule(facts)
    if facts.prepared is not None:
        for face_rule in FACE_RULES:
            yield from face_rule(facts, facts.prepared)


DATA_CHECKS: tuple[Check, ...] = (check_data,)
"""One check of many findings, so that the export is read once."""
