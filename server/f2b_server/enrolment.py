"""Enrolment: kits without secrets go out, public keys come in, the roster says who takes part."""

import json
import zipfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import EnrolmentError, SettingsError
from face2bone_model.contract.study import load_study
from face2bone_model.system.files import write_atomic, write_json

KIT_DATE = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that the same kit has the same bytes


@dataclass(frozen=True, kw_only=True)
class RosterEntry:
    """An admitted site."""

    site: str
    public_key: str
    """OpenSSH form of its P-384 node key."""
    enrolled_at: str


def write_kit(folder: StudyFolder, site: str, address: str, out: Path) -> Path:
    """Write the kit of a site: address, CA certificate and study. It holds no secret.

    Raises:
        EnrolmentError: the study does not name this site.
        SettingsError: the study is not complete, so its hash would still change.
    """
    study = load_study(folder.study)
    if not (study.model_signature and study.statistics_signature):
        raise SettingsError(
            f"{folder.study} is not complete.", f"Run `f2b-server study check {folder.path}` first."
        )
    if site not in study.sites:
        raise EnrolmentError(f"study.toml does not name '{site}'.", f"It names {', '.join(study.sites)}.")
    about = {"site": site, "study": study.name, "address": address, "study_hash": study.hash()}
    files = {
        "kit.json": json.dumps(about, indent=1, sort_keys=True).encode(),
        "ca.pem": (folder.ca / "ca.pem").read_bytes(),
        "study.toml": folder.study.read_bytes(),
    }
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, KIT_DATE), content)
    write_atomic(out, buffer.getvalue())
    return out


def admit(folder: StudyFolder, site: str, public_key: bytes) -> RosterEntry:
    """Put a site's public key on the roster.

    Raises:
        EnrolmentError: the study does not name the site, the key is not an EC public key, or another key of this
            site or the same key of another site is already there.
    """
    if site not in load_study(folder.study).sites:
        raise EnrolmentError(f"study.toml does not name '{site}'.", "Check the spelling.")
    text = _checked_key(public_key)
    for known in roster(folder):
        if known.site == site and known.public_key == text:
            return known
        if known.site == site:
            raise EnrolmentError(
                f"'{site}' is on the roster with another key.",
                "Compare fingerprints by phone; then remove its file from the roster and admit it again.",
            )
        if known.public_key == text:
            raise EnrolmentError(
                f"This key belongs to '{known.site}'.", f"Ask '{site}' for its own node.pub."
            )
    entry = RosterEntry(
        site=site, public_key=text, enrolled_at=datetime.now(UTC).isoformat(timespec="seconds")
    )
    write_json(folder.roster / f"{site}.json", asdict(entry))
    return entry


def roster(folder: StudyFolder) -> tuple[RosterEntry, ...]:
    """Every admitted site, in alphabetical order: the order in which updates are summed."""
    paths = sorted(folder.roster.glob("*.json"))
    return tuple(RosterEntry(**json.loads(path.read_text(encoding="utf-8"))) for path in paths)


def _checked_key(public_key: bytes) -> str:
    try:
        key = load_ssh_public_key(public_key.strip())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentError("The file is not an OpenSSH public key.", "Send keys/node.pub.") from error
    if not isinstance(key, EllipticCurvePublicKey):
        raise EnrolmentError("The key is not an elliptic-curve key.", "Send keys/node.pub.")
    return b" ".join(public_key.split()[:2]).decode("ascii")
