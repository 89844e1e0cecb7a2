"""The site's own keys: one that names it to the SuperLink, one that signs receipts. They never leave `keys/`."""

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_public_key,
)

from f2b_client import anchor
from f2b_client.settings import SiteFolder
from face2bone_model.contract.errors import EnrolmentError
from face2bone_model.system.files import write_atomic

PRIVATE = 0o600


def make_keys(folder: SiteFolder) -> None:
    """Generate whatever key is not there yet: node key (P-384), receipt key (Ed25519)."""
    if not (folder.keys / "node").exists():
        node = generate_private_key(SECP384R1())
        public = node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        write_atomic(folder.keys / "node.pub", public)
        private = node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        write_atomic(folder.keys / "node", private, mode=PRIVATE)
    if not (folder.keys / "receipts").exists():
        key = Ed25519PrivateKey.generate()
        anchor.write_anchor(
            folder.path / anchor.FILE, key, anchor.Anchor()
        )  # from now on its absence is a fault
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_atomic(folder.keys / "receipts.pub", public)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomic(folder.keys / "receipts", private, mode=PRIVATE)


def receipt_key(folder: SiteFolder) -> Ed25519PrivateKey:
    """The key that signs receipts.

    Raises:
        EnrolmentError: it is missing or of another kind.
    """
    path = folder.keys / "receipts"
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (FileNotFoundError, ValueError) as error:
        raise EnrolmentError(f"{path} cannot be read.", "Run `f2b-client join KIT` again.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise EnrolmentError(f"{path} is not an Ed25519 key.")
    return key


def receipt_public_key(folder: SiteFolder) -> Ed25519PublicKey:
    """The key that verifies this site's receipts: `keys/receipts.pub`; where missing, from the private one.

    Raises:
        EnrolmentError: there is neither, or it is of another kind.
    """
    path = folder.keys / "receipts.pub"
    return read_public_key(path) if path.exists() else receipt_key(folder).public_key()


def read_public_key(path: Path) -> Ed25519PublicKey:
    """An Ed25519 public key, PEM or OpenSSH.

    Raises:
        EnrolmentError: the file is missing or holds something else.
    """
    mend = "Give the site's keys/receipts.pub."
    try:
        content = path.read_bytes()
        load = load_pem_public_key if content.startswith(b"-----") else load_ssh_public_key
        key = load(content)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentError(f"{path} cannot be read as a public key.", mend) from error
    if not isinstance(key, Ed25519PublicKey):
        raise EnrolmentError(f"{path} is not an Ed25519 public key.", mend)
    return key
