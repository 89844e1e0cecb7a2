"""Canaries in every place a fault could pick them up: none of them is in anything that leaves the executor.

Each try plants words and bytes found nowhere else, makes the work fail or answer around them, and looks for them in
all that the executor told a SuperNode over real HTTP: paths, headers, bodies, numbers of errors. The traffic between
SuperNode and SuperLink is looked through in test_wire_capture.py.
"""

import base64
import gzip
import logging
import random
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import pytest
from canaries import Haystack
from hospital import Template, approve_study, equip, study_text
from hostile import a_request, altered, initial
from runtime import Runtime, serving

from f2b_client import measures, work
from f2b_client.app import SiteApp
from f2b_client.executor import execute
from f2b_client.receipts import read_receipts
from f2b_client.settings import SiteFolder
from f2b_client.work import SiteWork
from face2bone_model.contract.bundle import study_bundle
from face2bone_model.contract.errors import CohortError, InputError
from face2bone_model.contract.keys import Phase
from face2bone_model.contract.payload import decode, encode
from face2bone_model.contract.statistics import SiteStatistics
from face2bone_model.contract.study import Study
from face2bone_model.models.trunk import FrozenTrunk

TRIES_A_PLACE = 10


@dataclass(frozen=True)
class Plant:
    """What one try plants: each of them, whole, must stay."""

    name: str
    patient: str
    path: str
    score: float
    face: bytes

    @property
    def text(self) -> str:
        """A sentence such as faults carry."""
        return f"{self.name} ({self.patient}) in {self.path}: score {self.score!r}, face {self.face.hex()}"

    @property
    def contents(self) -> list[bytes]:
        """Everything planted, in the forms that code would give it."""
        numbers = [np.float32(self.score).tobytes() * 2, np.float64(self.score).tobytes()]
        words = [self.name, self.patient, self.path, f"{self.score!r}", f"{self.score:.6f}"]
        return [*(word.encode() for word in words), *numbers, self.face]


def a_plant(seed: int) -> Plant:
    draw = random.Random(seed)  # noqa: S311  # names for tests
    word = "".join(draw.choices("bcdfghjklmnpqrstvwxz", k=12))
    return Plant(
        name=f"Zq{word}, Ymir",
        patient=f"ZQ{draw.randrange(10**12):012d}",
        path=f"/srv/zq-{word}/photos/{draw.randrange(10**9)}.jpg",
        score=draw.random(),
        face=draw.randbytes(24),
    )


@dataclass
class Desk:
    """A site behind the real executor, and what the SuperNode is told."""

    folder: SiteFolder
    study: Study
    runtime: Runtime
    questions: Iterator[int] = field(default_factory=lambda: count(1))

    def ask(self, payload: bytes) -> list[bytes]:
        """One task over a real socket; everything that was said about it."""
        return self.runtime.ask(payload)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, template: Template, trunk: FrozenTrunk) -> Iterator[Desk]:
    path, _ = template.copy_to(tmp_path_factory.mktemp("canaries") / "zq-ward-south")
    folder = equip(path)
    text = folder.policy.read_text(encoding="utf-8")  # so that every try gets as deep as it can
    text = re.sub(r"(max_models_per_round|max_test_models) = 1", r"\1 = 100000", text)
    folder.policy.write_text(text, encoding="utf-8")
    study = approve_study(folder, study_text(trunk.digest))
    app = SiteApp(SiteWork(folder, lambda *_: None).answer)
    runtime, closing = Runtime(study_bundle()), threading.Event()
    with serving(runtime) as socket:
        options = {"should_stop": closing.is_set, "on_idle": lambda: None}
        executor = threading.Thread(target=execute, args=(socket, app), kwargs=options)
        executor.start()
        try:
            yield Desk(folder, study, runtime)
        finally:
            closing.set()
            executor.join()


def planted_error(kind: Callable[[str], Exception]) -> Callable:
    """A way to make a function of the work raise an exception whose text is the plant."""

    def place(target: str) -> Callable:
        def plant(plant: Plant, desk: Desk, patch: pytest.MonkeyPatch, seed: int) -> bytes:
            def fail(*_: object, **__: object) -> None:
                error = kind(plant.text)
                error.add_note(plant.text)
                raise error from KeyError(plant.path, plant.face)

            patch.setattr(target, fail)
            return fresh_question(desk, Phase.TRAIN if "train" in target else Phase.EVALUATE)

        return plant

    return place


def fresh_question(desk: Desk, phase: Phase) -> bytes:
    """A permitted request that was not answered before."""
    vector = initial(desk.study).copy()
    vector[0] += np.float32(next(desk.questions)) * 1e-4
    return a_request(desk.study, phase, 1, vector=vector).encode()


def in_the_log(plant: Plant, desk: Desk, patch: pytest.MonkeyPatch, seed: int) -> bytes:
    """Whatever is computed is logged at every level; the answer is a real one."""

    def predict(*arguments: object, **options: object) -> np.ndarray:
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            logging.getLogger("f2b_client.work").log(level, "%s", plant.text)
        return real(*arguments, **options)

    real = work.predict
    patch.setattr("f2b_client.work.predict", predict)
    return fresh_question(desk, Phase.EVALUATE)


def as_a_table(plant: Plant, desk: Desk, patch: pytest.MonkeyPatch, seed: int) -> bytes:
    """A fault that puts a table named after a patient, with scores in it, beside the declared ones."""

    def measure(*arguments: object, **options: object) -> SiteStatistics:
        tables = dict(real(*arguments, **options).tables)
        return SiteStatistics(tables={**tables, f"all/{plant.patient}": np.array([plant.score])})

    real = measures.evaluation_update
    patch.setattr("f2b_client.measures.evaluation_update", measure)
    return fresh_question(desk, Phase.EVALUATE)


def as_a_larger_table(plant: Plant, desk: Desk, patch: pytest.MonkeyPatch, seed: int) -> bytes:
    """A fault that appends a score of each patient to a declared table."""

    def measure(*arguments: object, **options: object) -> SiteStatistics:
        tables = dict(real(*arguments, **options).tables)
        name = next(name for name, table in tables.items() if table.dtype == np.float64)
        tables[name] = np.append(tables[name], [plant.score, plant.score])
        return SiteStatistics(tables=tables)

    real = measures.evaluation_update
    patch.setattr("f2b_client.measures.evaluation_update", measure)
    return fresh_question(desk, Phase.EVALUATE)


def in_the_vector(plant: Plant, desk: Desk, patch: pytest.MonkeyPatch, seed: int) -> bytes:
    """A fault that appends a face to the trained numbers."""

    def packed(*arguments: object) -> np.ndarray:
        return np.concatenate([real(*arguments), np.frombuffer(plant.face, np.uint8).astype(np.float32)])

    real = work.pack
    patch.setattr("f2b_client.work.pack", packed)
    return fresh_question(desk, Phase.TRAIN)


def in_the_request(plant: Plant, desk: Desk, patch: pytest.MonkeyPatch, seed: int) -> bytes:
    """The coordinator knows a name and hopes for an echo: tensors' names and fields of the request."""
    honest = a_request(desk.study, Phase.TRAIN, 1)
    tensors, header = decode(honest.encode())
    named = {f"{plant.patient}/{plant.name}": tensors["vector"][:3]}
    match seed % 3:
        case 0:
            return encode(named, header)
        case 1:
            return altered(honest, study_hash=plant.text)
        case _:
            return altered(honest, **{plant.patient: plant.text})


def in_a_broken_file(plant: Plant, desk: Desk, patch: pytest.MonkeyPatch, seed: int) -> bytes:
    """policy.toml or site.toml cannot be read; the parser's sentence quotes the line and names the path."""
    path = desk.folder.policy if seed % 2 else desk.folder.approved / f"{desk.study.hash()}.toml"
    content = path.read_bytes()
    path.write_text(f'"{plant.text}" is no TOML [', encoding="utf-8")
    RESTORE.append(lambda: path.write_bytes(content))
    return fresh_question(desk, Phase.TRAIN)


def refusal_that_fails(plant: Plant, desk: Desk, patch: pytest.MonkeyPatch, seed: int) -> bytes:
    """The refusal of a bad request fails itself, and with it the last place that knows to send a number only."""
    planted_error(RuntimeError)("f2b_client.egress.error_content")(plant, desk, patch, seed)
    return plant.text.encode()


RESTORE: list[Callable[[], object]] = []

PLACES = {
    "a fault of ours in the prediction": (planted_error(RuntimeError)("f2b_client.work.predict"), "error 99"),
    "a fault of ours in the training": (planted_error(ValueError)("f2b_client.work.train_round"), "error 99"),
    "an error of the file system": (
        planted_error(FileNotFoundError)("f2b_client.work.train_round"),
        "error 99",
    ),
    "a numbered error about the cohort": (planted_error(CohortError)("f2b_client.work.predict"), "error 32"),
    "a numbered error about a file": (planted_error(InputError)("f2b_client.work.train_round"), "error 10"),
    "an error with two file names": (
        planted_error(lambda text: OSError(5, text, text, None, text))("f2b_client.work.predict"),
        "error 99",
    ),
    "an assertion about arrays": (
        planted_error(AssertionError)("f2b_client.measures.evaluation_update"),
        "error 99",
    ),
    "a fault while results are kept": (
        planted_error(RuntimeError)("f2b_client.work.keep_evaluation"),
        "error 99",
    ),
    "a fault in the gate": (planted_error(RuntimeError)("f2b_client.egress.statistics_content"), "error 99"),
    "a fault while a refusal is written": (refusal_that_fails, ""),
    "the log": (in_the_log, "statistics"),
    "a table of its own": (as_a_table, "error 30"),
    "a declared table": (as_a_larger_table, "error 30"),
    "the trained numbers": (in_the_vector, "error 30"),
    "the request": (in_the_request, "error 2"),
    "a broken file": (in_a_broken_file, "error 12"),
}
"""How to plant, and what the receipt of the answer begins with."""


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    while RESTORE:
        RESTORE.pop()()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("restored")
def test_nothing_planted_leaves(desk: Desk, monkeypatch: pytest.MonkeyPatch, place: str):
    how, kind = PLACES[place]
    for seed in range(TRIES_A_PLACE):
        plant = a_plant(hash_of(place, seed))
        with monkeypatch.context() as patch:
            payload = how(plant, desk, patch, seed)
            before = len(read_receipts(desk.folder.receipts))
            said = desk.ask(payload)
        while RESTORE:
            RESTORE.pop()()
        kinds = [one.kind for one in read_receipts(desk.folder.receipts)[before:]]
        assert kinds == [] if not kind else kinds[0].startswith(kind), f"{place}: {kinds}"
        haystack = Haystack(said)
        assert haystack.size > 300
        assert [content for content in plant.contents if haystack.holds(content)] == [], (
            f"{place}, try {seed}"
        )


def test_there_were_enough_tries():
    """Beside these there are those of the captured wire: more than 400 canaries, each looked for in all of it."""
    assert len(PLACES) * TRIES_A_PLACE >= 150


def test_the_planted_words_did_reach_the_log(desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog):
    """The bait was there to be picked up: the site's own log has it."""
    plant = a_plant(1)
    with monkeypatch.context() as patch, caplog.at_level(logging.DEBUG):
        desk.ask(PLACES["a fault of ours in the training"][0](plant, desk, patch, 0))
    assert plant.patient in caplog.text


@pytest.mark.parametrize("wrap", [bytes, bytes.hex, lambda content: base64.b64encode(b"x" + content)])
def test_the_search_finds_a_canary_in_another_form(wrap):
    plant = a_plant(2)
    wrapped = wrap(plant.face)
    assert Haystack([b"head", wrapped if isinstance(wrapped, bytes) else wrapped.encode()]).holds(plant.face)


def test_the_search_finds_a_canary_in_compressed_bytes_and_in_utf_16():
    plant = a_plant(3)
    for content in (zlib.compress(plant.text.encode()), gzip.compress(plant.text.encode())):
        assert Haystack([b"\x00" * 7, content, b"tail"]).holds(plant.patient.encode())
    assert Haystack([plant.name.encode("utf-16-le")]).holds(plant.name.encode())


def hash_of(place: str, seed: int) -> int:
    """A number that differs between tries and is the same in every run."""
    return sum(ord(letter) * 31**i for i, letter in enumerate(place)) % 2**40 + seed
