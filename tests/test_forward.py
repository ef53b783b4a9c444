"""The shared forward pass: its linear maps against each other and against `torch.func`."""

import re
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jacrev, vmap

from losses import (
    L2,
    ActivationGradient,
    EagerForward,
    Forward,
    FunctionalForward,
    InputGradient,
    Jacobian,
    Penalty,
    Tangent,
    TangentProp,
)
from losses.kernels import Watch, quiet_start
from losses.passes import TorchDraws

CRITERION = nn.CrossEntropyLoss(reduction="none")
LAYERS = ["conv", "relu"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def convnet() -> nn.Module:
    torch.manual_seed(0)
    layers = OrderedDict(
        conv=nn.Conv2d(1, 3, 3),
        pool=nn.MaxPool2d(2),
        relu=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(12, 4),
    )
    return nn.Sequential(layers).double()


INPUTS, TARGETS = drawn(5, 1, 6, 6), torch.tensor([0, 1, 2, 3, 0])


class Declares(Penalty):
    """Asks for a tangent and for layers, and is worth nothing."""

    layers = tuple(LAYERS)

    def __init__(self, direction: Tensor | None = None) -> None:
        self.direction = direction

    def tangent(self, forward: Forward) -> Tangent | None:
        return None if self.direction is None else Tangent(self.direction)

    def __call__(self, forward: Forward) -> Tensor:
        return forward.outputs.new_zeros(())


def eager(*penalties: Penalty, model: nn.Module | None = None) -> EagerForward:
    return EagerForward(model or convnet(), CRITERION, INPUTS, TARGETS, penalties)


def functional(*penalties: Penalty, model: nn.Module | None = None) -> FunctionalForward:
    model = model or convnet()
    params = {name: p.detach() for name, p in model.named_parameters()}
    return FunctionalForward(model, params, CRITERION, INPUTS, TARGETS, penalties)


FORWARDS = pytest.mark.parametrize("build", [eager, functional])
Build = Callable[..., Forward]


@FORWARDS
def test_record_is_that_of_a_plain_pass(build: Build) -> None:
    model = convnet()
    for penalty in (Declares(), Declares(drawn(5, 1, 6, 6, seed=1))):
        forward = build(penalty, model=model)
        torch.testing.assert_close(forward.outputs, model(INPUTS), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(forward.losses, CRITERION(model(INPUTS), TARGETS), rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(forward.activations["relu"], model[:3](INPUTS), rtol=1e-13, atol=1e-14)
        assert list(forward.activations) == LAYERS
        assert list(forward.params) == [name for name, _ in model.named_parameters()]


@FORWARDS
@pytest.mark.parametrize("of", ["outputs", "relu"])
@pytest.mark.parametrize("declared", [False, True])
def test_vjp_and_jvp_are_transposes(build: Build, of: str, declared: bool) -> None:
    """<v, J u> = <J^T v, u>, example by example."""
    direction = drawn(5, 1, 6, 6, seed=1)
    forward = build(Declares(direction if declared else None))
    cotangent = drawn(*(forward.outputs if of == "outputs" else forward.activations[of]).shape, seed=2)
    pushed = cotangent * forward.jvp(direction, of)
    pulled = forward.vjp(cotangent, of=of)[0] * direction
    torch.testing.assert_close(pushed.flatten(1).sum(1), pulled.flatten(1).sum(1), rtol=1e-12, atol=1e-12)
    assert pushed.abs().sum() > 0.1


@FORWARDS
def test_vjp_at_parameters_and_layers_is_that_of_torch_func(build: Build) -> None:
    model, cotangent = convnet(), drawn(5, 4, seed=2)
    forward = build(Declares(), model=model)
    by_weight, by_relu = forward.vjp(cotangent, at=("conv.weight", "relu"))
    params = {name: p.detach() for name, p in model.named_parameters()}

    def product(weight: Tensor) -> Tensor:
        return (functional_call(model, params | {"conv.weight": weight}, (INPUTS,)) * cotangent).sum()

    torch.testing.assert_close(by_weight, jacrev(product)(params["conv.weight"]), rtol=1e-12, atol=1e-12)
    rows = jacrev(lambda h: model[3:](h.unsqueeze(0)).squeeze(0))(model[:3](INPUTS)[0].detach())
    torch.testing.assert_close(by_relu[0], torch.einsum("c,cijk->ijk", cotangent[0], rows), rtol=1e-12, atol=1e-12)


@FORWARDS
def test_loss_gradient_is_that_of_each_example(build: Build) -> None:
    forward = build()
    expected = forward.outputs.softmax(1) - nn.functional.one_hot(TARGETS, 4)
    torch.testing.assert_close(forward.loss_gradient(), expected, rtol=1e-12, atol=1e-12)


@FORWARDS
def test_a_layer_that_does_not_exist_is_named_with_those_that_do(build: Build) -> None:
    sentence = r"^layers must name layers of the model \(conv, pool, relu, flatten, fc\), got relu7$"
    for penalty in (Jacobian(of="relu7"), ActivationGradient(layers=["relu", "relu7"])):
        with pytest.raises(ValueError, match=sentence):
            build(penalty)


@FORWARDS
def test_random_numbers_come_from_the_generator_alone(build: Build) -> None:
    """And are there before the pass, for a declared tangent; the record's outputs are not."""

    class Draws(Declares):
        def tangent(self, forward: Forward) -> Tangent | None:
            assert not hasattr(forward, "outputs")
            assert torch.equal(forward.targets, TARGETS)
            return Tangent(forward.normal(1, 6, 6))

    model, state = convnet(), torch.get_rng_state()
    forward = build(Draws(), model=model)
    torch.set_rng_state(state)
    first = torch.randn(5, 1, 6, 6, dtype=torch.float64)  # None: torch's own generator
    (tangent,) = forward.tangents.values()
    assert torch.equal(tangent.direction, first)

    state = torch.get_rng_state()
    forward.generator = Generator().manual_seed(3)
    signs, normal = forward.signs(4), forward.normal(7, 2)
    assert (signs.shape, normal.shape) == ((4, 5), (5, 7, 2))
    assert (signs.dtype, normal.dtype) == (torch.float64, torch.float64)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    again = Generator().manual_seed(3)
    assert torch.equal(signs, 2.0 * torch.randint(2, (4, 5), generator=again) - 1)
    assert torch.equal(normal, torch.randn(5, 7, 2, generator=again, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_draws_in_single() -> None:
    """The decompositions that make directions of them know no half precision."""
    forward = eager(model=convnet())
    forward.inputs = INPUTS.to(torch.bfloat16)
    assert (forward.normal(2).dtype, forward.signs(2).dtype) == (torch.float32, torch.bfloat16)


def test_without_create_graph_a_product_is_constant() -> None:
    forward, direction = eager(Declares()), drawn(5, 1, 6, 6, seed=1)
    assert not forward.vjp(drawn(5, 4), create_graph=False)[0].requires_grad
    assert forward.vjp(drawn(5, 4))[0].requires_grad
    assert not forward.jvp(direction, create_graph=False).requires_grad
    assert forward.jvp(direction).requires_grad  # the graphless product was not kept for it
    assert not forward.jvp(direction, create_graph=False).requires_grad


def test_no_product_costs_a_second_pass() -> None:
    model, passes = convnet(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    direction = drawn(5, 1, 6, 6, seed=1)
    forward = eager(Declares(direction), Declares(drawn(5, 1, 6, 6, seed=2)), model=model)
    for seed in (1, 2, 3):
        forward.jvp(direction)
        forward.jvp(drawn(5, 1, 6, 6, seed=seed))
        forward.vjp(drawn(5, 4, seed=seed))
    assert len(passes) == 1


@FORWARDS
def test_every_declared_tangent_gets_its_own_product(build: Build) -> None:
    first, second = Declares(drawn(5, 1, 6, 6, seed=1)), Declares(drawn(5, 1, 6, 6, seed=2))
    forward = build(first, second)
    for penalty in (second, first):
        direction = forward.tangents[penalty].direction
        alone = build(Declares()).jvp(direction)
        torch.testing.assert_close(forward.jvp(direction), alone, rtol=1e-12, atol=1e-12)


def test_a_constant_model_has_derivative_zero() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(4, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.bias.expand(len(inputs), 4)

    for penalty in (Jacobian(), InputGradient(), TangentProp(tangents=lambda inputs: inputs.unsqueeze(0))):
        forward = eager(penalty, model=Constant())
        assert bool((penalty(forward) == 0).all())


def images_with_in_place_layers(inplace: bool) -> nn.Module:
    """The convnet, with ReLUs in front of everything, behind the convolution, and behind the pool."""
    torch.manual_seed(0)
    relus = {name: nn.ReLU(inplace) for name in ("first", "second", "third")}
    conv, pool = nn.Conv2d(1, 3, 3), nn.MaxPool2d(2)
    layers = OrderedDict(first=relus["first"], conv=conv, second=relus["second"], pool=pool, third=relus["third"])
    return nn.Sequential(layers | {"flatten": nn.Flatten(), "fc": nn.Linear(12, 4)}).double()


@FORWARDS
@pytest.mark.parametrize("layer", ["first", "conv", "second", "pool"])
def test_what_works_in_place_behind_a_layer_does_not_change_its_record(build: Build, layer: str) -> None:
    inputs, plain = INPUTS.clone(), images_with_in_place_layers(inplace=False)
    reached = plain[: [name for name, _ in plain.named_children()].index(layer) + 1](INPUTS)
    for penalty in (ActivationGradient(layers=[layer]), Jacobian(of=layer, projections=None)):
        values, records = [], []
        for inplace in (False, True):
            forward = build(penalty, model=images_with_in_place_layers(inplace))
            values.append(penalty(forward))
            records.append(forward.activations[layer])
        torch.testing.assert_close(records[1], reached)
        torch.testing.assert_close(*values)
        assert torch.equal(INPUTS, inputs)  # the caller's own tensor is left alone


class Branches(nn.Module):
    """A layer that is called twice, one that is not called, and one that gives two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.twice, self.idle, self.pair = nn.Flatten(), nn.Tanh(), nn.Tanh(), Pair()
        self.turned, self.fc = Turned(), nn.Linear(36, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        first, second = self.pair(self.twice(self.flat(inputs)))
        return self.fc(self.twice(self.turned(first + second).mT))


class Pair(nn.Module):
    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        return values, 2 * values


class Turned(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.mT


@FORWARDS
@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("twice", "layers must name layers that the model calls once, got twice, which it calls again: give each call"),
        ("idle", "layers must name layers that the model calls, got idle, which it does not call"),
        ("pair", "layers must name layers whose output is one tensor, got pair, whose output is a tuple"),
        ("turned", "layers must have a row for each example, here 5, got turned of shape (36, 5)"),
    ],
)
def test_a_layer_without_one_value_for_each_example_is_refused(build: Build, layer: str, sentence: str) -> None:
    for penalty in (Jacobian(of=layer), ActivationGradient(layers=["flat", layer])):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            build(penalty, model=Branches().double())
    assert Jacobian()(build(Jacobian(), model=Branches().double())).shape == (5,)


@FORWARDS
def test_a_model_with_auxiliary_outputs_is_refused(build: Build) -> None:
    model = nn.Sequential(convnet(), Pair())
    with pytest.raises(
        ValueError, match=r"^the model must return one tensor, got a tuple: name the one to take, output=0 or 1$"
    ):
        build(model=model)


class DeclaresTanh(Declares):
    """A layer of the net with dropout, which costs the functional pass a run of its own."""

    layers = ("3",)


@FORWARDS
def test_further_passes_see_the_masks_of_the_first(build: Build) -> None:
    """<v, J u> = <J^T v, u> only if both are of one function; and torch's stream stands where one pass leaves it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Dropout(0.5), nn.Tanh(), nn.Linear(20, 4)).double()
    torch.manual_seed(3)
    model(INPUTS)
    state = torch.get_rng_state()
    for penalty in (TangentProp(tangents=lambda inputs: inputs.roll(1, -1).unsqueeze(0), exact=True), DeclaresTanh()):
        torch.manual_seed(3)
        forward = build(penalty, model=model)
        direction, cotangent = drawn(5, 1, 6, 6, seed=1), drawn(5, 4, seed=2)
        for create_graph in (True, False):
            pushed = (cotangent * forward.jvp(direction, create_graph=create_graph)).sum(1)
            pulled = (forward.vjp(cotangent)[0] * direction).flatten(1).sum(1)
            torch.testing.assert_close(pushed, pulled, rtol=1e-12, atol=1e-12)
        penalty(forward)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_shared_module_is_left_whole_by_torch_func() -> None:
    """torch's own tie of weights leaves the last copy of a module that is used twice with a wrapped tensor."""
    torch.manual_seed(0)
    shared = nn.Linear(36, 36)
    tied = nn.Linear(36, 36)
    tied.weight = shared.weight
    model = nn.Sequential(nn.Flatten(), shared, nn.Tanh(), shared, nn.Tanh(), tied, nn.Linear(36, 4)).double()
    weight = shared.weight
    penalty = InputGradient()

    def value(params: dict[str, Tensor]) -> Tensor:
        return penalty(FunctionalForward(model, params, CRITERION, INPUTS, TARGETS, [penalty])).mean()

    gradients = torch.func.grad(value)({name: p.detach() for name, p in model.named_parameters()})
    assert model[1].weight is model[5].weight is weight
    forward = eager(penalty, model=model)
    expected = torch.autograd.grad(penalty(forward).mean(), list(forward.params.values()), materialize_grads=True)
    torch.testing.assert_close(list(gradients.values()), list(expected))


@pytest.mark.parametrize("penalties", [(), (L2(),)])
def test_a_pass_without_the_penalty_that_asks_says_so(penalties: tuple[Penalty, ...]) -> None:
    """Nothing was prepared for it: a wrong number must not come out."""
    forward = eager(*penalties)
    for ask in (lambda: forward.vjp(forward.outputs), lambda: forward.jvp(INPUTS), lambda: Jacobian()(forward)):
        with pytest.raises(ValueError, match=r"^penalties must name each penalty that"):
            ask()


class WeightsAndLayer(Penalty):
    """On the weights, and yet with a look at a layer."""

    layers, of_weights = ("conv",), True

    def __call__(self, forward: Forward) -> Tensor:
        return forward.params["fc.weight"].abs().sum() * forward.activations["conv"].detach().square().mean()


@FORWARDS
def test_a_penalty_on_the_weights_may_ask_for_layers(build: Build) -> None:
    alone, beside = (penalties[0](build(*penalties)) for penalties in ([WeightsAndLayer()], [WeightsAndLayer(), L2()]))
    assert alone == beside > 0


@pytest.mark.parametrize("penalty", [L2(), Jacobian()])
def test_the_pass_ends_at_the_inputs(penalty: Penalty) -> None:
    """What has made them, a generator or an augmentation, gets no gradient, whether or not a penalty tracks them."""
    made = INPUTS.clone().requires_grad_()
    forward = EagerForward(convnet(), CRITERION, 2 * made, TARGETS, [penalty])
    (forward.losses.sum() + penalty(forward).sum()).backward()
    assert made.grad is None


@pytest.mark.parametrize("penalty", [L2(), Jacobian()])
def test_a_first_layer_that_works_in_place_leaves_the_inputs_alone(penalty: Penalty) -> None:
    model, inputs = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 4)).double(), INPUTS.clone()
    EagerForward(model, CRITERION, inputs, TARGETS, [penalty])
    assert torch.equal(inputs, INPUTS)


def test_hooks_go_even_if_the_model_fails() -> None:
    model = convnet()
    eager(Declares(), model=model)
    functional(Declares(), model=model)
    with pytest.raises(RuntimeError):
        EagerForward(model, CRITERION, drawn(5, 1, 2, 2), TARGETS, [Declares()])
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_parameters_are_left_out() -> None:
    model = convnet()
    model.get_parameter("conv.bias").requires_grad_(False)
    assert "conv.bias" not in eager(model=model).params


def test_stacked_models_are_worth_what_each_is_alone() -> None:
    """A functional pass nests in vmap and grad: gradients of penalties of several models at once."""
    models = [convnet(), convnet().requires_grad_(False)]
    for param in models[1].parameters():
        param.mul_(1.5)
    stacked = {
        name: torch.stack([dict(m.named_parameters())[name].detach() for m in models])
        for name, _ in models[0].named_parameters()
    }
    for penalty in (
        InputGradient(),
        ActivationGradient(layers=LAYERS),
        Jacobian(projections=None),
        TangentProp(tangents=lambda inputs: inputs.roll(1, -1).unsqueeze(0)),
    ):

        def value(params: dict[str, Tensor], penalty: Penalty = penalty) -> Tensor:
            forward = FunctionalForward(models[0], params, CRITERION, INPUTS, TARGETS, [penalty])
            return penalty(forward).mean()

        gradients, values = vmap(torch.func.grad_and_value(value))(stacked)
        for index, model in enumerate(models):
            model.requires_grad_(True)
            forward = eager(penalty, model=model)
            alone = penalty(forward).mean()
            torch.testing.assert_close(values[index], alone, rtol=1e-10, atol=1e-12)
            expected = torch.autograd.grad(alone, forward.params["conv.weight"])[0]
            torch.testing.assert_close(gradients["conv.weight"][index], expected, rtol=1e-10, atol=1e-12)


AFFINE = {
    "linear": (nn.functional.linear, (5, 6), (4, 6), ()),
    "conv1d": (torch.conv1d, (5, 3, 6), (4, 3, 3), (2, 1)),
    "conv2d": (torch.conv2d, (5, 3, 6, 6), (4, 3, 3, 3), (1, 1, 2)),
    "conv3d": (torch.conv3d, (2, 3, 4, 4, 4), (4, 3, 3, 3, 3), ()),
}


@pytest.mark.parametrize("dual", [{"inputs"}, {"inputs", "weight"}, {"inputs", "bias"}, {"weight"}], ids=sorted)
@pytest.mark.parametrize("name", AFFINE)
def test_tangents_of_affine_layers_are_torchs_own(name: str, dual: set[str]) -> None:
    function, shape, weight_shape, options = AFFINE[name]
    shapes = {"inputs": shape, "weight": weight_shape, "bias": weight_shape[:1]}
    values = {each: drawn(*size, seed=seed) for seed, (each, size) in enumerate(shapes.items())}
    tangents = {each: drawn(*size, seed=7 + seed) for seed, (each, size) in enumerate(shapes.items())}

    def pass_with(mode: AbstractContextManager, bias: bool = True) -> tuple[Tensor, Tensor]:
        with forward_ad.dual_level(), quiet_start(), mode:
            arguments = [
                forward_ad.make_dual(value, tangents[each]) if each in dual else value for each, value in values.items()
            ]
            return forward_ad.unpack_dual(function(*arguments[: 2 + bias], *(() if bias else (None,)), *options))

    for bias in (True, False):
        if dual == {"inputs", "bias"} and not bias:
            continue
        for ours, torchs in zip(pass_with(Watch(), bias), pass_with(nullcontext(), bias), strict=True):
            assert torch.equal(ours, torchs)


def test_a_gpus_draws_are_those_of_the_first_pass_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the inputs were on a GPU, whose generator has a state of its own."""
    state = {"cuda:1": "first"}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state[str(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: state.update({str(device): value}))
    draws = TorchDraws(torch.device("cuda:1"))
    state["cuda:1"] = "moved on"
    draws.restore()
    assert state == {"cuda:1": "first"}
