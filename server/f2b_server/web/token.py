"""The token that a page which others can reach demands: read from a file, or made once and kept."""

import secrets
import stat
from pathlib import Path

from f2b_server.settings import StudyFolder
from face2bone_model.contract.errors import UsageError
from face2bone_model.system.files import write_atomic

NAME = "web.token"
SHORTEST = 24
"""Letters a token has at least: so many random ones cannot be guessed."""
LONGEST = 1024


def token_of(folder: StudyFolder, given: Path | None) -> tuple[str, Path]:
    """The token and where it lies.

    Args:
        folder: the study's; without a file given, the token is in `state/web.token`, made at the first call.
        given: a file with a token of the centre's own.

    Raises:
        UsageError: the file cannot be read, others can read it, or what is in it is too short.
    """
    path = given or folder.state / NAME
    if given is None and not path.exists():
        write_atomic(path, f"{secrets.token_urlsafe(32)}\n".encode(), mode=0o600)
    return _read(path), path


def is_same(given: str, secret: str) -> bool:
    """Compare in constant time."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def _read(path: Path) -> str:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"Others can read {path}.", f"Run: chmod 600 {path}")
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The token in {path} cannot be read: {error}.", "It is a line of letters."
        ) from error
    if not SHORTEST <= len(token) <= LONGEST:
        raise UsageError(
            f"The token in {path} has {len(token)} letters; {SHORTEST} to {LONGEST} are needed.",
            "Without --token-file a good one is made.",
        )
    return token
