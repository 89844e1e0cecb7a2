"""Baselines come through the same door, read faces, and take weights from a local file only."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from face2bone_model.contract.errors import SettingsError, WeightsError
from face2bone_model.contract.study import ModelSettings
from face2bone_model.models.baselines import BASELINES
from face2bone_model.models.face2bone import build_model, load_trainable, trainable_tensors
from face2bone_model.models.parameters import check_private


def faces(count=2):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 160, 160, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "vgg16_bn"])
def test_a_baseline_gives_three_logits_of_a_face(name):
    model = build_model(ModelSettings(backbone=name), seed=0).eval()
    assert model.input_kind == "faces"
    with torch.no_grad():
        logits = model(faces(), torch.zeros(2, 3))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.slow
def test_vgg_gives_three_logits_of_a_face():
    with torch.no_grad():
        assert build_model(ModelSettings(backbone="vgg16_bn"), seed=0).eval()(
            faces(), torch.zeros(2, 3)
        ).shape == (2, 3)


def test_a_baseline_scales_and_standardises_as_its_weights_expect():
    model = build_model(ModelSettings(backbone="resnet18"), seed=0).eval()
    seen = []
    model.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    grey = torch.full((1, 160, 160, 3), 128, dtype=torch.uint8)
    model(grey, torch.zeros(1, 3))
    expected = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert seen[0].shape == (1, 3, 224, 224)
    torch.testing.assert_close(seen[0][0, :, 100, 100], expected)


def test_the_same_seed_gives_the_same_baseline_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    first, again = (
        trainable_tensors(build_model(ModelSettings(backbone="resnet18"), seed=2)) for _ in range(2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_running_statistics_travel_with_a_baseline():
    sender, receiver = (build_model(ModelSettings(backbone="resnet18"), seed=seed) for seed in (0, 1))
    sender.train()(faces(4), torch.zeros(4, 3))
    load_trainable(receiver, trainable_tensors(sender))
    sender.eval(), receiver.eval()
    assert sender.network.bn1.running_mean.abs().max() > 0
    assert torch.equal(sender(faces(), torch.zeros(2, 3)), receiver(faces(), torch.zeros(2, 3)))


def test_pretrained_weights_come_from_a_local_file_but_for_the_classifier(tmp_path):
    torch.manual_seed(0)
    given = timm.create_model("vit_tiny_patch16_224", pretrained=False).state_dict()
    save_file(given, tmp_path / "vit.safetensors")
    model = build_model(
        ModelSettings(backbone="vit_tiny_patch16_224"), seed=0, weights=tmp_path / "vit.safetensors"
    )
    own = model.network.state_dict()
    assert torch.equal(own["blocks.0.attn.qkv.weight"], given["blocks.0.attn.qkv.weight"])
    assert own["head.weight"].shape == (3, 192)


@pytest.mark.parametrize("content", [b"torn", None])
def test_unusable_weights_are_refused(tmp_path, content):
    path = tmp_path / "odd.safetensors"
    if content is None:
        save_file({"conv1.weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"odd\.safetensors"):
        build_model(ModelSettings(backbone="resnet18"), seed=0, weights=path)


def test_a_baseline_sees_the_face_only():
    with pytest.raises(SettingsError, match="inputs"):
        build_model(ModelSettings(backbone="resnet18", inputs="both"), seed=0)


@pytest.mark.parametrize(("name", "accepted"), [("resnet18", False), ("vit_tiny_patch16_224", True)])
def test_privacy_refuses_batch_norm_and_takes_vision_transformers(name, accepted):
    model = build_model(ModelSettings(backbone=name), seed=0)
    if accepted:
        check_private(model)
    else:
        with pytest.raises(SettingsError, match="BatchNorm"):
            check_private(model)
