"""Who may read the keys and the faces, and whether the keys are whole."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.outcome import failed, passed, warned
from f2b_client.keys import receipt_key
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import EnrolmentError

PRIVATE_KEYS = ("node", "receipts")
OTHERS_AND_GROUP = 0o077
ROOT = 0
RESTORE = "Restore keys/ from the backup, or run `f2b-client join KIT` again and tell the centre the new fingerprint."


def check_keys(folder: SiteFolder) -> Iterator[Finding]:
    """Each private key is there, this user's, and nobody else may read it."""
    found = [finding for name in PRIVATE_KEYS for finding in _faults_of_key(folder.keys / name)]
    yield from found
    if not found:
        yield from _check_content(folder)


def _faults_of_key(path: Path) -> Iterator[Finding]:
    try:
        facts = path.stat()
    except OSError as error:
        yield failed("keys", f"The key {path.name} cannot be read: {error.strerror}.", str(path), RESTORE)
        return
    mode, user = stat.S_IMODE(facts.st_mode), os.geteuid()
    if mode & OTHERS_AND_GROUP:
        yield failed(
            "key-permissions",
            f"Others on this machine may use the key {path.name} (mode {mode:04o}).",
            str(path),
            f"`chmod 600 {path}`. If others could log in here, ask the centre to admit a new key.",
        )
    if user not in (facts.st_uid, ROOT):
        yield failed(
            "key-owner",
            f"The key {path.name} belongs to user {facts.st_uid}, not to this one ({user}).",
            str(path),
            "Run the client and the doctor as the user that joined, or `chown` the site folder.",
        )
    elif facts.st_uid != user:
        yield warned(
            "key-owner",
            f"The key {path.name} belongs to user {facts.st_uid}; the doctor runs as root.",
            str(path),
            "Run the doctor as the user the client runs as, so that it meets the same limits.",
        )


def _check_content(folder: SiteFolder) -> Iterator[Finding]:
    faults = list(_faults_of_content(folder))
    yield from faults or [passed("keys", "The keys are whole and private.", str(folder.keys))]


def _faults_of_content(folder: SiteFolder) -> Iterator[Finding]:
    try:
        receipt_key(folder)
    except (EnrolmentError, OSError, UnsupportedAlgorithm) as error:
        yield failed(
            "key-damaged", f"The key that signs receipts cannot be used: {error}", "keys/receipts", RESTORE
        )
    try:
        node = load_ssh_private_key((folder.keys / "node").read_bytes(), password=None)
        public = (folder.keys / "node.pub").read_bytes().split()[:2]
    except (OSError, ValueError, UnsupportedAlgorithm):
        yield failed(
            "key-damaged", "The key that names this site cannot be used.", "keys/node, keys/node.pub", RESTORE
        )
        return
    matching = node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[:2]
    if not isinstance(node, EllipticCurvePrivateKey) or matching != public:
        yield failed(
            "key-pair",
            "keys/node.pub does not belong to keys/node: the centre would admit another key.",
            "keys/node.pub",
            RESTORE,
        )


def check_privacy_of_folder(folder: SiteFolder) -> Iterator[Finding]:
    """Whether other users of this machine can reach the site folder, which holds faces, or change its policy."""
    where, mode = str(folder.path), stat.S_IMODE(folder.path.stat().st_mode)
    if not _reachable(folder.path):
        yield passed("folder-private", "Other users of this machine cannot reach the site folder.", where)
    elif mode & stat.S_IWOTH:
        yield failed(
            "folder-private",
            f"Any user of this machine may change the site folder (mode {mode:04o}).",
            where,
            f"`chmod 700 {where}`, then look through policy.toml and approved/.",
        )
    elif mode & (stat.S_IROTH | stat.S_IXOTH):
        yield warned(
            "folder-private",
            f"Any user of this machine may read the site folder, faces included (mode {mode:04o}).",
            where,
            f"`chmod 700 {where}`",
        )
    else:
        yield passed("folder-private", "Other users of this machine cannot read the site folder.", where)


def _reachable(path: Path) -> bool:
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.resolve().parents)


def check_homes(folder: SiteFolder, *, environment: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Flower's own folder must be writable; the user's home should be, for the caches of libraries.

    Args:
        folder: the site's.
        environment: of the client's service; this process's where None.
    """
    home = Path((os.environ if environment is None else environment).get("HOME") or "/nonexistent")
    flower = folder.path / "flower"
    if flower.exists() and not _is_writable_folder(flower):
        yield failed(
            "flower-home",
            "Flower's folder cannot be written to.",
            str(flower),
            f"Remove {flower}; the client makes it again.",
        )
    if not _is_writable_folder(home):
        yield warned(
            "home",
            f"The home folder {home} is missing or cannot be written to.",
            str(home),
            "Set HOME to a folder of the service's own, such as the site folder (Environment= in systemd): libraries "
            "keep caches there and start more slowly without.",
        )
    else:
        yield passed("home", "Home folder and Flower's folder can be written to.", str(home))


def _is_writable_folder(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK, effective_ids=True)
