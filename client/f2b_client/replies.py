"""The reply store: each reply is on disk before it is sent, so that asking again costs nothing and changes nothing."""

from dataclasses import dataclass
from pathlib import Path

from face2bone_model.system.files import write_atomic


@dataclass(frozen=True)
class ReplyStore:
    """Replies by study and digest of the request."""

    path: Path

    def find(self, study_hash: str, key: str) -> bytes | None:
        """The very bytes that answered this request before, if it was answered."""
        path = self._file(study_hash, key)
        return path.read_bytes() if path.exists() else None

    def keep(self, study_hash: str, key: str, payload: bytes) -> None:
        """Store a reply; durable on return."""
        write_atomic(self._file(study_hash, key), payload, mode=0o600)

    def _file(self, study_hash: str, key: str) -> Path:
        return self.path / study_hash[:16] / f"{key}.safetensors"
