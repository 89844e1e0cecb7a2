"""A SuperNode's signature under the time: right, recent, and never seen before."""

import time
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from f2b_server.edge.refusals import UNAUTHORIZED, Refused

TIMESTAMP_HEADER = b"flwr-timestamp"
SIGNATURE_HEADER = b"flwr-signature"
OLDEST_SECONDS = 305.0
AHEAD_SECONDS = 5.0
"""Flower's own tolerances (tests/contract compares them)."""


class Signatures:
    """Checks signatures and remembers each for as long as it would be accepted."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._used: set[tuple[str, int]] = set()
        self._order: deque[tuple[float, tuple[str, int]]] = deque()

    def check(self, headers: Mapping[bytes, bytes], key: EllipticCurvePublicKey, fingerprint: str) -> None:
        """Check what a request shows against the key of an admitted site.

        The half of a signature that names the random point is remembered: of one signature a second valid one can be
        made without the key by negating the other half.

        Raises:
            Refused: no signature, a wrong one, one of another time, or one used before.
        """
        try:
            signed = headers[TIMESTAMP_HEADER]
            signature = b64decode(headers[SIGNATURE_HEADER], validate=True)
            age = self._now() - _moment(signed)
            point, _ = decode_dss_signature(signature)
        except (KeyError, ValueError, OverflowError):
            raise Refused(UNAUTHORIZED, "no signature, or none that can be read") from None
        if not -AHEAD_SECONDS < age < OLDEST_SECONDS:
            raise Refused(UNAUTHORIZED, f"signed {age:.0f} s ago: the site's clock is wrong, or a replay")
        try:
            key.verify(signature, signed, ECDSA(SHA256()))
        except InvalidSignature:
            raise Refused(UNAUTHORIZED, "wrong signature") from None
        if not self._is_first((fingerprint, point)):
            raise Refused(UNAUTHORIZED, "replayed signature")

    def _is_first(self, use: tuple[str, int]) -> bool:
        now = self._now()
        while self._order and self._order[0][0] < now:
            self._used.discard(self._order.popleft()[1])
        if use in self._used:
            return False
        self._used.add(use)
        self._order.append((now + OLDEST_SECONDS + AHEAD_SECONDS, use))
        return True


def _moment(text: bytes) -> float:
    """Seconds since 1970 of an ISO 8601 time with its zone.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.fromisoformat(text.decode("ascii"))
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC).timestamp()
