"""Without network and without weights the demo goes on, and every report says with what."""

from pathlib import Path

import pytest
from federation_runs import run_demo

pytestmark = pytest.mark.slow


def test_the_demo_goes_on_with_a_random_trunk_and_an_ellipse_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("F2B_WEIGHTS", str(tmp_path / "weights"))
    demo = run_demo(tmp_path / "out", "--patients", "24", "--rounds", "1")
    assert "seeded random trunk" in demo.said
    for page in (demo.result["study_page"], *demo.result["site_pages"].values()):
        assert "Random trunk." in Path(page).read_text()
    for page in demo.result["site_pages"].values():
        assert "Ellipse only." in Path(page).read_text()
