"""A released model: one archive with model, card, contributors, study and software, a manifest, and a signature.

    model.safetensors    the trained tensors by name
    card.md, card.json   what the model is, for people and for programs
    contributors.json    who trained which round, and the digest of each reply: a hospital's receipt carries the same
    study.toml           the study as the hospitals approved it
    software.json        versions
    manifest.json        which study and round, and SHA-256 and size of every file above
    signature.json       over the manifest, by the centre's release key

The same study folder gives the same archive but for `signature.json`. `verified_release` is the only way to read one.
"""

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from face2bone_model.contract.archive import read_archive, write_archive
from face2bone_model.contract.errors import ReleaseError, RequestError, SettingsError
from face2bone_model.contract.payload import decode, digest
from face2bone_model.contract.settings_table import read_settings
from face2bone_model.contract.study import Study
from face2bone_model.contract.update import signature_of

FORMAT = "face2bone release 1"
MODEL = "model.safetensors"
CARD, CARD_TEXT = "card.json", "card.md"
CONTRIBUTORS = "contributors.json"
STUDY = "study.toml"
SOFTWARE = "software.json"
CONTENTS = frozenset({MODEL, CARD, CARD_TEXT, CONTRIBUTORS, STUDY, SOFTWARE})
MANIFEST, SIGNATURE = "manifest.json", "signature.json"

LARGEST_RELEASE_BYTES = 1 << 31
"""The largest network of ours, VGG-16, has 0.54 GB."""
ASK_AGAIN = "Ask the coordinating centre for the release again."


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is signed."""

    format: str
    study: str
    study_hash: str
    round: int
    checkpoint: str
    """SHA-256 of the round's checkpoint, as `f2b-server models list` shows it."""
    files: Mapping[str, Mapping[str, str | int]]
    """Of each file its `sha256` and its `size` in bytes."""


@dataclass(frozen=True, kw_only=True)
class ModelRelease:
    """A release that was verified. Everything in it was read once, into memory, and is what was signed."""

    manifest: Manifest
    study: Study
    signed_at: datetime
    signed_by: str
    """Serial number of the release key's certificate, in hexadecimal."""
    files: Mapping[str, bytes]
    archive: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest: names the release, whenever and however often it was signed."""
        return digest(self.files[MANIFEST])

    @property
    def name(self) -> str:
        """Such as `round-007-1a2b3c4d5e6f`."""
        return f"round-{self.manifest.round:03d}-{self.digest[:12]}"

    @property
    def card(self) -> dict[str, Any]:
        """The model card."""
        return dict(json.loads(self.files[CARD]))

    @property
    def card_text(self) -> str:
        """The model card as Markdown."""
        return self.files[CARD_TEXT].decode()

    @property
    def contributors(self) -> tuple[dict[str, Any], ...]:
        """Of each round up to this one: who is in its model, and the digest of each reply."""
        return tuple(json.loads(self.files[CONTRIBUTORS])["rounds"])

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The trained tensors by name."""
        return decode(self.files[MODEL])[0]


def make_manifest(study: Study, round_number: int, checkpoint: str, contents: Mapping[str, bytes]) -> bytes:
    """The manifest of a release's contents, in its one form."""
    manifest = Manifest(
        format=FORMAT,
        study=study.name,
        study_hash=study.hash(),
        round=round_number,
        checkpoint=checkpoint,
        files={name: {"sha256": digest(contents[name]), "size": len(contents[name])} for name in CONTENTS},
    )
    return canonical(asdict(manifest))


def pack_release(contents: Mapping[str, bytes], manifest: bytes, signature: bytes) -> bytes:
    """The archive."""
    return write_archive({**contents, MANIFEST: manifest, SIGNATURE: signature})


def canonical(content: Any) -> bytes:
    """JSON in one form: sorted, indented by one, ASCII."""
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def verified_release(path: Path, ca: Path, *, now: datetime | None = None) -> ModelRelease:
    """Read a release and check everything that can be checked; nothing in it is used before.

    Args:
        path: the archive.
        ca: the study's CA certificate, `joined/ca.pem` at a hospital.
        now: the present; the clock's if not given.

    Raises:
        ReleaseError: it is not an unchanged release that was signed under this CA; the sentence names what is wrong.
        EnrolmentError: the CA certificate cannot be read.
    """
    from face2bone_model.contract.release_signature import (
        read_signature,
    )  # cryptography takes a while to load

    archive = _read(path)
    files = read_archive(archive, path.name)
    _check_names(files, path.name)
    signer = read_signature(files[SIGNATURE], files[MANIFEST], ca, path.name, now or datetime.now(UTC))
    manifest = _read_manifest(files[MANIFEST], path.name)
    for name in sorted(CONTENTS):
        about = {"sha256": hashlib.sha256(files[name]).hexdigest(), "size": len(files[name])}
        if manifest.files.get(name) != about:
            raise ReleaseError(f"{path.name}: {name} is not the file that was signed.", ASK_AGAIN)
    study = _read_study(files[STUDY], manifest, path.name)
    _check_model(files[MODEL], study, manifest, path.name)
    return ModelRelease(
        manifest=manifest,
        study=study,
        signed_at=signer.signed_at,
        signed_by=signer.serial_number,
        files=files,
        archive=archive,
    )


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ReleaseError(f"{path} is not a file.", "Check the path.")
    if path.stat().st_size > LARGEST_RELEASE_BYTES:
        raise ReleaseError(f"{path.name} has {path.stat().st_size} bytes: no release is as large.", ASK_AGAIN)
    return path.read_bytes()


def _check_names(files: Mapping[str, bytes], source: str) -> None:
    expected = CONTENTS | {MANIFEST, SIGNATURE}
    if extra := sorted(set(files) - expected):
        raise ReleaseError(f"{source}: '{extra[0]}' does not belong in a release.", ASK_AGAIN)
    if missing := sorted(expected - set(files)):
        raise ReleaseError(f"{source}: {missing[0]} is missing.", ASK_AGAIN)


def _read_manifest(content: bytes, source: str) -> Manifest:
    """The manifest; it is signed, so what does not fit was written by another version of the centre."""
    about = json.loads(content)
    if about.get("format") != FORMAT:
        raise ReleaseError(
            f"{source}: its format is '{about.get('format')}', this face2bone reads '{FORMAT}'.",
            "Install the version that software.json in it names.",
        )
    return Manifest(**about)


def _read_study(content: bytes, manifest: Manifest, source: str) -> Study:
    try:
        study = read_settings(Study, tomllib.loads(content.decode()), STUDY)
    except (SettingsError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReleaseError(
            f"{source}: {STUDY} cannot be read: {error}",
            "Install the version that software.json in it names.",
        ) from error
    if study.hash() != manifest.study_hash:
        raise ReleaseError(f"{source}: {STUDY} is not the study that manifest.json names.", ASK_AGAIN)
    return study


def _check_model(content: bytes, study: Study, manifest: Manifest, source: str) -> None:
    """Check that the model is the study's: names, shapes, trunk, round, and numbers throughout."""
    try:
        tensors, header = decode(content)
    except RequestError as error:
        raise ReleaseError(f"{source}: {MODEL} cannot be read.", ASK_AGAIN) from error
    of = (header.get("study_hash"), header.get("round"), header.get("trunk_digest"))
    if of != (manifest.study_hash, manifest.round, study.trunk_digest):
        raise ReleaseError(
            f"{source}: {MODEL} is of another study, round or trunk than manifest.json.", ASK_AGAIN
        )
    if study.model_signature not in ("", signature_of(tensors, study.trunk_digest).digest()):
        raise ReleaseError(f"{source}: {MODEL} has other tensors than the study's network.", ASK_AGAIN)
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise ReleaseError(
                f"{source}: {MODEL}: '{name}' holds something other than finite numbers.", ASK_AGAIN
            )
