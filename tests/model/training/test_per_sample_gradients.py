"""The gradient of each patient: equal to autograd on that patient alone, and to Opacus, for every trainable tensor."""

import dataclasses

import pytest
import torch
from opacus import GradSampleModule
from torch import nn

from face2bone_model.contract.errors import SettingsError
from face2bone_model.contract.study import ModelSettings
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.layers import Gain
from face2bone_model.training.loss import PatientLoss
from face2bone_model.training.patient_gradients import recorded

SMALL = ModelSettings(stem_width=16, branch_width=16, head_hidden=8, dropout=0.0)
PATIENTS = 3
VARIANTS = {
    "fsa": {},
    "dense attention": {"fsa": "dense"},
    "frequency channel attention": {"fsa": "fca"},
    "no attention": {"fsa": "off"},
    "transformer branch": {"branches": "transformer"},
    "cnn branch": {"branches": "cnn"},
    "pykan head": {"head": "pykan"},
    "mlp head": {"head": "mlp"},
    "linear head": {"head": "linear"},
    "face and clinical": {"inputs": "both"},
    "clinical only": {"inputs": "clinical"},
    "the sizes of the study": {
        "stem_width": ModelSettings.stem_width,
        "branch_width": ModelSettings.branch_width,
        "head_hidden": ModelSettings.head_hidden,
    },
}


def model_of(changes):
    model = build_model(dataclasses.replace(SMALL, **changes), seed=3).double()
    for module in model.modules():
        if isinstance(module, Gain):  # 0 at the start, which would hide the gradients behind it
            torch.nn.init.constant_(module.value, 0.7)
    return model.train()


def patients():
    torch.manual_seed(5)
    features = torch.rand(PATIENTS, 896, 8, 8, dtype=torch.float64)
    return features, torch.randn(PATIENTS, 3, dtype=torch.float64), torch.tensor([0, 2, 1])


def one_by_one(model, criterion, features, clinical, labels):
    gradients = []
    for i in range(PATIENTS):
        one = slice(i, i + 1)
        loss = criterion(model(features[one], clinical[one]), labels[one]).sum()
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients.append(torch.autograd.grad(loss, trainable))
    return [torch.stack(each) for each in zip(*gradients, strict=True)]


def trained_names(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def found_gradients(model, criterion, features, clinical, labels, names=None):
    """By name, one after the other: a sum with the weight 1 for one patient and 0 for the others is its gradient."""
    with recorded(model, frozenset(names or trained_names(model))) as recorder:
        gradients = recorder.gradients(criterion(model(features, clinical), labels))
    rows = torch.eye(len(labels), dtype=features.dtype)
    stacks = {name: torch.stack([each.weighted_sum(row) for row in rows]) for name, each in gradients.items()}
    for name, each in gradients.items():
        torch.testing.assert_close(each.squared_norms(), stacks[name].flatten(1).square().sum(1))
    return stacks


def assert_same(found, expected, names):
    assert names, "the model has something to train"
    assert set(found) == set(names)
    for name, reference in zip(names, expected, strict=True):
        assert reference.abs().max() > 0, name
        error = (found[name] - reference).abs().max()
        assert error <= 1e-6 * max(1.0, float(reference.abs().max())), name


@pytest.mark.parametrize("loss", ["cross_entropy", "ordinal"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_of_each_patient_is_the_one_autograd_finds_alone(variant, loss):
    model = model_of(VARIANTS[variant])
    expected = one_by_one(model, PatientLoss(loss), *patients())
    found = found_gradients(model, PatientLoss(loss), *patients())
    assert_same(found, expected, trained_names(model))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_it_is_the_one_opacus_finds():
    model, criterion = model_of({}), PatientLoss("cross_entropy")
    found = found_gradients(model, criterion, *patients())
    features, clinical, labels = patients()
    private = GradSampleModule(model, loss_reduction="sum")
    criterion(private(features, clinical), labels).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad_sample, rtol=1e-6, atol=1e-9)


def test_of_a_head_trained_alone_only_its_tensors_have_gradients():
    model = model_of({})
    head = [name for name in trained_names(model) if name.startswith("head.")]
    everything = found_gradients(model, PatientLoss("cross_entropy"), *patients())
    found = found_gradients(model, PatientLoss("cross_entropy"), *patients(), names=head)
    assert set(found) == set(head)
    for name in head:
        torch.testing.assert_close(found[name], everything[name])


@pytest.mark.parametrize("rows", [(), (5,), (4, 5)], ids=["one vector", "tokens", "map of tokens"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_of_any_depth(rows, bias):
    compare_layer(nn.Linear(6, 4, bias=bias), torch.randn(PATIENTS, *rows, 6))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": 3, "padding": 1, "groups": 4},
        {"kernel_size": 3, "groups": 4, "bias": False},
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "stride": 2, "groups": 4},
        {"kernel_size": 3, "padding": "same", "groups": 4},
        {"kernel_size": 3, "padding": 1, "groups": 4, "padding_mode": "reflect"},
        {"kernel_size": 1, "groups": 2},
        {"kernel_size": 1, "padding": 1},
    ],
    ids=str,
)
def test_convolutions_of_any_kind_in_any_memory_order(settings, order):
    """Opacus 1.6.0 fails this for channels_last: it reads the activations with the wrong strides."""
    images = torch.randn(PATIENTS, 4, 8, 8).contiguous(memory_format=order)
    compare_layer(nn.Conv2d(4, 4, **settings), images)


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(6), nn.LayerNorm((5, 6)), nn.LayerNorm(6, bias=False), nn.GroupNorm(5, 5)], ids=str
)
def test_other_layers_with_or_without_a_rule_of_their_own(layer):
    compare_layer(layer, torch.randn(PATIENTS, 5, 6))


def compare_layer(layer, inputs):
    """The layer's gradients for each row against autograd on that row."""
    names = trained_names(layer)
    with recorded(layer, frozenset(names)) as recorder:
        gradients = recorder.gradients(layer(inputs).square().flatten(1).sum(1))
    for row in range(len(inputs)):
        alone = torch.autograd.grad(layer(inputs[row : row + 1]).square().sum(), list(layer.parameters()))
        chosen = torch.nn.functional.one_hot(torch.tensor(row), len(inputs)).float()
        for name, reference in zip(names, alone, strict=True):
            torch.testing.assert_close(gradients[name].weighted_sum(chosen), reference, rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, rows):
        return self.map(self.map(rows))


class AcrossPatients(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, rows):
        return self.map(rows.mean(0, keepdim=True)).expand(len(rows), -1)


class WithBuffer(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.register_buffer("seen", torch.zeros(4))


@pytest.mark.parametrize(
    ("model", "reason"), [(Twice(), "twice"), (AcrossPatients(), "mixes"), (WithBuffer(), "buffers")]
)
def test_a_model_whose_patients_cannot_be_told_apart_is_refused(model, reason):
    def gradients():
        with recorded(model, frozenset(trained_names(model))) as recorder:
            recorder.gradients(model(torch.randn(3, 4)).sum(1))

    with pytest.raises(SettingsError, match=reason):
        gradients()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_takes_two_tensors_is_refused():
    layer = nn.Bilinear(4, 4, 2)
    with recorded(layer, frozenset(["weight"])), pytest.raises(SettingsError, match="one tensor"):
        layer(torch.randn(3, 4), torch.randn(3, 4))


def test_a_layer_that_is_not_used_has_no_gradient():
    model = nn.ModuleDict({"used": nn.Linear(4, 1), "unused": nn.Linear(4, 1)})
    with recorded(model, frozenset(trained_names(model))) as recorder:
        model["unused"](torch.randn(3, 4))
        gradients = recorder.gradients(model["used"](torch.randn(3, 4))[:, 0])
    assert set(gradients) == {"used.weight", "used.bias"}
