"""The one-time token with which a hospital enrols itself: what it belongs to, and what is signed with it.

A token is 24 letters and digits in six groups of four, as a fingerprint is. The first 16 are random (80 bits). The last
8 tie them to one study, one site and one CA, so a token that was misheard, or that does not belong to the kit in hand,
is noticed at the hospital before anything is sent. That holds for a forged kit too: whoever made it does not know the
token, so could not make a CA that fits it.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass

from face2bone_model.contract.errors import EnrolmentError

ENROL_PATH = "/v1/enrol"
"""Where the centre takes {"site", "token", "public_key", "signature"}, all text; the signature is base64."""
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base32: without I, L, O and U, which are misread."""
MISREAD = str.maketrans("ILO", "110", "- \t\r\n")
SECRET_LENGTH, CHECK_LENGTH, GROUP = 16, 8, 4
BITS = 5


@dataclass(frozen=True, kw_only=True)
class TokenPlace:
    """What a token is good for."""

    study_hash: str
    site: str
    ca: bytes
    """The file `ca.pem` as the kit carries it."""

    def digest(self) -> bytes:
        """32 bytes that stand for all of it."""
        parts = ["face2bone token 1", self.study_hash, self.site, hashlib.sha256(self.ca).hexdigest()]
        return hashlib.sha256(json.dumps(parts).encode()).digest()


def new_token(place: TokenPlace) -> str:
    """A fresh token, in groups of four to be read out by phone."""
    secret = "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))
    text = secret + _check(secret, place)
    return "-".join(text[i : i + GROUP] for i in range(0, len(text), GROUP))


def read_token(text: str) -> str:
    """A token as it was typed, without hyphens and spaces, in capitals, with I and L read as 1 and O as 0.

    Raises:
        EnrolmentError: it has another length, or holds another character.
    """
    token = text.upper().translate(MISREAD)
    if len(token) != SECRET_LENGTH + CHECK_LENGTH or not set(token) <= set(ALPHABET):
        raise EnrolmentError(
            "This is not a token: a token is six groups of four letters and digits.", "Type it again."
        )
    return token


def fits(token: str, place: TokenPlace) -> bool:
    """Whether a token, as `read_token` gives it, was made for this study, site and CA."""
    return hmac.compare_digest(_check(token[:SECRET_LENGTH], place), token[SECRET_LENGTH:])


def token_digest(token: str) -> str:
    """SHA-256 of a token as `read_token` gives it: what the centre keeps. 80 random bits need no salt."""
    return hashlib.sha256(token.encode()).hexdigest()


def proof_message(token: str, place: TokenPlace) -> bytes:
    """What a site signs with its node key to show that the key it enrols is its own."""
    parts = ["face2bone enrolment 1", place.digest().hex(), token_digest(token)]
    return json.dumps(parts).encode()


def _check(secret: str, place: TokenPlace) -> str:
    """Depends on the secret, so that nobody without it can look for another CA or study with the same check."""
    mac = hmac.digest(secret.encode(), place.digest(), "sha256")
    number = int.from_bytes(mac[: CHECK_LENGTH * BITS // 8], "big")
    return "".join(ALPHABET[number >> (BITS * i) & (len(ALPHABET) - 1)] for i in range(CHECK_LENGTH))
