"""The export as a file and a table: its letters, its headings, its age, and what `site.toml` takes from it."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from f2b_client.doctor.data_facts import SiteFacts, by_share, patients, photos, places
from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from face2bone_model.contract.keys import CLASSES
from face2bone_model.data.manifest import Manifest
from face2bone_model.data.skeletal_site import SkeletalSite, normalised, recognise

_DAY_SECONDS = 86_400.0
_Z_HEADING = re.compile(r"(?<![a-z])z(?![a-z])|zscore|zwert")
_T_HEADING = re.compile(r"(?<![a-z])t(?![a-z])|tscore|twert")
_CLASS_WORDS: Mapping[str, int] = {
    word: index
    for index, words in enumerate(
        (
            ("normal", "normalbefund", "正常"),
            ("osteopenia", "osteopenie", "low bone mass", "骨量减少", "骨量減少"),
            ("osteoporosis", "osteoporose", "骨质疏松", "骨質疏鬆"),
        )
    )
    for word in words
}
_MOSTLY = 0.8
"""Share of a column's cells that must be names of classes for it to be a diagnosis."""
_ENOUGH_ON_A_DEVICE = 3
"""Patients: fewer may be a slip of the pen in the device column."""
_LISTED = ("lumbar_spine", "femoral_neck", "total_hip", "radius_33")


def check_letters(facts: SiteFacts, _: Manifest) -> Iterator[Finding]:
    """Find letters that were decoded as another encoding than they were written in ("GrÃ¶ÃŸe")."""
    raw = _raw_text(facts)
    encoding = facts.settings.dxa.encoding
    if raw is None or raw.isascii():
        yield passed("letters", "The export's letters are read as they were written.", facts.export_name)
        return
    wide = encoding.lower().replace("_", "-") not in {"utf-8", "utf8", "utf-8-sig"} and _is_utf8(raw)
    if wide or b"\xc3\x83\xc2" in raw or "\ufffd".encode() in raw:
        what = (
            f"The export is written in UTF-8, but site.toml says '{encoding}': letters with accents come out wrong."
            if wide
            else "Letters of the export were spoilt by an earlier conversion (such as 'Ã¶' for 'ö')."
        )
        yield warned(
            "letters", what, facts.export_name, 'Export again as UTF-8, with [dxa] encoding = "utf-8".'
        )
        return
    yield passed("letters", "The export's letters are read as they were written.", facts.export_name)


def _raw_text(facts: SiteFacts) -> bytes | None:
    if not facts.settings.dxa.format.startswith("csv") or not facts.export.is_file():
        return None
    return facts.export.read_bytes()


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def check_headings(facts: SiteFacts, _: Manifest) -> Iterator[Finding]:
    """Find T-scores that are taken from a column headed Z, and Z-scores from one headed T."""
    columns = facts.settings.dxa.columns
    swapped = [
        f"{ours} = '{theirs}'"
        for ours, theirs in vars(columns).items()
        if theirs and _other_score(ours, normalised(theirs).replace("_", " "))
    ]
    if swapped:
        what = f"[dxa.columns] takes a score from a column headed as the other one: {', '.join(swapped)}."
        yield failed(
            "z-for-t-heading", what, "site.toml", "T-scores make the classes: map the T-score's column."
        )
    else:
        yield passed("z-for-t-heading", "No T-score is taken from a column headed Z.", "site.toml")


def _other_score(ours: str, heading: str) -> bool:
    t_like, z_like = bool(_T_HEADING.search(heading)), bool(_Z_HEADING.search(heading))
    if ours.startswith("t_"):
        return z_like and not t_like
    return ours.startswith("z_") and t_like and not z_like


def check_regions(facts: SiteFacts, _: Manifest) -> Iterator[Finding]:
    """Find regions that are no diagnostic site, such as Ward's triangle, taken for one."""
    values, columns = facts.settings.dxa.values, facts.settings.dxa.columns
    named = [(f"[dxa.values] {site}", name) for site in _LISTED for name in getattr(values, site)]
    named += [
        (f"[dxa.columns] {ours}", theirs)
        for ours, theirs in vars(columns).items()
        if ours.startswith("t_") and ours != "t_score" and theirs
    ]
    wrong = [f"{place} = '{name}'" for place, name in named if _not_diagnostic(name)]
    if wrong:
        what = f"A region that is no diagnostic site counts as one: {', '.join(wrong)}."
        mend = "ISCD classes by spine, total hip and femoral neck: take the region out of site.toml."
        yield failed("region-not-diagnostic", what, "site.toml", mend)
    else:
        yield passed("region-not-diagnostic", "Only diagnostic regions make a class.", "site.toml")


def _not_diagnostic(name: str) -> bool:
    region = recognise(name)
    return region is not None and region.site is SkeletalSite.NOT_DIAGNOSTIC


def check_age_of_export(facts: SiteFacts, _: Manifest) -> Iterator[Finding]:
    """Find an export that is older than photos that were added since."""
    exported = facts.export.stat().st_mtime
    newer = [
        facts.name_of(photo)
        for own in facts.photos.values()
        for photo in own
        if photo.stat().st_mtime > exported + _DAY_SECONDS
    ]
    day = datetime.fromtimestamp(exported, UTC).date()
    if newer:
        what = f"{photos(len(newer))} came more than a day after the export of {day}."
        mend = "Export again, so that the patients of these photos are in it."
        yield warned("export-stale", what, places(newer), mend)
    else:
        yield passed("export-stale", f"The export of {day} is not older than the photos.", facts.export_name)


def check_dates(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find scans that lie in the future."""
    future = [item.where for item in manifest.patients if item.scan_date and item.scan_date > facts.today]
    if future:
        what = f"{patients(len(future))} with a scan date after today, {facts.today}."
        mend = "Look for day and month exchanged ([dxa] date_format), or correct the export."
        yield Finding(
            check="future-dates",
            verdict=by_share(len(future), len(manifest.patients)),
            what=what,
            where=places(future),
            mend=mend,
        )
    else:
        yield passed("future-dates", "No scan lies in the future.", facts.export_name)


def check_devices(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Find a change of densitometer: T-scores of two makes are not comparable (L1-L4 differs by 3 % between makes)."""
    devices = Counter(item.device for item in manifest.patients if item.device)
    several = [f"{name} ({count})" for name, count in devices.most_common() if count >= _ENOUGH_ON_A_DEVICE]
    if len(several) > 1:
        what = f"The patients were measured on {len(several)} densitometers: {', '.join(several)}."
        mend = "Use one, or make sure that they are cross-calibrated and share a reference database."
        yield warned("scanner-change", what, facts.export_name, mend)
    else:
        yield passed("scanner-change", "No change of densitometer is recorded.", facts.export_name)


def check_diagnosis(facts: SiteFacts, manifest: Manifest) -> Iterator[Finding]:
    """Compare the classes with a diagnosis column of the export, if it has one that `site.toml` does not use."""
    diagnoses = dict(_diagnoses(facts))
    classes = {entry.patient_id: entry.label for entry in manifest.entries}
    both = sorted(classes.keys() & diagnoses.keys())
    differ = [name for name in both if classes[name] != diagnoses[name]]
    if differ:
        first = differ[0]
        what = (
            f"{patients(len(differ))} of {len(both)} with another diagnosis in the export than the T-scores give; "
            f"{first}: {CLASSES[diagnoses[first]]}, by T-score {CLASSES[classes[first]]}."
        )
        mend = "Check which regions and which reference the diagnosis stands on; the T-scores make the class."
        yield Finding(
            check="diagnosis-contradicts-t",
            verdict=by_share(len(differ), len(both)),
            what=what,
            where=places(differ),
            mend=mend,
        )
    else:
        what = f"{len(both)} diagnoses of the export agree with the T-scores."
        yield passed("diagnosis-contradicts-t", what, facts.export_name)


def _diagnoses(facts: SiteFacts) -> Iterable[tuple[str, int]]:
    """Patient and class by the first column that holds little else than names of classes."""
    dxa, raw = facts.settings.dxa, _raw_text(facts)
    if raw is None:
        return ()
    text = raw.decode(dxa.encoding, errors="replace").removeprefix("\ufeff")
    lines = [line for line in csv.reader(io.StringIO(text), delimiter=dxa.delimiter) if line][dxa.skip_rows :]
    if not lines or dxa.columns.patient not in (headings := [cell.strip() for cell in lines[0]]):
        return ()
    patient = headings.index(dxa.columns.patient)
    for column in range(len(headings)):
        found = [
            (line[patient].strip(), _CLASS_WORDS.get(normalised(line[column])))
            for line in lines[1:]
            if len(line) > max(column, patient) and line[column].strip()
        ]
        known = [(name, label) for name, label in found if label is not None]
        if found and len(known) >= _MOSTLY * len(found):
            return known
    return ()
