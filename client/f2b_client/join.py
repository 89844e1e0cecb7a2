"""Join a study: unpack the centre's kit, make the site's keys, lay out the site folder."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from f2b_client.keys import make_keys
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import EnrolmentError
from face2bone_model.contract.fingerprint import fingerprint
from face2bone_model.system.files import write_atomic

KIT_FILES = frozenset({"kit.json", "ca.pem", "study.toml"})
LARGEST_FILE_BYTES = 1_000_000

POLICY_TEMPLATE = """\
# What this hospital permits. The stricter of this file and the study always holds.

[privacy]
require_dp = false        # true: train with differential privacy whatever the study says
epsilon_limit = 8.0       # most that all studies together may spend of this cohort
delta_limit = 1e-5

[release]
min_cell = 11             # tables with a cell of 1 to 10 patients do not leave
max_bytes_per_reply = 20_000_000
max_rounds = 200
max_models_per_round = 1  # an honest centre has one; the difference between two tells about single patients
max_test_models = 1       # models evaluated on the held-out patients in one study
"""

SITE_TEMPLATE = """\
# Where this hospital's photos and DXA export lie. docs/hospital-guide.md explains each line.

[site]
name = "{site}"

[photos]
folder = "photos"
pattern = "^(?P<patient>[A-Za-z0-9]+)"

[dxa]
file = "dxa_export.csv"
format = "csv-long"

[dxa.columns]
patient = "PatientID"
sex = "Sex"
age = "Age"
skeletal_site = "Region"
t_score = "T_score"

[weights]
folder = "weights"

[compute]
device = "auto"
threads = 1
"""


@dataclass(frozen=True)
class JoinResult:
    """What IT reads out to the coordinating centre."""

    site: str
    study: str
    public_key: Path
    fingerprint: str


def join(folder: SiteFolder, kit_path: Path) -> JoinResult:
    """Unpack a kit into the site folder. Joining twice with the same kit changes nothing.

    Raises:
        EnrolmentError: the kit is damaged, or comes from another CA than the one already joined.
    """
    kit = _read_kit(kit_path)
    about = _read_about(kit_path, kit["kit.json"])
    known_ca = folder.joined / "ca.pem"
    if known_ca.exists() and known_ca.read_bytes() != kit["ca.pem"]:
        raise EnrolmentError(
            f"{kit_path} carries another CA than the one this site joined.",
            "Ask the coordinating centre by phone whether its CA changed; then remove the folder 'joined'.",
        )
    if not folder.path.exists():  # one the hospital made is the hospital's to open or close
        folder.path.mkdir(mode=0o700, parents=True)
    make_keys(folder)
    for name, content in kit.items():
        write_atomic(folder.joined / name, content)
    for path, template in ((folder.policy, POLICY_TEMPLATE), (folder.settings, SITE_TEMPLATE)):
        if not path.exists():
            write_atomic(path, template.format(site=about["site"]).encode())
    public = folder.keys / "node.pub"
    return JoinResult(about["site"], about["study"], public, fingerprint(public.read_text(encoding="ascii")))


def _read_kit(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if names != KIT_FILES or any(i.file_size > LARGEST_FILE_BYTES for i in archive.infolist()):
                raise EnrolmentError(f"{path} is not a face2bone kit.", "Ask the coordinating centre for it.")
            return {name: archive.read(name) for name in sorted(names)}
    except (FileNotFoundError, zipfile.BadZipFile) as error:
        raise EnrolmentError(
            f"{path} cannot be read as a kit.", "Check the path or ask for it anew."
        ) from error


def _read_about(path: Path, content: bytes) -> dict[str, str]:
    try:
        about = json.loads(content)
        return {name: str(about[name]) for name in ("site", "study", "address")}
    except (ValueError, KeyError, TypeError) as error:
        raise EnrolmentError(
            f"{path} is not a face2bone kit: its kit.json cannot be read.", "Ask for it anew."
        ) from error
