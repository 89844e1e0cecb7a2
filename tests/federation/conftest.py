"""Real federations, run once for all tests: `f2b-server demo` as a newcomer runs it, small."""

from pathlib import Path

import pytest
import skimage.data
from federation_runs import ASTRONAUT, CLIENT, PATIENTS, ROUNDS, Demo, run, run_demo
from PIL import Image


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """Three rendered hospitals, one of them with differential privacy."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return run_demo(out, "--patients", str(PATIENTS), "--rounds", str(ROUNDS))


@pytest.fixture(scope="session")
def real_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two hospitals' own folders; one holds a real photograph among its patients (NASA, public domain)."""
    root = tmp_path_factory.mktemp("hospitals")
    folders = {name: root / name for name in ("north", "south")}
    for seed, (name, folder) in enumerate(folders.items()):
        options = ["--patients", str(PATIENTS), "--site", "harbour", "--seed", str(40 + seed)]
        assert run([*CLIENT, "sample-data", str(folder), *options]).returncode == 0
        text = (folder / "site.toml").read_text().replace('name = "harbour"', f'name = "{name}"')
        (folder / "site.toml").write_text(text)
    _add_astronaut(folders["north"])
    return folders


def _add_astronaut(folder: Path) -> None:
    Image.fromarray(skimage.data.astronaut()).save(folder / "photos" / f"{ASTRONAUT}.jpg", quality=95)
    path = folder / "dxa_export.csv"
    header, first, *_ = path.read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    row |= {
        "PatientID": ASTRONAUT,
        "Sex": "F",
        "Age": "62",
        "Menopause": "post",
        "Region": "L1-L4",
        "T_score": "-0.4",
    }
    with path.open("a") as file:
        file.write(",".join(row.values()) + "\n")


@pytest.fixture(scope="session")
def real_demo(real_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The demo over hospitals' own folders."""
    sites = [option for name, folder in real_folders.items() for option in ("--site", f"{name}={folder}")]
    return run_demo(tmp_path_factory.mktemp("real") / "out", *sites, "--rounds", "1")
