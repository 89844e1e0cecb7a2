"""Opacus's gradient of each patient equals autograd on that patient alone, for every trainable tensor."""

import dataclasses

import pytest
import torch

from face2bone_model.contract.study import ModelSettings
from face2bone_model.models.face2bone import build_model
from face2bone_model.models.layers import Gain
from face2bone_model.training.dp_sgd import single_patient_gradients
from face2bone_model.training.loss import PatientLoss

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


@pytest.mark.parametrize("loss", ["cross_entropy", "ordinal"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_of_each_patient_is_the_one_autograd_finds_alone(variant, loss):
    model = model_of(VARIANTS[variant])
    criterion = PatientLoss(loss)
    features, clinical, labels = patients()
    expected = one_by_one(model, criterion, features, clinical, labels)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    with single_patient_gradients(model) as private:
        criterion(private(features, clinical), labels).sum().backward()
        found = dict(model.named_parameters())
        assert names, "the model has something to train"
        for name, reference in zip(names, expected, strict=True):
            assert reference.abs().max() > 0, name
            error = (found[name].grad_sample - reference).abs().max()
            assert error <= 1e-6 * max(1.0, float(reference.abs().max())), name
