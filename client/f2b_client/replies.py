"""The reply store: each reply is on disk before it is sent, so that asking again costs nothing and changes nothing.

A finished reply first lies here as *pending*: made, but not yet paid for and receipted. It has not left. Once it has
a charge and a receipt it is *final*, and may leave as often as it is asked for.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from face2bone_model.contract.errors import RecordsError
from face2bone_model.contract.payload import digest
from face2bone_model.system.files import write_atomic
from face2bone_model.training.privacy import DpSegment

PRIVATE = 0o600
PENDING = ".pending"
FINAL = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a reply costs, and what may be spent in all."""

    segment: DpSegment
    limit: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A finished reply that has not left."""

    kind: str
    payload: bytes
    price: Price | None = None
    """None: it costs nothing."""

    def encode(self) -> bytes:
        """One line of JSON, then the payload."""
        about = {"kind": self.kind, "price": asdict(self.price) if self.price else None}
        return json.dumps(about).encode() + b"\n" + self.payload


@dataclass(frozen=True)
class ReplyStore:
    """Replies by study and key of the request."""

    path: Path

    def find(self, study_hash: str, key: str) -> bytes | None:
        """The very bytes that answered this request before, if it was answered."""
        path = self._file(study_hash, key, FINAL)
        return path.read_bytes() if path.exists() else None

    def named(self, payload_digest: str) -> bytes | None:
        """The reply with this SHA-256, as a receipt names it."""
        payloads = (path.read_bytes() for path in sorted(self.path.glob(f"*/*{FINAL}")))
        return next((payload for payload in payloads if digest(payload) == payload_digest), None)

    def answered(self, study_hash: str, question: str) -> int:
        """How many requests were answered whose key matches `question`, a glob such as ``evaluate-*-test``."""
        return len(list((self.path / study_hash[:16]).glob(f"{question}-*{FINAL}")))

    def find_pending(self, study_hash: str, key: str) -> Pending | None:
        """A reply that was finished and has not left.

        Raises:
            RecordsError: the file is damaged.
        """
        path = self._file(study_hash, key, PENDING)
        return read_pending(path) if path.exists() else None

    def put(self, study_hash: str, key: str, pending: Pending) -> None:
        """Store a finished reply; durable on return."""
        write_atomic(self._file(study_hash, key, PENDING), pending.encode(), mode=PRIVATE)

    def keep(self, study_hash: str, key: str, payload: bytes) -> None:
        """Make a pending reply final; durable on return."""
        write_atomic(self._file(study_hash, key, FINAL), payload, mode=PRIVATE)
        self.drop(study_hash, key)

    def drop(self, study_hash: str, key: str) -> None:
        """Forget a pending reply. One that is left over beside a final reply does no harm."""
        self._file(study_hash, key, PENDING).unlink(missing_ok=True)

    def _file(self, study_hash: str, key: str, suffix: str) -> Path:
        return self.path / study_hash[:16] / f"{key}{suffix}"


def read_pending(path: Path) -> Pending:
    """Parse what `Pending.encode` wrote.

    Raises:
        RecordsError: the file is damaged.
    """
    line, _, payload = path.read_bytes().partition(b"\n")
    try:
        about = json.loads(line)
        price = Price(**about["price"]) if about["price"] else None
        if price is not None:
            price = replace(price, segment=DpSegment(**about["price"]["segment"]))
        return Pending(kind=str(about["kind"]), payload=payload, price=price)
    except (ValueError, KeyError, TypeError) as error:
        raise RecordsError(
            f"{path} is damaged.", "Remove it: it has not left, and the round is trained again."
        ) from error
