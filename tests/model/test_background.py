"""The background model's file is checked before anything is loaded."""

import pytest

from face2bone_model.contract.errors import WeightsError
from face2bone_model.data.background import BackgroundRemover


def test_another_file_is_refused(tmp_path):
    (tmp_path / "u2netp.onnx").write_bytes(b"another network")
    with pytest.raises(WeightsError, match="is not the u2netp model"):
        BackgroundRemover(tmp_path / "u2netp.onnx")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"u2netp\.onnx cannot be read: No such file"):
        BackgroundRemover(tmp_path / "u2netp.onnx")
