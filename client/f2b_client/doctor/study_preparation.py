"""Whether the last preparation still fits photos, export, settings and splits."""

import json
from collections.abc import Iterator

from f2b_client.doctor.data_facts import SiteFacts, photos, places
from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.prepare import PreparedSite
from f2b_client.settings import SiteFolder, weights_folder
from face2bone_model.contract.errors import Face2BoneError
from face2bone_model.contract.keys import Split
from face2bone_model.data.background import ELLIPSE_ONLY, U2NETP_SHA256
from face2bone_model.data.preparation import PreparationSettings
from face2bone_model.models.weights import find_background

_PREPARE = "Run `f2b-client prepare`; it only does what is new."


def check_splits(folder: SiteFolder) -> Iterator[Finding]:
    """Find a damaged record of splits: without it a test patient may become a training patient."""
    path = folder.path / "splits.json"
    if not path.exists():
        yield passed("splits", "No splits are recorded yet; the first preparation does.", "splits.json")
        return
    try:
        splits = {patient: Split(split) for patient, split in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError) as error:
        what = f"splits.json is damaged ({error}): test patients may become training patients."
        yield failed("splits", what, "splits.json", "Restore it from a backup.")
        return
    yield passed("splits", f"The splits of {len(splits)} patients are recorded.", "splits.json")


def check_preparation(facts: SiteFacts) -> Iterator[Finding]:
    """Find a preparation that is missing, or older than what it was made from."""
    if facts.prepared is None:
        yield warned("prepared", "The photos are not prepared yet.", "cache/", "Run `f2b-client prepare`.")
        return
    yield _photos_since(facts)
    yield _settings_since(facts, facts.prepared)
    yield _patients_since(facts.prepared)


def _photos_since(facts: SiteFacts) -> Finding:
    """Photos that came, went or were replaced since the cache was published."""
    published = (facts.folder.cache / "current.json").stat().st_mtime
    known = {*facts.cached_photos().values(), *(str(one["photo"]) for one in facts.quarantined())}
    cohort = set(facts.manifest.splits) if facts.manifest else set()
    current = {
        facts.name_of(path): path
        for patient, own in facts.photos.items()
        if patient in cohort
        for path in own
    }
    changed = [name for name, path in current.items() if path.stat().st_mtime > published]
    new = [name for name in current if name not in known and name not in changed]
    gone = [name for name in known if not (facts.folder.path / name).exists()]
    stale = [*changed, *new, *gone]
    if not stale:
        return passed("cache-photos", "No photo was added or changed since the preparation.", "cache/")
    what = f"Since the preparation {photos(len(changed) + len(new))} came or changed, {len(gone)} went."
    return warned("cache-photos", what, places(sorted(stale)), _PREPARE)


def _settings_since(facts: SiteFacts, prepared: PreparedSite) -> Finding:
    """Thresholds of this version of the software, and the background network that is there now."""
    try:
        background = find_background(weights_folder(facts.folder))
    except Face2BoneError as error:
        return failed("cache-settings", error.what, "site.toml", error.mend)
    digest = PreparationSettings().digest(background=U2NETP_SHA256 if background else ELLIPSE_ONLY)
    if digest == prepared.report.settings_digest:
        return passed("cache-settings", "The faces were prepared as this version would.", "cache/")
    what = (
        f"The faces were prepared with other settings or another background ('{prepared.report.background}')."
    )
    return warned("cache-settings", what, "cache/", _PREPARE)


def _patients_since(prepared: PreparedSite) -> Finding:
    now, then = prepared.cohort.num_patients, prepared.report.patients
    if now == then:
        return passed("cache-patients", f"{now} patients are prepared.", "cache/")
    what = f"{then} patients were prepared; by today's export and site.toml there are {now} of them."
    return warned("cache-patients", what, "cache/", _PREPARE)
