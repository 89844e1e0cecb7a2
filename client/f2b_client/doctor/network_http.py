"""One HTTP request over a verified connection, timed; small enough to see a refusal before a large body is sent."""

import http.client
import io
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from f2b_client.doctor.network_address import Address

FLEET_PATH = "/v1/fleet/pull-messages"
ANSWER_SECONDS = 8.0
EARLY_SECONDS = 1.0
"""How long to wait for a refusal of a large message before it is sent."""
ANNOUNCED_BYTES = 10_000
LARGEST_HEAD_BYTES = 65_536
_CONTINUING = range(100, 200)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back on a request."""

    status: int
    kind: str
    """Content type."""
    seconds: float
    """From the first byte of the body, or the last of the head where there is no body, to the answer."""
    clock_ahead: float | None
    """Seconds that this machine's clock is ahead of the peer's; None where the peer tells no time."""
    early: bool
    """The answer came before the body was sent."""


def ask(
    connection: ssl.SSLSocket,
    address: Address,
    body: bytes,
    *,
    path: str = FLEET_PATH,
    headers: Mapping[str, str] | None = None,
) -> Answer | None:
    """POST a body, and close.

    Args:
        connection: freshly opened; closed afterwards.
        address: for the Host header.
        body: protobuf. Where it is large its size is announced first (Expect: 100-continue, RFC 9110 10.1.1), so that
            whoever finds it too large can say so.
        path: the one SuperNodes poll, unless another is given.
        headers: further ones.

    Returns:
        The answer; None where none comes in time.
    """
    lines = {
        "Host": str(address),
        "Content-Type": "application/protobuf",
        "Content-Length": str(len(body)),
        "Connection": "close",
        "User-Agent": "face2bone-doctor",
        **(headers or {}),
    }
    with connection:
        try:
            return _ask(connection, path, lines, body)
        except (OSError, ValueError, http.client.HTTPException):
            return None


def protobuf_bytes(field: int, content: bytes) -> bytes:
    """A protobuf message of one field of bytes."""
    length_delimited = 2
    return _varint(field << 3 | length_delimited) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; the top bit says that more follow."""
    made = bytearray()
    while number >> 7:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def _ask(connection: ssl.SSLSocket, path: str, headers: dict[str, str], body: bytes) -> Answer:
    announced = len(body) >= ANNOUNCED_BYTES
    if announced:
        headers = {**headers, "Expect": "100-continue"}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    connection.settimeout(ANSWER_SECONDS)
    connection.sendall("\r\n".join(lines).encode("ascii"))
    early = _early_refusal(connection) if announced else None
    asked_at, began = time.time(), time.perf_counter()
    connection.settimeout(ANSWER_SECONDS)
    if early is None:
        connection.sendall(body)
    status, answered = early or _final_answer(connection)
    seconds = time.perf_counter() - began
    return Answer(
        status=status,
        kind=answered.get("Content-Type", ""),
        seconds=seconds,
        clock_ahead=_ahead(answered.get("Date"), asked_at + seconds / 2),
        early=early is not None,
    )


def _early_refusal(connection: ssl.SSLSocket) -> tuple[int, http.client.HTTPMessage] | None:
    connection.settimeout(EARLY_SECONDS)
    try:
        status, headers = _read_head(connection)
    except TimeoutError:
        return None  # a peer that does not know the question says nothing
    return None if status in _CONTINUING else (status, headers)


def _final_answer(connection: ssl.SSLSocket) -> tuple[int, http.client.HTTPMessage]:
    status, headers = _read_head(connection)
    while status in _CONTINUING:
        status, headers = _read_head(connection)
    return status, headers


def _read_head(connection: ssl.SSLSocket) -> tuple[int, http.client.HTTPMessage]:
    """Byte by byte, so that nothing after the head is taken."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte or len(head) > LARGEST_HEAD_BYTES:
            raise http.client.BadStatusLine("the answer has no end")
        head += byte
    first, _, rest = bytes(head).partition(b"\r\n")
    version, _, status = first.partition(b" ")
    if not version.startswith(b"HTTP/"):
        raise http.client.BadStatusLine("not HTTP")
    return int(status[:3]), http.client.parse_headers(io.BytesIO(rest))


def _ahead(date: str | None, now: float) -> float | None:
    """Seconds this clock is ahead. A Date header is cut to whole seconds: half of one lies in it on average."""
    try:
        return None if date is None else now - (parsedate_to_datetime(date).timestamp() + 0.5)
    except ValueError:
        return None
