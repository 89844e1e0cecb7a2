"""`receipts.head`: a signed note of the newest receipt, so that cutting off the end of the chain is noticed."""

import json
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from f2b_client.charges import FIRST
from face2bone_model.system.files import write_atomic

FILE = "receipts.head"
"""Lies beside the receipts."""


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Number and digest of a receipt; 0 and 64 zeros before the first."""

    number: int = 0
    digest: str = FIRST

    def body(self) -> bytes:
        """What is signed."""
        return f"face2bone newest receipt {self.number} {self.digest}".encode()


def write_anchor(path: Path, key: Ed25519PrivateKey, anchor: Anchor) -> None:
    """Sign and write it; durable on return."""
    content = {**vars(anchor), "signature": key.sign(anchor.body()).hex()}
    write_atomic(path, json.dumps(content, sort_keys=True).encode())


def read_anchor(text: bytes, key: Ed25519PublicKey) -> Anchor | None:
    """The anchor; None where the text is not one that this site signed."""
    try:
        content = json.loads(text)
        anchor = Anchor(number=content["number"], digest=content["digest"])
        key.verify(bytes.fromhex(content["signature"]), anchor.body())
    except (ValueError, KeyError, TypeError, InvalidSignature):
        return None
    return anchor
