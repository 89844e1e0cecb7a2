"""The Flower app bundle of every study: a name and a licence, no code.

Flower starts a run from a bundle. Ours holds nothing that could be executed: both sides run the face2bone
they have installed. A hospital's executor compares what arrives with these files and refuses anything else.
"""

import zipfile
import zlib
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
ALLOWED_NAMES = frozenset(BUNDLE_FILES) | {".info/CONTENT"}
LARGEST_BYTES = 65_536
UNREADABLE = (
    zipfile.BadZipFile,
    KeyError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    zlib.error,
)
"""How `zipfile` says that an archive is damaged, encrypted or packed in a way it does not know."""


def refuse_foreign_bundle(bundle: bytes) -> None:
    """Check that a bundle holds our files and nothing else. It is read in memory, never unpacked or imported.

    Raises:
        RequestError: it is not a zip archive, is too large, or holds any other file.
    """
    if len(bundle) > LARGEST_BYTES:
        raise RequestError(f"The run's bundle has {len(bundle)} bytes; ours has no code and is far smaller.")
    try:
        with zipfile.ZipFile(BytesIO(bundle)) as archive:
            foreign = set(archive.namelist()) - ALLOWED_NAMES
            if sum(file.file_size for file in archive.infolist()) > LARGEST_BYTES:
                raise RequestError("The run's bundle would unpack to far more than ours.")
            changed = foreign or archive.read("README.md") != BUNDLE_FILES["README.md"]
    except UNREADABLE as error:
        raise RequestError("The run's bundle is not a face2bone bundle.") from error
    if changed:
        raise RequestError(
            f"The run's bundle holds foreign files: {', '.join(sorted(foreign)) or 'README.md changed'}.",
            "Tell the coordinating centre; nothing of it was executed.",
        )
