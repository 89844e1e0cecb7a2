"""Face2Bone as a whole: switches change what they name, building has no side effect, tensors travel."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch.nn.modules.dropout import _DropoutNd

from face2bone_model.contract.errors import SettingsError, SignatureError, WeightsError
from face2bone_model.contract.study import ModelSettings
from face2bone_model.models.face2bone import build_model, load_trainable, parameter_count, trainable_tensors
from face2bone_model.models.parameters import check_private
from face2bone_model.models.trunk import random_trunk_tensors

PARTS = {
    "fsa": "fsa.",
    "head": "head.",
    "transformer": "branches.transformer.",
    "cnn": "branches.cnn.",
    "norm": "norm.",
}
SWITCHES = [
    ({"fsa": "off"}, {"fsa"}),
    ({"fsa": "fca"}, {"fsa"}),
    ({"fsa": "dense"}, set()),
    ({"keep_frequencies": 0.25}, set()),
    ({"keep_attention": 0.25}, set()),
    ({"dropout": 0.5}, set()),
    ({"head": "mlp"}, {"head"}),
    ({"head": "linear"}, {"head"}),
    ({"head": "pykan"}, {"head"}),
    ({"branches": "cnn"}, {"transformer", "norm", "head"}),
    ({"branches": "transformer"}, {"cnn", "norm", "head"}),
    ({"inputs": "both"}, {"head"}),
    ({"transformer_layers": 2}, {"transformer"}),
]


def batch(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 896, 8, 8, generator=generator), torch.randn(count, 3, generator=generator)


def part_of(name):
    return next((part for part, prefix in PARTS.items() if name.startswith(prefix)), "stem")


@pytest.mark.parametrize(("switch", "named"), SWITCHES)
def test_a_switch_changes_the_tensors_of_what_it_names_and_no_other(switch, named):
    plain = trainable_tensors(build_model(ModelSettings(), seed=3))
    switched = trainable_tensors(build_model(ModelSettings(**switch), seed=3))
    for name in plain.keys() | switched.keys():
        if part_of(name) not in named:
            assert np.array_equal(plain[name], switched[name]), name
    assert all(
        any(part_of(name) == part for name in plain.keys() ^ switched.keys()) or part in ("norm", "head")
        for part in named
    )


@pytest.mark.parametrize("switch", [{}] + [switch for switch, _ in SWITCHES] + [{"inputs": "clinical"}])
def test_every_variant_gives_finite_logits_and_trains_every_tensor(switch):
    model = build_model(ModelSettings(**switch), seed=0)
    with torch.no_grad():  # at its start of 0 the gain lets no gradient through to the attention behind it
        if "fsa.gamma.value" in dict(model.named_parameters()):
            model.fsa.gamma.value.fill_(0.1)
    logits = model(*batch())
    assert logits.shape == (4, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 1])).backward()
    idle = [
        name
        for name, value in model.named_parameters()
        if value.requires_grad and not value.grad.abs().max() > 0
    ]
    assert idle == []


def test_what_inputs_leaves_out_is_not_read():
    features, clinical = batch()
    nothing = torch.full_like(features, torch.nan)
    face, only = (build_model(ModelSettings(inputs=kind), seed=0).eval() for kind in ("face", "clinical"))
    assert torch.equal(face(features, clinical), face(features, clinical * torch.nan))
    assert torch.equal(only(features, clinical), only(nothing, clinical))
    both = build_model(ModelSettings(inputs="both"), seed=0).eval()
    assert not torch.equal(both(features, clinical), both(features, clinical + 1))


def test_the_logits_do_not_depend_on_the_trunks_scale_or_on_memory_order():
    features, clinical = batch()
    model = build_model(ModelSettings(), seed=0).eval()
    expected = model(features, clinical)
    torch.testing.assert_close(model(features * 37, clinical), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(features.to(memory_format=torch.channels_last), clinical), expected)


def test_a_blank_feature_map_gives_finite_logits_and_gradients():
    features, clinical = batch()
    model = build_model(ModelSettings(), seed=0)
    logits = model(features * 0, clinical)
    logits.square().sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_what_all_places_of_a_channel_share_is_taken_out():
    features, clinical = batch()
    model = build_model(ModelSettings(fsa="off"), seed=0).eval()
    torch.testing.assert_close(
        model(features + torch.rand(896, 1, 1), clinical), model(features, clinical), atol=1e-4, rtol=1e-3
    )


def test_each_patient_is_computed_alone():
    features, clinical = batch(8)
    model = build_model(ModelSettings(inputs="both"), seed=0).eval()
    alone = torch.cat([model(features[index : index + 1], clinical[index : index + 1]) for index in range(8)])
    torch.testing.assert_close(model(features, clinical), alone, atol=1e-5, rtol=0)


def test_fsa_at_its_start_gives_the_same_logits_as_none():
    without = build_model(ModelSettings(fsa="off"), seed=0).eval()
    assert torch.equal(without(*batch()), build_model(ModelSettings(), seed=0).eval()(*batch()))


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    first, again, other = (trainable_tensors(build_model(ModelSettings(), seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["stem.convolution.weight"], other["stem.convolution.weight"])


BUILD_ALL = """
import random, numpy as np, torch
import face2bone_model.models.pykan_layer  # importing scikit-learn, as pykan does, draws from `random` once
from face2bone_model.contract.study import ModelSettings
from face2bone_model.models.face2bone import build_model
before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
for settings in (dict(), dict(head="pykan"), dict(trunk="finetune"), dict(backbone="resnet18")):
    build_model(ModelSettings(**settings), seed=1)
assert torch.equal(before[0], torch.get_rng_state())
assert (before[1] == np.random.get_state()[1]).all() and before[2] == random.getstate()
"""


def test_building_a_model_writes_nothing_prints_nothing_and_leaves_the_random_state_alone(tmp_path):
    command = [sys.executable, "-c", BUILD_ALL]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_trainable_part_is_small_and_complete():
    model = build_model(ModelSettings(), seed=0)
    tensors = trainable_tensors(model)
    assert sum(tensor.nbytes for tensor in tensors.values()) == 4 * parameter_count(model) < 2_000_000
    assert all(tensor.dtype == np.float32 for tensor in tensors.values())


def test_tensors_travel_from_one_model_to_another():
    sender, receiver = (build_model(ModelSettings(), seed=seed).eval() for seed in (1, 2))
    load_trainable(receiver, trainable_tensors(sender))
    assert torch.equal(sender(*batch()), receiver(*batch()))


def test_travelled_tensors_are_copies():
    model = build_model(ModelSettings(), seed=0)
    tensors = trainable_tensors(model)
    tensors["fsa.gamma.value"][:] = 5
    assert trainable_tensors(model)["fsa.gamma.value"] == 0


@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_tensors_of_another_model_are_refused(damage):
    model = build_model(ModelSettings(), seed=0)
    tensors = trainable_tensors(model)
    if damage == "missing":
        del tensors["norm.weight"]
    else:
        tensors["norm.weight" if damage == "shape" else "more"] = np.zeros(1, np.float32)
    with pytest.raises(SignatureError):
        load_trainable(model, tensors)


@pytest.mark.parametrize(
    "odd",
    [
        {"fsa_heads": 3},
        {"transformer_heads": 5},
        {"keep_frequencies": 0.0},
        {"keep_attention": 1.5},
        {"backbone": "alexnet"},
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(odd):
    with pytest.raises(SettingsError, match=next(iter(odd))):
        build_model(ModelSettings(**odd), seed=0)


def test_dropout_acts_in_training_only():
    model = build_model(ModelSettings(dropout=0.5), seed=0)
    assert any(isinstance(module, _DropoutNd) for module in model.modules())
    assert not torch.equal(model(*batch()), model(*batch()))
    assert torch.equal(model.eval()(*batch()), model.eval()(*batch()))


def test_a_fine_tuned_trunk_starts_from_its_weights_and_reads_faces(tmp_path):
    settings = ModelSettings(trunk="finetune")
    save_file(random_trunk_tensors(9), tmp_path / "facenet-x.safetensors")
    model = build_model(settings, seed=0, weights=tmp_path / "facenet-x.safetensors")
    assert model.input_kind == "faces"
    tensors = trainable_tensors(model)
    assert np.array_equal(
        tensors["trunk.layers.conv2d_1a.conv.weight"], random_trunk_tensors(9)["conv2d_1a.conv.weight"]
    )
    plain = trainable_tensors(build_model(ModelSettings(), seed=0))
    assert all(np.array_equal(plain[name], tensors[name]) for name in plain)
    faces = torch.randint(0, 256, (2, 160, 160, 3), dtype=torch.uint8)
    model(faces, torch.zeros(2, 3)).sum().backward()
    assert model.trunk.layers.conv2d_1a.conv.weight.grad.abs().max() > 0


def test_a_fine_tuned_trunk_of_a_study_is_the_same_at_every_site():
    settings = ModelSettings(trunk="finetune")
    first, second = (trainable_tensors(build_model(settings, seed=4)) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_fine_tuning_from_a_missing_file_is_refused(tmp_path):
    with pytest.raises(WeightsError):
        build_model(ModelSettings(trunk="finetune"), seed=0, weights=tmp_path / "none.safetensors")


def test_privacy_takes_the_frozen_model_and_refuses_a_trained_trunk():
    check_private(build_model(ModelSettings(), seed=0))
    with pytest.raises(SettingsError, match="finetune"):
        check_private(build_model(dataclasses.replace(ModelSettings(), trunk="finetune"), seed=0))
