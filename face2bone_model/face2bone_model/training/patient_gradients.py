"""The gradient of each patient alone, from one backward pass: its length, and sums of it with a weight a patient.

What a layer's parameters owe to one patient follows from the layer's input and the gradient at its output. Hooks keep
the inputs; one backward pass that leaves the parameters out finds the gradients at the outputs; a rule for each kind
of layer does the rest. A linear map of one vector a patient needs the two vectors only: the length of their outer
product is the product of their lengths, and a weighted sum of outer products is one matrix product ("ghost" gradients,
Li et al. 2022, arXiv 2110.05679; without the second backward pass, Bu et al. 2023, arXiv 2210.00038). Every other
layer here is faster with the gradients of all patients laid out one after the other: docs/privacy.md has the figures.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers.norm import LayerNorm as TimmLayerNorm
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from face2bone_model.contract.errors import SettingsError
from face2bone_model.models.layers import Gain, Offset


@dataclass(frozen=True)
class Stacked:
    """Gradients of one parameter laid out, (B, *shape of the parameter)."""

    stack: Tensor

    def squared_norms(self) -> Tensor:
        """(B,)."""
        lengths: Tensor = torch.linalg.vector_norm(self.stack.flatten(1), dim=1)
        return lengths.square()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum of the patients' gradients, each times its weight (B,)."""
        return (weights @ self.stack.flatten(1)).view(self.stack.shape[1:])

    def take(self, patients: Tensor) -> "Stacked":
        """Of these patients only."""
        return Stacked(self.stack[patients])


@dataclass(frozen=True)
class Outer:
    """Gradients of a weight matrix as outer products of `left` (B, out) and `right` (B, in), never laid out."""

    left: Tensor
    right: Tensor

    def squared_norms(self) -> Tensor:
        """(B,)."""
        return self.left.square().sum(1) * self.right.square().sum(1)

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Sum of the patients' gradients, each times its weight (B,)."""
        return (self.left * weights[:, None]).T @ self.right

    def take(self, patients: Tensor) -> "Outer":
        """Of these patients only."""
        return Outer(self.left[patients], self.right[patients])


PatientGradient = Stacked | Outer
Gradients = Mapping[str, PatientGradient]
"""Of all trained parameters, by name."""

_Rule = Callable[[Any, Tensor, Tensor], dict[str, PatientGradient]]


@dataclass
class Recorder:
    """Input and output of every layer that is trained, in the last forward pass."""

    names: dict[nn.Module, str]
    trained: frozenset[str]
    calls: list[tuple[nn.Module, Tensor, Tensor]] = field(default_factory=list)
    listening: bool = True
    """Off while rules are at work, which may run a layer again."""

    def gradients(self, losses: Tensor) -> Gradients:
        """Each patient's gradient of its own loss, (B,), the result of one forward pass; forgets that pass.

        Raises:
            SettingsError: a layer was used twice, or saw something else than one row a patient.
        """
        calls, self.calls = self.calls, []
        if len({layer for layer, _, _ in calls}) < len(calls) or any(
            len(seen) != len(losses) for _, *pair in calls for seen in pair
        ):
            raise _refusal("it uses a layer twice, or mixes the rows of its patients")
        outputs = [output for _, _, output in calls]
        slopes = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
        found: dict[str, PatientGradient] = {}
        self.listening = False
        for (layer, inputs, _), slope in zip(calls, slopes, strict=True):
            if slope is not None:
                found.update(self._of_layer(layer, inputs, slope))
        self.listening = True
        return found

    def keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Forward hook. The first layers' inputs are data: there the gradient's way begins at the output."""
        if not self.listening:
            return
        if not isinstance(output, Tensor) or len(inputs) != 1:
            raise _refusal(f"its layer {type(layer).__name__} does not turn one tensor into one")
        if not output.requires_grad:
            output.requires_grad_()
        self.calls.append((layer, inputs[0].detach(), output))

    def _of_layer(self, layer: nn.Module, inputs: Tensor, slope: Tensor) -> dict[str, PatientGradient]:
        prefix = self.names[layer]
        rule = _RULES.get(type(layer).forward, any_layer)
        by_name = {
            f"{prefix}.{name}" if prefix else name: g for name, g in rule(layer, inputs, slope).items()
        }
        return {name: gradient for name, gradient in by_name.items() if name in self.trained}


@contextmanager
def recorded(model: nn.Module, trained: frozenset[str]) -> Iterator[Recorder]:
    """Record the layers that hold the parameters named; the model is as it was on the way out, errors included.

    Raises:
        SettingsError: a layer to be trained keeps buffers, which may mix patients or remember them.
    """
    recorder = Recorder(names=_layers(model, trained), trained=trained)
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    hooks = []
    try:
        for layer in recorder.names:
            hooks.append(layer.register_forward_hook(recorder.keep))
        for parameter in moved:
            parameter.requires_grad = False  # else autograd would add up the patients' gradients as well
        yield recorder
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in moved:
            parameter.requires_grad = True


def norms(gradients: Gradients) -> Tensor:
    """Length of each patient's whole gradient, (B,)."""
    squares = [gradient.squared_norms() for gradient in gradients.values()]
    return torch.stack(squares).sum(0).sqrt()


def any_layer(layer: nn.Module, inputs: Tensor, slope: Tensor) -> dict[str, PatientGradient]:
    """For layers without a rule of their own: run the layer again for each patient, vectorised. The slowest way."""
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def product(parameters: dict[str, Tensor], row: Tensor, row_slope: Tensor) -> Tensor:
        output: Tensor = functional_call(layer, parameters, (row[None],))
        return (output * row_slope[None]).sum()

    one_by_one = vmap(grad(product), in_dims=(None, 0, 0), randomness="different")
    return {name: Stacked(stack) for name, stack in one_by_one(parameters, inputs, slope).items()}


def _linear(layer: nn.Linear, inputs: Tensor, slope: Tensor) -> dict[str, PatientGradient]:
    if inputs.dim() == 2:  # noqa: PLR2004  # one vector a patient
        found: dict[str, PatientGradient] = {"weight": Outer(slope, inputs)}
    else:
        rows, row_slopes = inputs.flatten(1, -2), slope.flatten(1, -2)
        found = {"weight": Stacked(torch.bmm(row_slopes.transpose(1, 2), rows))}
    return found if layer.bias is None else {**found, "bias": Stacked(_over_places(slope, 1))}


def _convolution(layer: nn.Conv2d, inputs: Tensor, slope: Tensor) -> dict[str, PatientGradient]:
    channels, positions = inputs.shape[1], slope.flatten(2)
    unit = layer.stride == layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if unit and layer.kernel_size == (1, 1) and layer.padding == (0, 0) and layer.groups == 1:
        stack = torch.bmm(positions, inputs.flatten(2).transpose(1, 2))
    elif unit and layer.groups == channels == layer.out_channels and isinstance(layer.padding, tuple):
        # Each patient's channel is correlated with its own slope: one convolution with a group for each of them.
        groups = len(inputs) * channels
        stack = functional.conv2d(
            inputs.reshape(1, groups, *inputs.shape[2:]),
            slope.reshape(groups, 1, *slope.shape[2:]),
            padding=layer.padding,
            groups=groups,
        )
    else:
        return any_layer(layer, inputs, slope)
    found: dict[str, PatientGradient] = {"weight": Stacked(stack.reshape(len(inputs), *layer.weight.shape))}
    return found if layer.bias is None else {**found, "bias": Stacked(positions.sum(2))}


def _layer_norm(layer: nn.LayerNorm, inputs: Tensor, slope: Tensor) -> dict[str, PatientGradient]:
    width = len(layer.normalized_shape)
    normalised = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    found: dict[str, PatientGradient] = {"weight": Stacked(_over_places(normalised * slope, width))}
    return found if layer.bias is None else {**found, "bias": Stacked(_over_places(slope, width))}


def _offset(_: Offset, __: Tensor, slope: Tensor) -> dict[str, PatientGradient]:
    return {"table": Stacked(slope)}


def _gain(_: Gain, inputs: Tensor, slope: Tensor) -> dict[str, PatientGradient]:
    return {"value": Stacked((inputs * slope).flatten(1).sum(1, keepdim=True))}


_RULES: dict[Any, _Rule] = {
    nn.Linear.forward: _linear,
    nn.Conv2d.forward: _convolution,
    nn.LayerNorm.forward: _layer_norm,
    TimmLayerNorm.forward: _layer_norm,
    Offset.forward: _offset,
    Gain.forward: _gain,
}
"""By the forward function, not the class: a subclass that computes something else has another one."""


def _over_places(values: Tensor, width: int) -> Tensor:
    """Sum (B, ..., last `width` dimensions) over all between the first and those."""
    between = tuple(range(1, values.dim() - width))
    return values.sum(between) if between else values


def _layers(model: nn.Module, trained: frozenset[str]) -> dict[nn.Module, str]:
    """The outermost modules with a trained parameter of their own, and their names."""
    found: dict[nn.Module, str] = {}

    def visit(module: nn.Module, name: str) -> None:
        prefix = f"{name}." if name else ""
        if any(prefix + own in trained for own, _ in module.named_parameters(recurse=False)):
            if next(module.buffers(), None) is not None:
                raise _refusal(f"its layer {type(module).__name__} keeps statistics or constants as buffers")
            found[module] = name
            return
        for child_name, child in module.named_children():
            visit(child, prefix + child_name)

    visit(model, "")
    return found


def _refusal(reason: str) -> SettingsError:
    return SettingsError(
        f"This model cannot be trained with differential privacy: {reason}.",
        "Choose another model, or train without differential privacy.",
    )
