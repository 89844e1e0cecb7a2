"""Whether the centre knows this site's key, asked with a question that changes nothing.

A SuperLink looks the key up before it looks at the heartbeat interval of a node that wants to be activated. So a
request with the interval 0, which it never accepts, is answered 400 for a key on the roster and 412 for any other. The
centre's edge before it answers 403 for a key that is not on the roster.
tests/client/doctor/test_network.py asks a real SuperLink.
"""

import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.network_address import Address
from f2b_client.doctor.network_http import ask, protobuf_bytes
from f2b_client.doctor.outcome import failed, passed

ADMISSION_PATH = "/v1/fleet/activate-node"
PUBLIC_KEY_FIELD = 1
WHERE = "keys/node.pub"


def check_admission(
    opener: Callable[[], ssl.SSLSocket], address: Address, key_file: Path
) -> Iterator[Finding]:
    """Say whether the centre has this site's key on its roster; says nothing where the key itself cannot be read.

    Args:
        opener: opens a verified connection to the centre.
        address: the centre's.
        key_file: the site's private node key; it signs the time and stays here.
    """
    key = _read(key_file)
    if key is None:
        return  # said by the check of keys
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = protobuf_bytes(PUBLIC_KEY_FIELD, public)
    answer = ask(opener(), address, body, path=ADMISSION_PATH, headers=_signature(key, public))
    status = None if answer is None else answer.status
    if status in {
        HTTPStatus.FORBIDDEN,
        HTTPStatus.PRECONDITION_FAILED,
    }:  # the centre's edge, or a bare SuperLink
        yield failed(
            "admitted",
            "The centre does not know this site's key.",
            WHERE,
            "Send keys/node.pub to the centre and compare the fingerprint by phone; it then runs `f2b-server admit`.",
        )
    elif status == HTTPStatus.UNAUTHORIZED:
        yield failed(
            "admitted",
            "The centre refuses what this site's key signed.",
            WHERE,
            "Set this machine's clock right first. If it is, restore keys/ from the backup or join again.",
        )
    elif status == HTTPStatus.BAD_REQUEST:
        yield passed("admitted", "The centre knows this site's key.", WHERE)
    else:
        yield passed(
            "admitted", f"The centre did not say whether it knows this site's key ({status}).", WHERE
        )


def _read(path: Path) -> EllipticCurvePrivateKey | None:
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, EllipticCurvePrivateKey) else None


def _signature(key: EllipticCurvePrivateKey, public: bytes) -> dict[str, str]:
    """The headers by which a SuperNode names itself: its public key and the time, signed."""
    now = datetime.now(UTC).isoformat()
    return {
        "flwr-public-key": b64encode(public).decode("ascii"),
        "flwr-timestamp": now,
        "flwr-signature": b64encode(key.sign(now.encode("ascii"), ECDSA(SHA256()))).decode("ascii"),
    }
