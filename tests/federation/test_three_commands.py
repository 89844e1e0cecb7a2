"""From a kit to training with `join`, `approve` and `start`: an unprivileged user, an empty environment, no home.

As in a container: another uid where the tests run as root, `env -i`, HOME missing or not writable, umask 077, no
weights to fetch. Two hospitals so, and a real centre that trains them over TLS.
"""

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from federation_runs import CLIENT, PATIENTS, SERVER, free_port, run

from f2b_client.trunk import trunk_in
from face2bone_model.data.synthetic.hospital import write_hospital

pytestmark = pytest.mark.slow

NOBODY = 65534
ROUNDS = 1
UNPRIVILEGED = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
MAY_ENTER = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
"""Where the interpreter lies in another user's home: enough to reach it, and nothing to write with."""


def another_user() -> list[str]:
    """The beginning of a command that runs as another user; nothing where the tests are not root's."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    for prefix in (UNPRIVILEGED, [*UNPRIVILEGED, *MAY_ENTER]):
        done = subprocess.run(
            [*prefix, "env", "-i", sys.executable, "-c", ""], capture_output=True, check=False
        )
        if done.returncode == 0:
            return prefix
    return []


@dataclass
class Hospital:
    """A site in its clean environment, and the commands its IT typed."""

    name: str
    path: Path
    home: Path
    prefix: list[str]
    typed: list[str] = field(default_factory=list)

    def command(self, *words: str) -> list[str]:
        self.typed.append(f"f2b-client {words[0]}")
        environment = ["PATH=/usr/bin:/bin", f"HOME={self.home}"]
        return [*self.prefix, "env", "-i", *environment, *CLIENT, *words, "--site", str(self.path)]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            check=False,
            umask=0o077,
            cwd="/",
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self) -> subprocess.Popen[bytes]:
        with (self.path.parent / f"{self.name}.log").open("wb") as log:
            return subprocess.Popen(
                self.command("start"), stdout=log, stderr=subprocess.STDOUT, umask=0o077, cwd="/"
            )

    def receipts(self) -> list[str]:
        path = self.path / "receipts.db"
        if not path.exists():
            return []
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return [json.loads(body)["phase"] for (body,) in connection.execute("SELECT body FROM receipts")]


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that another user can reach, as pytest's own cannot be."""
    path = Path(tempfile.mkdtemp(prefix="three-commands-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def hospital(root: Path, name: str, seed: int) -> Hospital:
    """A site's folder with photos and DXA, as the hospital's own user put them there."""
    prefix = another_user()
    path, home = root / name, root / f"home of {name}"
    write_hospital(path, site=name, patients=PATIENTS, seed=seed)
    shutil.rmtree(path / "truth")
    if name == "south":
        home.mkdir(mode=0o555)  # north has none at all
    if prefix:
        for one in (path, *path.rglob("*")):
            os.chown(one, NOBODY, NOBODY)
    return Hospital(name, path, home, prefix)


def centre(study: Path, *words: str) -> None:
    done = run([*SERVER, *words])
    assert done.returncode == 0, done.stderr


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.2)


def test_three_commands_lead_an_unprivileged_hospital_from_its_kit_to_training(
    root: Path,
) -> None:
    study, address = root / "study", f"127.0.0.1:{free_port()}"
    study.mkdir(mode=0o700)
    hospitals = [hospital(root, name, seed) for seed, name in enumerate(("north", "south"))]
    sites = [word for one in hospitals for word in ("--site", one.name)]
    trunk = ["--trunk-name", "random", "--trunk-digest", trunk_in(root / "no weights").digest]
    centre(study, "study", "new", str(study), "--name", "Three", "--question", "Is it easy?", *sites, *trunk)
    text = (study / "study.toml").read_text()
    assert "rounds = 10" in text
    (study / "study.toml").write_text(text.replace("rounds = 10", f"rounds = {ROUNDS}"))
    centre(study, "study", "check", str(study))
    for one in hospitals:
        kit = root / f"{one.name}.kit.zip"
        centre(study, "enrol", str(study), one.name, "--address", address, "--out", str(kit))
    began = time.monotonic()
    processes: list[subprocess.Popen[bytes]] = []
    with (root / "train.log").open("wb") as log:
        try:
            for one in hospitals:
                one.run("join", str(root / f"{one.name}.kit.zip"))
                centre(study, "admit", str(study), one.name, str(one.path / "keys" / "node.pub"))
            training = subprocess.Popen(
                [*SERVER, "train", str(study), "--address", address],
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            processes.append(training)
            for one in hospitals:
                assert "What leaves, and nothing else" in one.run(
                    "approve", str(one.path / "joined" / "study.toml")
                )
                processes.append(one.start())
            until(
                lambda: all("train" in one.receipts() for one in hospitals) or training.poll() is not None,
                400,
                "no hospital trained",
            )
            sys.stderr.write(f"\nfrom kit to the first trained round: {time.monotonic() - began:.0f} s\n")
            assert training.wait(400) == 0, (root / "train.log").read_text()[-3000:]
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(120) for process in processes]
    assert codes == [0, 0, 0]
    assert (study / "rounds" / f"{ROUNDS:03}" / "record.json").exists()
    for one in hospitals:
        assert one.typed == ["f2b-client join", "f2b-client approve", "f2b-client start"]
        assert {"describe", "train", "evaluate"} <= set(one.receipts())
        check_what_was_written(one)


def check_what_was_written(one: Hospital) -> None:
    """Everything is in the hospital's folder, its owner's, and closed to others."""
    assert not one.home.exists() or not list(one.home.iterdir())
    written = [path for path in one.path.rglob("*") if path.is_file()]
    private = [path for path in written if path.parent.name in {"keys"} and path.suffix != ".pub"]
    assert private
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in private)
    if one.prefix:
        assert {path.stat().st_uid for path in written} == {NOBODY}
        assert not [path for path in Path(tempfile.gettempdir()).iterdir() if path.stat().st_uid == NOBODY]
    assert (one.path / "reports" / "site.html").exists()
