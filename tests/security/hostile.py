"""A prepared, approved site and the payloads a coordinator that wishes ill might send it."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from f2b_client.receipts import Receipt, read_receipts
from f2b_client.settings import SiteFolder
from f2b_client.work import SiteWork
from face2bone_model.contract.keys import PROTOCOL_VERSION, Phase
from face2bone_model.contract.payload import decode, digest, encode
from face2bone_model.contract.reply import ErrorReply, Reply, read_reply
from face2bone_model.contract.request import Request
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import Study
from face2bone_model.contract.update import ModelSignature, Update, pack, signature_of
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.parameters import trainable_tensors


@dataclass(frozen=True)
class Site:
    """A hospital's side, asked in this process."""

    folder: SiteFolder
    work: SiteWork
    study: Study

    def ask(self, payload: bytes) -> Reply:
        """What the site lets out, parsed as the centre would; its bytes hold nothing the parser does not show."""
        release = self.work.answer(payload)
        reply = read_reply(release.payload, request_digest=digest(payload))
        if isinstance(reply, ErrorReply):
            tensors, header = decode(release.payload)
            assert tensors == {}
            assert header == {"kind": "error", "code": reply.code, "request": digest(payload)}
            assert release.payload == encode({}, header)
        return reply

    def refuses(self, payload: bytes) -> int:
        """The number it is refused with, after looking that the refusal has a receipt and is its only trace."""
        before, kept = self.receipts, self.stored
        reply = self.ask(payload)
        assert isinstance(reply, ErrorReply), f"it let out {type(reply).__name__}"
        (receipt,) = self.receipts[len(before) :]
        assert receipt.kind == f"error {reply.code}"
        assert self.stored == kept
        return reply.code

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        return read_receipts(self.folder.receipts)

    @property
    def stored(self) -> dict[str, bytes]:
        """Every file of the reply store."""
        files = (path for path in self.folder.replies.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}


@cache
def signature(study: Study) -> ModelSignature:
    """Of the study's model."""
    return signature_of(trainable_tensors(build_model(study.model, seed=0)), study.trunk_digest)


@cache
def initial(study: Study) -> np.ndarray:
    """The model every site starts from, as one vector."""
    tensors = trainable_tensors(build_model(study.model, seed=study.training.seed))
    return pack(tensors, signature_of(tensors, study.trunk_digest))


def a_request(study: Study, phase: Phase, number: int, **changes) -> Request:
    """What an honest centre would ask, but for the changes."""
    fields = {
        "study_hash": study.hash(),
        "phase": phase,
        "round": number,
        "signature_digest": signature(study).digest(),
    }
    if phase is not Phase.DESCRIBE and "vector" not in changes:
        fields["vector"] = initial(study)
    return Request(**{**fields, **changes})


def altered(request: Request, tensors: dict | None = None, without: tuple[str, ...] = (), **header) -> bytes:
    """A request's bytes with other tensors or header fields."""
    honest, fields = decode(request.encode())
    fields = {name: value for name, value in {**fields, **header}.items() if name not in without}
    return encode(honest if tensors is None else tensors, fields)


def container(header: bytes, content: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with a header of one's own, and a length that need not be true."""
    return struct.pack("<Q", len(header) if length is None else length) + header + content


def _described(**entry) -> bytes:
    tensors = {"vector": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}
    fields = {"protocol": PROTOCOL_VERSION, "phase": "train"}
    return json.dumps({"__metadata__": {"header": json.dumps(fields)}, **tensors}).encode()


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable, tuple]:
        return (os.mknod, (str(self._marker),))


def _numpy_file(marker: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Touch(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def _torch_file(marker: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Touch(marker)))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def _zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vector", bytes(50_000_000))
    return buffer.getvalue()


def malformed(marker: Path) -> dict[str, bytes]:
    """Payloads that are no request, by what they try. Whoever unpickles one of them makes the file `marker`."""
    deep = 100_000
    return {
        "nothing": b"",
        "seven bytes": b"\x01" * 7,
        "a length beyond the end": container(b"{}", length=1 << 20),
        "the largest length there is": container(b"{}", length=2**64 - 1),
        "a length that is negative when signed": container(b"{}", length=1 << 63),
        "a header of a hundred megabytes announced": container(b" " * 64, length=100_000_000),
        "a header that is no JSON": container(b"{'a': 1}"),
        "a header a hundred thousand lists deep": container(b"[" * deep + b"]" * deep),
        "a header inside the header just as deep": container(
            json.dumps({"__metadata__": {"header": "[" * deep + "]" * deep}}).encode()
        ),
        "no header inside the header": container(b'{"__metadata__": {}}'),
        "a list where fields belong": container(b'{"__metadata__": {"header": "[]"}}'),
        "nested fields": container(b'{"__metadata__": {"header": "{\\"phase\\": {\\"a\\": 1}}"}}'),
        "not a number": container(b'{"__metadata__": {"header": "{\\"protocol\\": 1, \\"round\\": NaN}"}}'),
        "a number of ten thousand digits": container(
            json.dumps({"__metadata__": {"header": '{"round": ' + "9" * 10_000 + "}"}}).encode()
        ),
        "a tensor larger than the memory": container(
            _described(shape=[2**60], data_offsets=[0, 2**62]), bytes(8)
        ),
        "a shape whose product overflows": container(_described(shape=[2**33, 2**33]), bytes(8)),
        "a negative shape": container(_described(shape=[-2]), bytes(8)),
        "a tensor that begins outside": container(_described(data_offsets=[8, 16]), bytes(8)),
        "a tensor that ends before it begins": container(_described(data_offsets=[8, 0]), bytes(8)),
        "objects in place of numbers": container(_described(dtype="OBJECT"), bytes(8)),
        "bytes after the end": container(_described(), bytes(8)) + b"more",
        "a pickle": pickle.dumps(_Touch(marker)),
        "a numpy file of objects": _numpy_file(marker),
        "a torch file": _torch_file(marker),
        "a zip bomb": _zip_bomb(),
        "a zlib bomb": zlib.compress(bytes(50_000_000)),
        "a page of HTML": b"<html><script>fetch('/patients')</script></html>",
        "twenty megabytes of noise": np.random.default_rng(0).bytes(20_000_000),
    }


def impermissible(study: Study) -> dict[str, tuple[bytes, int]]:
    """Requests of the approved study that it does not permit, and the number each is refused with."""
    train, describe = a_request(study, Phase.TRAIN, 1), a_request(study, Phase.DESCRIBE, 0)
    evaluate = a_request(study, Phase.EVALUATE, 1)
    vector = train.vector
    rounds = study.training.rounds
    return {
        "a phase that exports": (altered(train, phase="export"), 23),
        "a phase that predicts": (altered(train, phase="predict"), 23),
        "a phase in capitals": (altered(train, phase="TRAIN"), 23),
        "a phase that is a path": (altered(train, phase="../../keys"), 23),
        "a request for scores of each patient": (altered(evaluate, per_patient=True), 23),
        "a request for embeddings": (altered(evaluate, output="embeddings"), 23),
        "a path to write to": (altered(evaluate, out="/tmp/x"), 23),  # noqa: S108  # a hostile wish
        "a path to read from": (altered(describe, photos="/etc/passwd"), 23),
        "a command": (altered(describe, command="id"), 23),
        "statistics on training patients": (altered(evaluate, split="train"), 23),
        "statistics on everybody": (altered(evaluate, split="all"), 23),
        "statistics on one patient": (altered(evaluate, split="HA0100003"), 23),
        "a finer grid": (altered(evaluate, score_bins=10_000_000), 23),
        "a smaller minimum cell": (altered(evaluate, min_cell=1), 23),
        "a larger budget": (altered(train, epsilon=100.0), 23),
        "a seed for the noise": (altered(train, seed=0), 23),
        "another site's name": (altered(train, site="hilltop"), 23),
        "no round": (altered(train, without=("round",)), 23),
        "a round before the first": (altered(train, round=0), 23),
        "a negative round": (altered(train, round=-1), 23),
        "the round after the last": (altered(train, round=rounds + 1), 23),
        "round one thousand": (altered(train, round=1000), 23),
        "a round beyond every integer": (altered(train, round=10**30), 23),
        "a round that is true": (altered(train, round=True), 23),
        "a round in words": (altered(train, round="1"), 23),
        "a round and a half": (altered(train, round=1.5), 23),
        "a second description": (altered(describe, round=1), 23),
        "an evaluation of round nought": (altered(evaluate, round=0), 23),
        "an evaluation past the last round": (altered(evaluate, round=rounds + 1), 23),
        "another study": (altered(train, study_hash="e" * 64), 20),
        "a study that is a path": (altered(train, study_hash="../" * 20 + "etc"), 20),
        "another model": (altered(train, signature_digest="0" * 64), 22),
        "a model that is a path": (altered(train, signature_digest="../keys/node"), 22),
        "another protocol": (altered(train, protocol=PROTOCOL_VERSION + 1), 21),
        "no model": (altered(train, {}), 23),
        "a model for the description": (altered(describe, {"vector": vector}), 23),
        "a second tensor": (altered(train, {"vector": vector, "patients": vector[:3]}), 23),
        "a tensor of another name": (altered(train, {"labels": vector}), 23),
        "a model too short": (altered(train, {"vector": vector[:-1]}), 22),
        "a model too long": (altered(train, {"vector": np.append(vector, np.float32(0))}), 22),
        "an empty model": (altered(train, {"vector": vector[:0]}), 22),
        "a model with a NaN": (altered(train, {"vector": _with(vector, np.nan)}), 23),
        "a model with an infinity": (altered(train, {"vector": _with(vector, np.inf)}), 23),
        "a model in doubles": (altered(train, {"vector": vector.astype(np.float64)}), 23),
        "a model in whole numbers": (altered(train, {"vector": vector.astype(np.int32)}), 23),
        "a model as a table": (altered(train, {"vector": vector[None]}), 23),
    }


def _with(vector: np.ndarray, value: float) -> np.ndarray:
    spoilt = vector.copy()
    spoilt[len(spoilt) // 2] = value
    return spoilt


def small_cells(reply: Update | SiteStatistics, min_cell: int = 11) -> list[tuple[str, int]]:
    """Counts of 1 to min_cell - 1 patients that left."""
    statistics = reply.validation if isinstance(reply, Update) else reply
    return [
        (name, int(value))
        for name, table in statistics.tables.items()
        if table.dtype == np.int64
        and not name.endswith("/released")
        and name not in {"sites", "ellipse_only"}
        for value in table.reshape(-1)
        if 0 < value < min_cell
    ]
