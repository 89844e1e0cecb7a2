"""The Flower app bundle of every study: a name and a licence, no code, the same bytes everywhere.

Flower starts a run from a bundle. Ours holds nothing that could be executed: both sides run the face2bone they have
installed. It is archived without compression, so its SHA-256 depends on no library, and a hospital's executor accepts
that one digest. It never opens what arrives.
"""

import hashlib
import zipfile
from collections.abc import Iterable, Mapping
from io import BytesIO

from face2bone_model.contract.errors import RequestError

BUNDLE_FILES: dict[str, bytes] = {
    "pyproject.toml": b"""\
[project]
name = "face2bone-study"
version = "1.0.0"
description = "Names a face2bone study run. Holds no code."
license = { text = "MIT" }
dependencies = []

[tool.flwr.app]
publisher = "face2bone"
fab-include = ["/README.md"]

[tool.flwr.app.components]
serverapp = "f2b_server.app:app"
clientapp = "f2b_client.app:app"

[tool.flwr.app.config]
study-folder = ""
nodes = ""
""",
    "README.md": b"Names a face2bone study run. Holds no code: both sides run what they installed.\n",
}
MANIFEST = ".info/CONTENT"
"""Flower checks the other files against it before it installs a bundle at the centre: name, SHA-256, size in bits."""

WRITTEN_AT = (1980, 1, 1, 0, 0, 0)
UNIX = 3

ALLOWED_BUNDLES = frozenset({"b228a6271134039c51ee7a2835e5b49a7fcd64eb1cbd0452ef604098e346f98c"})
"""SHA-256 of the bundles a hospital accepts; `sha256sum` of the file `study_bundle` gives shows it."""


def study_bundle() -> bytes:
    """The bundle a run is started with, byte for byte the same on every machine."""
    manifest = "\n".join(
        f"{name},{hashlib.sha256(content).hexdigest()},{len(content) * 8}"
        for name, content in BUNDLE_FILES.items()
    )
    return _archive({**BUNDLE_FILES, MANIFEST: manifest.encode()})


def _archive(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of stored files, with every field that `zipfile` takes from the machine set here."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, date_time=WRITTEN_AT)
            entry.create_system = UNIX
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def refuse_foreign_bundle(bundle: bytes, announced: Iterable[str] = ()) -> None:
    """Check that a bundle is ours, by its SHA-256 alone: it is never opened, unpacked or imported.

    Args:
        bundle: the bytes that arrived.
        announced: the digests that the run, the task and the bundle's own record claim.

    Raises:
        RequestError: its digest is not on the list, or is not the one announced.
    """
    digest = hashlib.sha256(bundle).hexdigest()
    if digest not in ALLOWED_BUNDLES:
        raise RequestError(
            f"The run's bundle ({len(bundle)} bytes, SHA-256 {digest}) is not face2bone's.",
            "Tell the coordinating centre; nothing of it was opened or executed.",
        )
    if other := sorted(set(announced) - {digest}):
        raise RequestError(
            f"The run announces the bundle '{', '.join(other)}', and {digest} arrived.",
            "Tell the coordinating centre; nothing of it was opened or executed.",
        )
