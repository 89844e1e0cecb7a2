"""Files that survive a crash."""

import json
import os
import stat
import subprocess
import sys

import pytest

from face2bone_model.system.files import write_atomic, write_json

ENDLESS = """
import sys
from pathlib import Path
from face2bone_model.system.files import write_atomic
print("ready", flush=True)
while True:
    for letter in b"ab":
        write_atomic(Path(sys.argv[1]), bytes([letter]) * 2_000_000)
"""


def test_a_file_is_written_whole_with_its_mode_and_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_atomic(path, b"content", mode=0o600)
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_atomic(path, b"other")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"other", 0o644)
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_process_killed_while_writing_leaves_the_old_content_or_the_new(tmp_path):
    path = tmp_path / "file"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            while not path.exists():
                assert process.poll() is None
            process.kill()
        content = path.read_bytes()
        assert content in (b"a" * 2_000_000, b"b" * 2_000_000)


def test_a_write_that_fails_leaves_the_old_content_and_no_litter(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "no bytes")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]  # noqa: PTH208  # hidden files too


def test_json_is_written_in_a_fixed_order(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [2]})
    write_json(tmp_path / "b.json", {"a": [2], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": [2], "b": 1}
