"""Enrol this site's own key at the centre with a one-time token, over TLS that trusts the kit's CA and nothing else."""

import base64
import json
import ssl
from dataclasses import dataclass

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from f2b_client.doctor.deadline import within
from f2b_client.settings import Joined, SiteFolder, load_joined
from face2bone_model.contract.enrolment import ENROL_PATH, TokenPlace, fits, proof_message, read_token
from face2bone_model.contract.errors import EnrolmentError
from face2bone_model.contract.fingerprint import fingerprint
from face2bone_model.contract.study import load_study

STEP_SECONDS = 10.0
ANSWER_SECONDS = 60.0
"""For all of it, however slowly the answer drips in."""
LONGEST_ANSWER_BYTES = 10_000
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
AGAIN = "Nothing is lost: run the same command again."


@dataclass(frozen=True)
class Answer:
    """What the centre said."""

    status: int
    body: bytes


def enrol(folder: SiteFolder, token: str) -> str:
    """Put this site's node key on the centre's roster. The same token may be sent again when an answer was lost.

    Returns:
        The key's fingerprint, which the centre repeated; people compare it by phone.

    Raises:
        EnrolmentError: the site has not joined, the token does not fit the kit or is not accepted, or the centre of the
            kit's CA is not reached.
    """
    joined = load_joined(folder)
    place = TokenPlace(
        study_hash=load_study(folder.joined / "study.toml").hash(),
        site=joined.site,
        ca=joined.ca.read_bytes(),
    )
    text = read_token(token)
    if not fits(text, place):
        raise EnrolmentError(
            "The token does not fit this kit: it was misheard, or is for another hospital, study or centre.",
            "Nothing was sent. Type it again; if it still does not fit, ask the coordinating centre by phone whether "
            "this kit is the last one they made.",
        )
    public_key = (folder.keys / "node.pub").read_text(encoding="ascii").strip()
    signature = _node_key(folder).sign(proof_message(text, place), ECDSA(SHA384()))
    content = {
        "site": joined.site,
        "token": text,
        "public_key": public_key,
        "signature": base64.b64encode(signature).decode("ascii"),
    }
    answer = _post(joined, content)
    mine = fingerprint(public_key)
    _check(joined, answer, mine)
    return mine


def _node_key(folder: SiteFolder) -> EllipticCurvePrivateKey:
    path = folder.keys / "node"
    try:
        key = load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise EnrolmentError(f"{path} cannot be read.", "Run `f2b-client join KIT` again.") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise EnrolmentError(f"{path} is not an elliptic-curve key.")
    return key


def _post(joined: Joined, content: dict[str, str]) -> Answer:
    """One request, the way the SuperNode goes: through the proxy of the environment, but never on loopback.

    Nothing is sent before TLS has shown that the kit's CA signed for the other side; a redirection is not followed.
    """
    try:
        trusted = ssl.create_default_context(cafile=str(joined.ca))
    except (OSError, ValueError) as error:
        raise EnrolmentError(f"{joined.ca} cannot be read.", "Run `f2b-client join KIT` again.") from error
    trusted.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        return within(ANSWER_SECONDS, lambda: _exchange(joined.address, content, trusted))
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, ImportError) as error:
        raise _unreachable(joined, error) from error


def _exchange(address: str, content: dict[str, str], trusted: ssl.SSLContext) -> Answer:
    by_proxy = address.rpartition(":")[0] not in LOOPBACK
    with (
        httpx.Client(
            verify=trusted, trust_env=by_proxy, follow_redirects=False, timeout=STEP_SECONDS
        ) as client,
        client.stream("POST", f"https://{address}{ENROL_PATH}", json=content) as answer,
    ):
        body = b""
        for part in answer.iter_raw():
            body += part
            if len(body) > LONGEST_ANSWER_BYTES:
                raise ValueError("its answer has no end")
        return Answer(answer.status_code, body)


def _unreachable(joined: Joined, error: Exception) -> EnrolmentError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return EnrolmentError(
            f"Whoever answers at {joined.address} is not the centre of this kit: {cause.verify_message}.",
            "The token was not sent. `f2b-client doctor` says who it is; ask IT to exempt the centre from TLS "
            "inspection, and the centre whether the address in the kit is right.",
        )
    if isinstance(error, httpx.ProxyError | ImportError):  # the latter where a SOCKS proxy is set
        return EnrolmentError(
            f"The hospital's web proxy does not let this machine through to {joined.address}: {error}.",
            f"Ask IT to allow it, or look at HTTPS_PROXY and NO_PROXY. {AGAIN}",
        )
    slow = isinstance(error, httpx.TimeoutException | TimeoutError)
    why = "no answer in time" if slow else str(error) or type(error).__name__
    return EnrolmentError(
        f"The centre at {joined.address} cannot be reached ({why}).",
        f"`f2b-client doctor` walks the way there and says where it ends; ask the centre whether it runs. {AGAIN}",
    )


def _check(joined: Joined, answer: Answer, mine: str) -> None:
    """Raise unless the centre admitted this very key."""
    if answer.status == httpx.codes.OK:
        if _admitted(answer.body) != (joined.site, mine):
            raise EnrolmentError(
                f"The centre at {joined.address} did not confirm this site's key.",
                "Ask the coordinating centre what `f2b-server roster` shows, and compare the fingerprint by phone.",
            )
        return
    if answer.status == httpx.codes.FORBIDDEN:
        raise EnrolmentError(
            "The centre does not accept this token: it was used already, withdrawn, or has ended, or another key of "
            f"'{joined.site}' is admitted.",
            "Ask the coordinating centre, whose log names the cause, for a new token.",
        )
    if answer.status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
        raise EnrolmentError(
            f"The centre at {joined.address} takes no enrolment now ({answer.status}).",
            f"Wait some minutes. {AGAIN}",
        )
    raise EnrolmentError(
        f"What answers at {joined.address} takes no enrolments ({answer.status}).",
        "Ask the coordinating centre whether the address in the kit is right, or send it keys/node.pub as a file.",
    )


def _admitted(body: bytes) -> tuple[object, object]:
    try:
        content = json.loads(body)
        return content["site"], content["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return None, None
