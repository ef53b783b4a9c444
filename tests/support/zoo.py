"""Torch's own modules, each in a small network, and the penalties on it by naive loops."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.common_modules import ModuleInfo, module_db
from torch.utils._pytree import tree_map

from losses import EagerForward, FunctionalForward, InputGradient, Jacobian, Penalty, TangentProp

# Torch's own tests forbid, when they are imported, to set flags of kernels for the whole process; ours set them.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

INPUTS = 5
DTYPES = (torch.float64, torch.float32)
# Largest relative difference from the naive loops, of values and of gradients.
CLOSE = {torch.float64: 1e-9, torch.float32: 2e-3}


POSITIVE = ("NLLLoss", "GaussianNLLLoss", "PoissonNLLLoss", "BCELoss", "KLDivLoss", "LPPool1d", "LPPool2d", "LPPool3d")


class Sample(NamedTuple):
    """A module as torch's own tests build and call it."""

    name: str
    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]
    place: int | str  # of the tensor that the network computes


def samples(info: ModuleInfo, dtype: torch.dtype, training: bool, most: int) -> Iterator[Sample]:
    """Yield a module with some of its options, where its first input and its output have a row for each example."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        given = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=training)
    count = 0
    for index, each in enumerate(given):
        args, kwargs = each.forward_input.args, each.forward_input.kwargs
        place: int | str = 0 if args else next(iter(kwargs))
        args = tree_map(partial(in_rows, info.module_cls), args)
        first = args[0] if args else kwargs[place]
        if not (isinstance(first, Tensor) and first.ndim and len(first) > 1):
            continue
        torch.manual_seed(0)
        options = dict(each.constructor_input.kwargs)
        if options.get("reduction", "none") != "none" or (is_loss(info) and "reduction" not in options):
            options["reduction"] = "none"  # a loss of each example
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = info.module_cls(*each.constructor_input.args, **options).train(training)
        module = module.to(dtype) if dtype.is_floating_point else module
        sample = Sample(f"{info.module_cls.__name__} {index}", module, args, kwargs, place)
        try:
            output = only(called(sample, first.detach()))
        except (RuntimeError, ValueError, TypeError):
            continue  # options that do not go with a loss of each example
        if output.ndim and len(output) == len(first) and output.numel() < 4000 and first.numel() < 4000:
            yield Sample(*sample[:1], copy.deepcopy(module) if not has_lazy(module) else module, *sample[2:])
            count += 1
        if count == most:
            return


def in_rows(kind: type[nn.Module], value: Any) -> Any:
    """Return a tensor of one example, or of a cell without rows, as three rows."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    value = value[None] if issubclass(kind, nn.RNNCellBase) else value
    value = value.nan_to_num(0.5).abs() if kind is nn.KLDivLoss else value  # torch's own targets are logarithms of less
    return torch.cat((value, value * 0.5, value - 0.1)) if len(value) == 1 and value.is_floating_point() else value


def has_lazy(module: nn.Module) -> bool:
    return any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters())


def is_loss(info: ModuleInfo) -> bool:
    return info.module_cls.__name__.endswith("Loss")


def called(sample: Sample, first: Tensor) -> Any:
    """Return what the module makes of a tensor in the place of its first input, and of its others."""
    if isinstance(sample.place, str):
        return sample.module(*sample.args, **{**sample.kwargs, sample.place: first})
    return sample.module(first, *sample.args[1:], **sample.kwargs)


def only(output: Any) -> Tensor:
    """Return the first tensor of a module's outputs."""
    return output if isinstance(output, Tensor) else only(output[0])


class Behind(nn.Module):
    """A linear layer and tanh, the module, and a linear layer with three outputs."""

    def __init__(self, sample: Sample, dtype: torch.dtype, seed: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        first = sample.args[0] if sample.args else sample.kwargs[sample.place]
        self.is_index = not first.is_floating_point()
        self.shape, self.sample, self.module = first.shape[1:], sample, sample.module
        self.positive = sample.name.split()[0] in POSITIVE
        self.linear = nn.Linear(INPUTS, first[0].numel()).to(dtype)
        outputs = only(called(sample, first.detach()))
        self.head = nn.Linear(outputs[0].numel(), 3).to(dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.linear(inputs).tanh()
        if self.positive:
            hidden = hidden.sigmoid() * 0.9 + 0.05
        outputs = only(called(self.sample, hidden.view(-1, *self.shape)))
        return self.head(outputs.reshape(len(inputs), -1).to(hidden.dtype))


def rows_of(network: Behind) -> int:
    sample = network.sample
    return len(sample.args[0] if sample.args else sample.kwargs[sample.place])


def halves(outputs: Tensor, targets: Tensor) -> Tensor:
    """A smooth criterion, (B, C) -> (B,)."""
    return (outputs.sin() * outputs).sum(1) / 2


def ones(inputs: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, inputs[0].numel(), dtype=inputs.dtype).expand(inputs.shape)[None]


PENALTIES: dict[str, Callable[[], Penalty]] = {
    "jacobian": lambda: Jacobian(projections=None, mode="reverse"),
    "tangent_prop": lambda: TangentProp(tangents=ones),
    "tangent_prop exact": lambda: TangentProp(tangents=ones, exact=True),
    "input_gradient": InputGradient,
}


def naive(network: nn.Module, inputs: Tensor) -> tuple[dict[str, Tensor], float]:
    """Return the mean values of the penalties, by loops over examples and outputs, and how much examples mix."""
    torch.manual_seed(2)
    inputs = inputs.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        outputs = network(inputs)
    rows, mixing = [], 0.0
    for n in range(len(outputs)):
        for c in range(outputs.shape[1]):
            (row,) = torch.autograd.grad(outputs[n, c], inputs, create_graph=True, allow_unused=True)
            row = torch.zeros_like(inputs) if row is None else row
            rows.append(row[n])
            others = torch.cat((row[:n], row[n + 1 :]))
            mixing = max(mixing, (others.detach().abs().max() / row.detach().abs().max().clamp(min=1e-12)).item())
    jacobian = torch.stack(rows).view(len(outputs), outputs.shape[1], -1)
    tangent = jacobian @ ones(inputs)[0].flatten(1)[0]
    loss = halves(outputs, outputs)
    cotangent = torch.autograd.grad(loss.sum(), outputs, create_graph=True)[0]
    gradient = (cotangent[:, :, None] * jacobian).sum(1)
    values = {"jacobian": jacobian.square().sum() / len(inputs), "tangent_prop": tangent.square().sum() / len(inputs)}
    values |= {"tangent_prop exact": values["tangent_prop"], "input_gradient": gradient.square().sum() / len(inputs)}
    return values, mixing


def eager(network: nn.Module, inputs: Tensor, penalty: Penalty) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(2)
    forward = EagerForward(network, halves, inputs, inputs, [penalty])
    value = penalty(forward).mean()
    return value.detach(), gradients(value, network)


def functional(network: nn.Module, inputs: Tensor, penalty: Penalty) -> tuple[Tensor, list[Tensor]]:
    params = {name: p.detach() for name, p in network.named_parameters()}

    def value(params: dict[str, Tensor]) -> Tensor:
        torch.manual_seed(2)
        return penalty(FunctionalForward(network, params, halves, inputs, inputs, [penalty])).mean()

    grads, number = torch.func.grad_and_value(value)(params)
    return number, list(grads.values())


def gradients(value: Tensor, network: nn.Module) -> list[Tensor]:
    params = list(network.parameters())
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in params]
    grads = torch.autograd.grad(value, params, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, params, strict=True)]


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Return the norm of the difference of all numbers by that of the right ones."""
    flat = [torch.cat([t.detach().double().flatten() for t in tensors]) for tensors in (ours, theirs)]
    return ((flat[0] - flat[1]).norm() / flat[1].norm().clamp(min=1e-9)).item()


def has_gradients(network: nn.Module, values: dict[str, Tensor]) -> bool:
    """Tell whether torch has the derivatives of all values by the weights."""
    try:
        for value in values.values():
            gradients(value, network)
    except RuntimeError:
        return False
    return True


MODULES = {f"{index:03} {info.module_cls.__name__}": info for index, info in enumerate(module_db)}
LEFT_OUT = {
    "CTCLoss": "it takes sequences first, and its targets as one row for all",
    "Embedding": "it takes token ids: tests/test_any_network.py",
}


class Seen(NamedTuple):
    """What was compared: cases, the largest differences of values and gradients, and those that were refused."""

    cases: int
    values: float
    gradients: float
    mixed: int  # refused since the examples mix
    lacking: int  # refused since torch lacks a derivative, which the loop finds, too


def compared(name: str, dtype: torch.dtype, training: bool, most: int) -> Seen:
    """Compare all penalties on some samples of a module with the naive loops, eager and functional."""
    seen = Seen(0, 0.0, 0.0, 0, 0)
    for sample in samples(MODULES[name], dtype, training, most):
        network = Behind(sample, dtype).train(training)
        torch.manual_seed(3)
        inputs = torch.randn(rows_of(network), INPUTS, dtype=dtype)
        wanted, mixing = naive(network, inputs)
        if not all(value.isfinite() for value in wanted.values()):
            continue  # options that divide by zero here
        for penalty, make in PENALTIES.items():
            for way in (eager, functional):
                seen = with_case(seen, way, network, inputs, make(), wanted[penalty], mixing > 1e-5)
    return seen


def with_case(
    seen: Seen, way: Callable, network: nn.Module, inputs: Tensor, penalty: Penalty, wanted: Tensor, is_mixed: bool
) -> Seen:
    """Return what was seen, with one more case; a case that is neither right nor refused for its cause raises."""
    seen = seen._replace(cases=seen.cases + 1)
    if is_mixed:
        with pytest.raises(ValueError, match="differentiates each example by itself, and the examples of a batch mix"):
            way(network, inputs, penalty)
        return seen._replace(mixed=seen.mixed + 1)
    try:
        right = gradients(wanted, network)
    except RuntimeError:
        with pytest.raises(ValueError, match="torch cannot differentiate this model as the penalty needs it"):
            way(network, inputs, penalty)
        return seen._replace(lacking=seen.lacking + 1)
    value, ours = way(network, inputs, penalty)
    values, slopes = difference([value], [wanted]), difference(ours, right)
    assert max(values, slopes) < CLOSE[inputs.dtype], f"{type(penalty).__name__}, {way.__name__}: {values}, {slopes}"
    return seen._replace(values=max(values, seen.values), gradients=max(slopes, seen.gradients))
