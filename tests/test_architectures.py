"""Penalties on models of users': in-place layers, shared modules, dropout, attention, torchvision's classifiers.

The oracle is one plain forward pass of a copy that never works in place, and `autograd.grad` on its graph.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import losses
from losses import EagerForward, FunctionalForward, Penalty

CRITERION = nn.CrossEntropyLoss(reduction="none")
OUTPUTS = 3


class Residual(nn.Module):
    """x + f(x), added in place or not, as torchvision's residual nets add."""

    def __init__(self, inner: nn.Module, inplace: bool) -> None:
        super().__init__()
        self.inner, self.inplace = inner, inplace

    def forward(self, inputs: Tensor) -> Tensor:
        values = self.inner(inputs)
        return values.add_(inputs) if self.inplace else values + inputs


class Scale(nn.Module):
    """2 x, in place or not: whatever follows a layer may change what it gave."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mul_(2) if self.inplace else inputs * 2


def out_of_place(model: nn.Module) -> nn.Module:
    """A copy with the same parameters that never works in place, its hard sigmoids of what can be derived twice."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if isinstance(module, nn.Hardsigmoid):
            module.forward = lambda inputs: (inputs / 6 + 0.5).clamp(0, 1)
    return plain


class Naive:
    """One plain pass with a graph, and all derivatives that the oracles need, by rows of Jacobians."""

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor, layer: str) -> None:
        plain = out_of_place(model)
        self.params, self.targets = dict(plain.named_parameters()), targets
        self.inputs = inputs.clone().requires_grad_()
        plain.get_submodule(layer).register_forward_hook(self._keep)
        with sdpa_kernel(SDPBackend.MATH):  # of attention's kernels the one with a second derivative
            self.outputs = plain(self.inputs)
        self.losses = CRITERION(self.outputs, targets)

    def _keep(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        self.layer = output

    def gradient(self, values: Tensor, point: Tensor) -> Tensor:
        """d sum(values) / d point, example by example, (B, size)."""
        return torch.autograd.grad(values.sum(), point, create_graph=True, materialize_grads=True)[0].flatten(1)

    def jacobian(self, values: Tensor) -> Tensor:
        """(B, size of values, D)."""
        return torch.stack([self.gradient(value, self.inputs) for value in values.flatten(1).unbind(1)], 1)


def tangents(inputs: Tensor) -> Tensor:
    return torch.stack([inputs.roll(1, -1), inputs.sin()])


def squares(jacobian: Tensor) -> Tensor:
    return jacobian.square().sum((1, 2))


def tangent_oracle(naive: Naive) -> Tensor:
    along = tangents(naive.inputs.detach()).flatten(2)
    return torch.einsum("bcd,kbd->kbc", naive.jacobian(naive.outputs), along).square().sum((0, 2))


def margin_oracle(naive: Naive) -> Tensor:
    """Against the best wrong class, at the inputs and the layer, in the Euclidean norm."""
    one_hot = nn.functional.one_hot(naive.targets, OUTPUTS)
    best = (naive.outputs - 1e9 * one_hot).argmax(1, keepdim=True)
    gap = (naive.outputs * one_hot).sum(1) - naive.outputs.gather(1, best).squeeze(1)
    points = [naive.gradient(gap, point) for point in (naive.inputs, naive.layer)]
    distances = [gap / (1e-6 + (point.square().sum(1) + 1e-300).sqrt()) for point in points]
    return torch.stack([1e6 - distance.clamp(-1e9, 1e6) for distance in distances]).mean(0) - 1e6


def weight_oracle(naive: Naive) -> Tensor:
    gradients = torch.autograd.grad(
        naive.losses.mean(), list(naive.params.values()), create_graph=True, materialize_grads=True
    )
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum()


class Margin(losses.LargeMargin):
    """Less its constant, so that what is compared is not all margin."""

    def __call__(self, forward: losses.Forward) -> Tensor:
        return super().__call__(forward) - 1e6


Oracle = Callable[[Naive], Tensor] | None
# Of a layer -> penalty, and its values from one plain pass; None: it draws, so only the two passes are compared.
PENALTIES: dict[str, tuple[Callable[[str], Penalty], Oracle]] = {
    "l2": (lambda layer: losses.L2(), lambda n: torch.stack([p.square().sum() for p in n.params.values()]).sum()),
    "jacobian": (lambda layer: losses.Jacobian(), None),
    "jacobian exact": (lambda layer: losses.Jacobian(projections=None), lambda n: squares(n.jacobian(n.outputs))),
    "jacobian of a layer": (lambda layer: losses.Jacobian(of=layer), None),
    "jacobian forward": (lambda layer: losses.Jacobian(mode="forward"), None),
    "jacobian 2 forward of a layer": (lambda layer: losses.Jacobian(mode="forward", projections=2, of=layer), None),
    "jacobian_spectral": (
        lambda layer: losses.JacobianSpectral(),
        lambda n: torch.linalg.matrix_norm(n.jacobian(n.outputs), 2).square(),
    ),
    "jacobian_spectral by iteration": (lambda layer: losses.JacobianSpectral(iterations=2), None),
    "input_gradient": (
        lambda layer: losses.InputGradient(),
        lambda n: n.gradient(n.losses, n.inputs).square().sum(1),
    ),
    "activation_gradient": (
        lambda layer: losses.ActivationGradient(layers=[layer]),
        lambda n: n.gradient(n.losses, n.layer).square().sum(1),
    ),
    "weight_gradient": (lambda layer: losses.WeightGradient(), weight_oracle),
    "tangent_prop": (lambda layer: losses.TangentProp(tangents=tangents), None),
    "tangent_prop exact": (lambda layer: losses.TangentProp(tangents=tangents, exact=True), tangent_oracle),
    "large_margin": (
        lambda layer: Margin(
            layers=["inputs", layer], scores="logit", norm=2, differentiate_norm=True, gamma=1e6, alpha=1e3
        ),
        margin_oracle,
    ),
}

SEED = 7  # of torch's own generator before a pass: the masks of dropout


def eager(model: nn.Module, penalty: Penalty, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Values and parameter gradient by a training loop's pass."""
    torch.manual_seed(SEED)
    forward = EagerForward(model, CRITERION, *batch, [penalty], Generator().manual_seed(1))
    values = penalty(forward)
    return values.detach(), gradients_of(values, list(forward.params.values()))


def functional(model: nn.Module, penalty: Penalty, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The same by `torch.func`."""

    def value(params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        torch.manual_seed(SEED)
        forward = FunctionalForward(model, params, CRITERION, *batch, [penalty], Generator().manual_seed(1))
        values = penalty(forward)
        return values.mean(), values

    params = {name: param.detach() for name, param in model.named_parameters()}
    gradients, values = torch.func.grad(value, has_aux=True)(params)
    return values.detach(), list(gradients.values())


def gradients_of(values: Tensor, params: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(values.mean(), params, allow_unused=True, materialize_grads=True))


def assert_same(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]]) -> None:
    """Values and gradient alike to 1e-6 of the largest part of each."""
    for actual, wanted in ((found[0].flatten(), expected[0].flatten()), (flat(found[1]), flat(expected[1]))):
        scale = max(wanted.abs().max().item(), 1e-6)
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-6 * scale)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def check(model: nn.Module, batch: tuple[Tensor, Tensor], layer: str, name: str) -> None:
    """Compare both passes with each other and with the oracle."""
    build, oracle = PENALTIES[name]
    penalty = build(layer)
    found = eager(model, penalty, batch)
    assert_same(functional(model, penalty, batch), found)
    if oracle:
        torch.manual_seed(SEED)
        naive = Naive(model, *batch, layer)
        values = oracle(naive)
        assert_same(found, (values.detach(), gradients_of(values, list(naive.params.values()))))


def images(size: int = 32, batch: int = 2) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(batch, 3, size, size, generator=Generator().manual_seed(0), dtype=torch.float64)
    return inputs, torch.arange(batch) % OUTPUTS


# Name -> a layer inside it that something in place follows, if anything does.
TORCHVISION = {
    "resnet18": "bn1",  # followed by ReLU(inplace=True)
    "mobilenet_v2": "features.2.conv.0.1",  # batch norm, then ReLU6(inplace=True)
    "mobilenet_v3_small": "features.2.block.0.1",
    "vgg11_bn": "features.1",
    "densenet121": "features.denseblock4.denselayer16.conv1",
    "squeezenet1_1": "features.3.squeeze",
    "shufflenet_v2_x0_5": "stage2.0.branch2.0",
}
QUICK = {("resnet18", name) for name in PENALTIES} | {("mobilenet_v2", "activation_gradient")}
NETS = [
    pytest.param(net, name, marks=() if (net, name) in QUICK else pytest.mark.slow)
    for net in TORCHVISION
    for name in PENALTIES
]


@pytest.fixture(scope="module")
def torchvision_net() -> Callable[[str], nn.Module]:
    """Return a function of a name that returns the net, random, in evaluation mode, in double precision."""
    import torchvision

    nets: dict[str, nn.Module] = {}

    def net(name: str) -> nn.Module:
        if name not in nets:
            torch.manual_seed(0)
            net = torchvision.models.get_model(name, num_classes=OUTPUTS)
            if name.startswith("vgg"):  # whose own classifier has 120 million parameters
                net.classifier[0], net.classifier[3], net.classifier[6] = (
                    nn.Linear(*sizes) for sizes in ((25088, 16), (16, 16), (16, OUTPUTS))
                )
            nets[name] = net.double().eval()
        return nets[name]

    return net


@pytest.mark.parametrize(("net", "name"), NETS)
def test_torchvision(torchvision_net: Callable[[str], nn.Module], net: str, name: str) -> None:
    check(torchvision_net(net), images(), TORCHVISION[net], name)


def transformer() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A model with attention, and a batch."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(d_model=4, nhead=2, dim_feedforward=5, batch_first=True, dropout=0.0)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(12, OUTPUTS)).double()
    inputs = torch.randn(4, 3, 4, generator=Generator().manual_seed(0), dtype=torch.float64)
    return model, (inputs, torch.arange(4) % OUTPUTS)


@pytest.mark.parametrize("name", PENALTIES)
def test_attention(name: str) -> None:
    """Its fast kernels have neither a second derivative nor a forward-mode one; they are on again afterwards."""
    model, batch = transformer()
    check(model, batch, "0", name)
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


# --- random architectures ---

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "silu in place": lambda: nn.SiLU(inplace=True),
    "hardswish in place": lambda: nn.Hardswish(inplace=True),
    "hard sigmoid": nn.Hardsigmoid,
    "leaky in place": lambda: nn.LeakyReLU(0.1, inplace=True),
    "scale in place": lambda: Scale(inplace=True),
    "dropout": lambda: nn.Dropout(0.3),
    "dropout in place": lambda: nn.Dropout(0.3, inplace=True),
}


@st.composite
def architectures(draw: st.DrawFn) -> nn.Sequential:
    """A small net of vectors or images, of blocks that keep the size."""
    torch.manual_seed(draw(st.integers(0, 99), label="initialisation"))
    of_images = draw(st.booleans(), label="images")

    def mixing() -> nn.Module:
        return nn.Conv2d(2, 2, 3, padding=1) if of_images else nn.Linear(4, 4)

    shared = draw(st.sampled_from([None, "tanh", "linear", "relu in place"]), label="shared module")
    common = None if shared is None else mixing() if shared == "linear" else ACTIVATIONS[shared]()
    net = nn.Sequential()
    for _ in range(draw(st.integers(1, 4), label="blocks")):
        activation = common or ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]()
        block = nn.Sequential(mixing(), activation)
        kind = draw(st.sampled_from(["plain", "residual", "residual in place", "activation first", "batch norm"]))
        if kind == "batch norm":
            block.insert(1, nn.BatchNorm2d(2).eval() if of_images else nn.BatchNorm1d(4).eval())
        if kind == "activation first":
            block = nn.Sequential(activation, mixing())
        net.append(Residual(block, inplace=kind.endswith("place")) if kind.startswith("residual") else block)
    return net.extend([nn.Flatten(), nn.Linear(32 if of_images else 4, OUTPUTS)]).double()


def is_trainable(outputs: Tensor) -> bool:
    """Whether torch trains the model at all: it refuses what changes in place an output that backward needs."""
    try:
        outputs.sum().backward()
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize("name", PENALTIES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_architectures(name: str, data: st.DataObject) -> None:
    """Both passes and the oracle agree, or both refuse with the same sentence."""
    model = data.draw(architectures())
    layer = data.draw(st.sampled_from([name for name, _ in model.named_modules() if name]))
    note(f"{model}\nlayer {layer}")
    shape = (3, 2, 4, 4) if any(isinstance(module, nn.Conv2d) for module in model.modules()) else (3, 4)
    inputs = torch.randn(shape, generator=Generator().manual_seed(0), dtype=torch.float64)
    batch, calls = (inputs, torch.arange(3)), []
    hook = model.get_submodule(layer).register_forward_hook(lambda *_: calls.append(1))
    outputs = model(inputs.clone())
    hook.remove()
    assume(is_trainable(outputs))
    if len(calls) == 1 or not PENALTIES[name][0](layer).layers:
        check(model, batch, layer, name)
        return
    for run in (eager, functional):
        with pytest.raises(ValueError, match=f"^layers must name layers that the model calls once, got {layer}, which"):
            run(model, PENALTIES[name][0](layer), batch)
