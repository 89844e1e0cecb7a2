"""Memory and time of a strategy's step, in a process of its own, over updates in memory-mapped files.

What counts is anonymous memory (RssAnon of /proc/self/status, sampled every few milliseconds), above what the process
had before it held any model: the model received, the next model, and whatever is needed in between. Pages of files
(the sites' updates, the strategy's state in scratch files) do not count: the kernel takes them back when memory is
short. Several sites read the same file, so that 64 sites of 94 MB fit on a small disk; eight files are still more than
any cache holds.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FILES = 8
NAMES = (
    "fedavg", "fedavgm", "fedadam", "fedyogi", "scaffold", "trimmed_mean", "krum", "geometric_median",
)  # fmt: skip
STEP = """
import json, sys, threading, time
import numpy as np
from f2b_server.strategies.choice import strategy_of
from f2b_server.strategies.strategy import SiteUpdate
from face2bone_model.contract.study import StrategySettings, Study, TrainingSettings
from face2bone_model.contract.update import ModelSignature

folder, name, sites, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
files = int(sys.argv[5])
names = tuple(f"s{number:02d}" for number in range(sites))
study = Study(name="B", question="?", sites=names, trunk_name="r", trunk_digest="0",
              training=TrainingSettings(optimizer="sgd"),
              strategy=StrategySettings(name=name, server_learning_rate=0.05))
signature = ModelSignature((("body", (size - 1000,)), ("head", (1000,))), "0")
strategy = strategy_of(study, signature)

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))

baseline, peak, over = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not over.wait(0.005):
        peak = max(peak, anonymous())

received = np.fromfile(f"{folder}/received", np.float32)
vectors = [np.memmap(f"{folder}/update{number % files}", np.float32, "r") for number in range(sites)]
updates = [SiteUpdate(site=site, vector=vector, num_patients=10 + number, loss_variance=1.0)
           for number, (site, vector) in enumerate(zip(names, vectors))]
watcher = threading.Thread(target=watch)
watcher.start()
began, used = time.perf_counter(), time.process_time()
strategy.step(updates, received, {})
seconds, cpu = time.perf_counter() - began, time.process_time() - used
over.set()
watcher.join()
json.dump({"bytes": max(peak, anonymous()) - baseline, "seconds": seconds, "cpu": cpu}, sys.stdout)
"""


def write_model(folder: Path, size: int) -> None:
    """A model received, and a few updates of it."""
    rng = np.random.default_rng(0)
    received = rng.random(size, np.float32)
    received.tofile(folder / "received")
    for number in range(FILES):
        (received + rng.random(size, np.float32) - np.float32(0.4)).tofile(folder / f"update{number}")


def step_in_a_process(folder: Path, name: str, sites: int, size: int) -> dict[str, float]:
    """Peak bytes above the empty process, and seconds, of one step."""
    words = [sys.executable, "-c", STEP, str(folder), name, str(sites), str(size), str(FILES)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of a process")
@pytest.mark.parametrize("name", ["fedadam", "scaffold", "trimmed_mean", "geometric_median"])
def test_a_step_over_many_sites_takes_no_more_than_three_models_of_memory(tmp_path, name):
    size = 10_000_000
    write_model(tmp_path, size)
    assert step_in_a_process(tmp_path, name, 16, size)["bytes"] <= 3 * 4 * size


@pytest.mark.benchmark
@pytest.mark.parametrize("sites", [2, 64])
def test_94_megabytes_from_2_to_64_sites_take_no_more_than_three_models_of_memory(tmp_path, sites, capsys):
    size = 94_140_000 // 4
    write_model(tmp_path, size)
    for name in NAMES:
        found = step_in_a_process(tmp_path, name, sites, size)
        models, rate = found["bytes"] / (4 * size), sites * 4 * size / found["seconds"] / 1e9
        with capsys.disabled():
            sys.stdout.write(
                f"\n{name}, {sites} sites of 94 MB: {models:.2f} models of memory, {found['seconds']:.1f} s "
                f"({found['cpu']:.1f} s of a core), "
                f"{rate:.2f} GB of updates a second"
            )
        assert models <= 3
