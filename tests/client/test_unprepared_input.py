"""What a hospital really has on its disk: each bad thing is a sentence with file or row and mend; the rest goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

SITE_TOML = """\
[site]
name = "messy"
[photos]
folder = "photos"
pattern = '^(?P<patient>[A-Za-z0-9]+)'
[dxa]
file = "dxa.csv"
format = "csv-long"
[dxa.columns]
patient = "Patient"
sex = "Sex"
age = "Age"
menopause = "Menopause"
skeletal_site = "Region"
t_score = "T"
[dxa.values]
female = ["F"]
male = ["M"]
postmenopausal = ["post"]
lumbar_spine = ["L1-L4"]
"""
HEADER = "Patient,Sex,Age,Menopause,Region,T\n"


def client(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "F2B_WEIGHTS": "/nonexistent"}
    command = [sys.executable, "-m", "f2b_client.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


@pytest.fixture(scope="module")
def messy(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, str]], dict[str, object]]:
    """A folder with every kind of bad photo and row, prepared once; findings by where, and the counts."""
    site = tmp_path_factory.mktemp("messy")
    photos = site / "photos"
    photos.mkdir()
    (site / "site.toml").write_text(SITE_TOML)
    face = Image.fromarray(skimage.data.astronaut())
    write_photos(photos, face)
    rows = [f"{path.stem},F,62,post,L1-L4,-1.{i}" for i, path in enumerate(sorted(photos.iterdir()))]
    rows += ["Wild,F,70,post,L1-L4,25", "Twice,F,70,post,L1-L4,-0.5", "Twice,M,70,,L1-L4,-2.9"]
    for name in ("Wild", "Twice"):
        face.rotate(len(name), expand=True).save(photos / f"{name}.jpg")
    (site / "dxa.csv").write_text(HEADER + "\n".join(rows) + "\n")
    done = client("prepare", "--site", str(site), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return {one["where"]: one for one in result["findings"]}, result


def write_photos(photos: Path, face: Image.Image) -> None:
    (photos / "Text.jpg").write_text("this is not a photo")
    face.convert("CMYK").save(photos / "Cmyk.jpg")
    grey = np.asarray(face.convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(photos / "Deep16.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate 90 degrees clockwise to see it upright
    face.rotate(90, expand=True).save(photos / "Turned.jpg", exif=exif)
    pair = Image.new("RGB", (face.width * 2, face.height))
    pair.paste(face, (0, 0))
    pair.paste(face, (face.width, 0))
    pair.save(photos / "Pair.jpg")
    noise = np.random.default_rng(0).integers(0, 255, (480, 480, 3), np.uint8)
    Image.fromarray(noise).save(photos / "Nobody.png")


def only(findings: dict[str, dict[str, str]], part: str) -> dict[str, str]:
    found = [one for where, one in findings.items() if part in where]
    assert found, f"nothing names {part}: {sorted(findings)}"
    return found[0]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("photos/Text.jpg", "cannot be read as a picture"),
        ("photos/Pair.jpg", "More than one face"),
        ("photos/Nobody.png", "No face"),
        ("dxa.csv row 8", "25"),
    ],
)
def test_a_bad_photo_or_row_is_named_with_what_is_wrong_and_the_mend(messy, where, says):
    found = only(messy[0], where)
    assert says.lower() in f"{found['what']}".lower()
    assert len(found["mend"]) > 10


def test_a_duplicate_patient_with_contradicting_rows_is_named_and_left_out(messy):
    sentences = [f"{where} {one['what']}" for where, one in messy[0].items()]
    assert any("Twice" in sentence and "row" in sentence for sentence in sentences)


def test_cmyk_sixteen_bit_and_turned_photos_are_simply_used(messy):
    findings, result = messy
    assert not [where for where in findings if any(name in where for name in ("Cmyk", "Deep16", "Turned"))]
    assert result["usable"] == 3
    assert result["patients"] == 3


def test_an_empty_folder_is_refused_in_a_sentence_with_the_mend(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "site.toml").write_text(SITE_TOML)
    (tmp_path / "dxa.csv").write_text(HEADER + "A,F,62,post,L1-L4,-1.0\n")
    done = client("prepare", "--site", str(tmp_path), "--json")
    assert done.returncode == 10
    answer = json.loads(done.stdout)
    assert "photos" in answer["what"]
    assert answer["mend"]
