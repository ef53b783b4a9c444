"""The library on networks that people have: each fault of December 2026 (and its kin) is right, or a sentence."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from losses import (
    ActivationGradient,
    CrossEntropy,
    EagerForward,
    FunctionalForward,
    InputGradient,
    Jacobian,
    JacobianSpectral,
    LargeMargin,
    Penalty,
    TangentProp,
    WeightGradient,
    verify,
)


def ones(inputs: Tensor) -> Tensor:
    return torch.ones_like(inputs)[None]


def three(inputs: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(inputs), inputs, inputs.flip(-1)])


TANGENT, EXACT = TangentProp(tangents=ones), TangentProp(tangents=three, exact=True)
FORWARD = Jacobian(projections=None, mode="forward")
REVERSE = Jacobian(projections=None, mode="reverse")
ALL: dict[str, Penalty] = {
    "tangent": TANGENT,
    "exact tangents": EXACT,
    "forward": FORWARD,
    "reverse": REVERSE,
    "input gradient": InputGradient(),
    "spectral": JacobianSpectral(),
}
X, Y = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3


class Net(nn.Module):
    """Two linear layers, and a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(6, 6).to(dtype), nn.Linear(6, 3).to(dtype)
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.function(self.first(inputs)))


def value_and_slope(model: nn.Module, penalty: Penalty, x: Tensor, y: Tensor = Y, **options: Any) -> list[float]:
    """Return a penalty's value, and its derivative by all weights, along one direction."""
    forward = EagerForward(model, CrossEntropy(), x, y, [penalty], torch.Generator().manual_seed(0), **options)
    value = penalty(forward).mean()
    grads = torch.autograd.grad(value, list(forward.params.values()), allow_unused=True, materialize_grads=True)
    flat = torch.cat([g.flatten() for g in grads])
    return [value.item(), (flat * torch.arange(len(flat)).cos()).sum().item()]


def same(model: nn.Module, plain: nn.Module, penalty: Penalty, x: Tensor = X, steps: int = 3) -> None:
    """Compare a network with one that computes the same by other means, in several steps."""
    right = value_and_slope(plain, penalty, x)
    assert right[0] > 0
    for _ in range(steps):
        assert value_and_slope(model, penalty, x) == pytest.approx(
            right, rel=1e-4 if x.dtype == torch.float32 else 1e-9
        )


def softmax(h: Tensor) -> Tensor:
    powers = h.exp()
    return powers / powers.sum(1, keepdim=True)


def normed(h: Tensor) -> Tensor:
    centred = h - h.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()


def attend(h: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(h[:, None, None], 2 * h[:, None, None], h[:, None, None])[:, 0, 0]


def swish(x):
    return x * torch.sigmoid(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and people have it
    scripted_swish = torch.jit.script(swish)


TWINS: dict[str, tuple[Callable, Callable]] = {
    "layer norm": (nn.LayerNorm(6, elementwise_affine=False), normed),
    "functional layer norm": (lambda h: F.layer_norm(h, (6,)), normed),
    "torch.layer_norm": (lambda h: torch.layer_norm(h, (6,)), normed),
    "instance norm": (lambda h: F.instance_norm(h[:, None])[:, 0], normed),
    "group norm": (lambda h: F.group_norm(h, 1), normed),
    "softmax": (lambda h: h.softmax(1), softmax),
    "log softmax": (lambda h: F.log_softmax(h, 1), lambda h: softmax(h).log()),
    "logsumexp": (lambda h: h - h.logsumexp(1, keepdim=True), lambda h: softmax(h).log()),
    "attention": (attend, lambda h: h),
    "script": (scripted_swish, lambda h: h / (1 + (-h).exp())),
    "script beside a straight path": (lambda h: h + scripted_swish(h), lambda h: h + h / (1 + (-h).exp())),
    "hard sigmoid as a function": (F.hardsigmoid, lambda h: F.relu6(h + 3) / 6),
    "glu": (lambda h: F.glu(torch.cat((h, 2 * h), 1)), lambda h: h / (1 + (-2 * h).exp())),
    "checkpoint": (lambda h: checkpoint(torch.tanh, h, use_reentrant=False), torch.tanh),
    "compiled part": (torch.compile(torch.sin, backend="eager"), torch.sin),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("penalty", ALL)
@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_what_torch_cannot_do_takes_another_way(twin: str, penalty: str, dtype: torch.dtype) -> None:
    function, plain = TWINS[twin]
    same(Net(function, dtype), Net(plain, dtype), ALL[penalty], X.to(dtype))


@pytest.mark.parametrize("twin", ["script", "softmax", "layer norm"])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_it_does_so_after_passes_without_tangents(twin: str) -> None:
    model, plain = (Net(function, torch.float64) for function in TWINS[twin])
    for _ in range(4):
        EagerForward(model, CrossEntropy(), X.double(), Y, [REVERSE])
    same(model, plain, TANGENT, X.double())
    same(model, plain, FORWARD, X.double())


class Last(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = kind(6, 4, batch_first=True).to(dtype), nn.Linear(4, 3).to(dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.rnn(inputs)[0][:, -1])


@pytest.mark.parametrize("penalty", ALL)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_in_single_precision(kind: type[nn.RNNBase], penalty: str) -> None:
    x = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
    model = Last(kind, torch.float32)
    single = value_and_slope(model, ALL[penalty], x)
    double = value_and_slope(copy.deepcopy(model).double(), ALL[penalty], x.double())
    assert single == pytest.approx(double, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("penalty", ALL)
def test_the_callers_mode_changes_no_value(penalty: str, context: Callable) -> None:
    model = Net(torch.tanh)

    def value(x: Tensor) -> float:
        return ALL[penalty](EagerForward(model, CrossEntropy(), x, Y, [ALL[penalty]])).mean().item()

    right = value(X.double())
    with context():
        assert value(X.double()) == pytest.approx(right, rel=1e-12)
    with torch.inference_mode():
        cached = X.double()
    assert value(cached) == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("penalty", ALL)
def test_one_output_needs_no_column(penalty: str) -> None:
    model = Net(torch.tanh)

    def value(select: Callable) -> float:
        net = nn.Sequential(model, Lambda(select))
        forward = EagerForward(net, lambda o, y: o.flatten() ** 2, X.double(), Y, [ALL[penalty]])
        return ALL[penalty](forward).mean().item()

    assert value(lambda o: o[:, 0]) == pytest.approx(value(lambda o: o[:, :1]), rel=1e-12)


@pytest.mark.parametrize("penalty", ALL)
def test_outputs_of_any_shape(penalty: str) -> None:
    """(B, C, T), as of a segmentation or a sequence: what counts is all numbers of an example."""
    model = Net(torch.tanh)
    nested = nn.Sequential(model, Lambda(lambda o: torch.stack((o, o.sin()), 2)))
    flat = nn.Sequential(model, Lambda(lambda o: torch.stack((o, o.sin()), 2).flatten(1)))

    def value(net: nn.Module) -> float:
        forward = EagerForward(net, lambda o, y: o.flatten(1).square().sum(1), X.double(), Y, [ALL[penalty]])
        return ALL[penalty](forward).mean().item()

    assert value(nested) == pytest.approx(value(flat), rel=1e-12)


def built(kind: str, model: nn.Module, inputs: Any, penalty: Penalty) -> EagerForward | FunctionalForward:
    if kind == "eager":
        return EagerForward(model, CrossEntropy(), inputs, Y, [penalty])
    return FunctionalForward(model, dict(model.named_parameters()), CrossEntropy(), inputs, Y, [penalty])


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(inputs)


MIXING: dict[str, Callable] = {
    "x - x.mean(0)": lambda h: h - h.mean(0),
    "functional batch norm": lambda h: F.batch_norm(h, None, None, training=True),
    "minibatch deviation": lambda h: h * h.std(0).mean(),
    "attention over the batch": lambda h: (h @ h.T / 2).softmax(1) @ h,
    "batch norm": nn.BatchNorm1d(6).double(),
    "rows turned": lambda h: h.roll(1, 0),
    "running sum": lambda h: h.cumsum(0),
    "running sum from behind": lambda h: h.flip(0).cumsum(0).flip(0),
}


@pytest.mark.parametrize("build", ["eager", "functional"])
@pytest.mark.parametrize("penalty", ALL)
@pytest.mark.parametrize("mixing", MIXING)
def test_examples_that_mix_are_refused(mixing: str, penalty: str, build: str) -> None:
    model, name = Net(MIXING[mixing]), type(ALL[penalty]).__name__
    with pytest.raises(ValueError, match=f"^{name} differentiates each example by itself, and"):
        built(build, model, X.double(), ALL[penalty])
    EagerForward(model, CrossEntropy(), X.double(), Y, [WeightGradient()])


@pytest.mark.parametrize("earlier", [WeightGradient(), LargeMargin()], ids=["weight gradient", "large margin"])
@pytest.mark.parametrize("penalty", ALL)
def test_passes_for_other_penalties_hide_no_mixing(earlier: Penalty, penalty: str) -> None:
    model = Net(MIXING["batch norm"])
    for _ in range(4):
        EagerForward(model, CrossEntropy(), X.double(), Y, [earlier])
    for _ in range(2):
        with pytest.raises(ValueError, match="the examples of a batch mix in"):
            EagerForward(model, CrossEntropy(), X.double(), Y, [ALL[penalty]])


def test_a_criterion_that_mixes_examples_is_refused() -> None:
    def centred(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = CrossEntropy()(outputs, targets)
        return losses - losses.mean()

    for penalty in (InputGradient(), ActivationGradient(layers=["first"])):
        with pytest.raises(ValueError, match="criterion must take the loss of each example from its own outputs"):
            penalty(EagerForward(Net(torch.tanh), centred, X.double(), Y, [penalty]))
    whole = WeightGradient()
    assert whole(EagerForward(Net(torch.tanh), centred, X.double(), Y, [whole])).item() < 1e-20


def test_a_criterion_without_derivative_is_no_zero() -> None:
    def lost(outputs: Tensor, targets: Tensor) -> Tensor:
        return CrossEntropy()(outputs.detach(), targets)

    def step(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) != targets).to(outputs)

    for penalty in (InputGradient(), ActivationGradient(layers=["first"]), WeightGradient()):
        with pytest.raises(ValueError, match="is lost in the criterion: write it from differentiable"):
            penalty(EagerForward(Net(torch.tanh), lost, X.double(), Y, [penalty]))
        assert penalty(EagerForward(Net(torch.tanh), step, X.double(), Y, [penalty])).sum().item() == 0


def test_a_mixing_layer_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"mix in 1 \(BatchNorm1d\): put a batch norm into evaluation mode"):
        EagerForward(model, CrossEntropy(), X, Y, [Jacobian()])
    EagerForward(model.eval(), CrossEntropy(), X, Y, [Jacobian()])


@pytest.mark.parametrize("receiver", [0, 1])
def test_one_example_that_depends_on_its_neighbour_is_seen(receiver: int) -> None:
    """In one direction alone: the outputs of even examples by the inputs of odd ones, or the other way round."""

    def mix(hidden: Tensor) -> Tensor:
        gift = torch.zeros_like(hidden)
        gift[receiver] = 1
        return hidden + gift * hidden[[1, 0, 3, 2]]

    with pytest.raises(ValueError, match="the examples of a batch mix"):
        value_and_slope(Net(mix), REVERSE, X.double())


def test_outputs_have_a_row_for_each_example() -> None:
    for shrink in (lambda h: h.mean(0, keepdim=True), lambda h: h[:3]):
        with pytest.raises(ValueError, match="the model's outputs must have a row for each of the 4 examples, got"):
            value_and_slope(Net(shrink), WeightGradient(), X.double())


@pytest.mark.parametrize("penalty", [REVERSE, TANGENT, InputGradient()])
def test_what_torch_cannot_differentiate_twice_is_told_by_the_pass(penalty: Penalty) -> None:
    """Not by torch's error within the user's own backward."""
    with pytest.raises(
        ValueError, match="torch cannot differentiate this model as the penalty needs it: derivative for"
    ):
        EagerForward(Net(torch.ops.aten.hardsigmoid), CrossEntropy(), X.double(), Y, [penalty])


def test_the_formula_of_instance_norm_counts_its_statistics_as_torch_does() -> None:
    ours = nn.Sequential(nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.Flatten(), nn.Linear(6, 3))
    theirs, inputs = copy.deepcopy(ours), X.view(4, 2, 3)
    theirs(inputs)
    EagerForward(ours, CrossEntropy(), inputs, Y, [TangentProp(tangents=ones)])
    assert not torch.equal(ours[0].running_mean, torch.zeros(2))
    for name, buffer in theirs[0].named_buffers():
        torch.testing.assert_close(ours[0].get_buffer(name), buffer)


def test_verify_asks_for_a_gradient_of_what_is_for_one_precision_alone() -> None:
    """In float64 the network fails; in its own precision the penalty has a value, and torch lacks its gradient."""

    class OfInputs(Penalty):
        def __call__(self, forward: Any) -> Tensor:
            return forward.vjp(torch.ones_like(forward.outputs))[0].square().sum(1)

    constant = torch.eye(6)
    for function, is_sound in ((torch.tanh, True), (torch.ops.aten.hardsigmoid, False)):
        model = Net(lambda h, f=function: f(h @ constant), torch.float32)  # type: ignore[misc]
        with nullcontext() if is_sound else pytest.raises(ValueError, match="torch cannot differentiate this model"):
            verify(model, CrossEntropy(), X, Y, [OfInputs()])


def test_a_batch_norm_that_is_unfrozen_later_is_looked_at_again() -> None:
    """The model itself stays in training mode; earlier passes, with the norm in evaluation mode, were right."""
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6).eval(), nn.Linear(6, 3))
    for _ in range(4):
        assert value_and_slope(model, REVERSE, X)[0] > 0
    model[1].train()
    with pytest.raises(ValueError, match=r"mix in 1 \(BatchNorm1d\)"):
        value_and_slope(model, REVERSE, X)


def test_the_large_margin_with_batch_norm_is_warned_of() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.warns(UserWarning, match=r"LargeMargin: the examples of a batch mix in 1 \(BatchNorm1d\)"):
        verify(model, CrossEntropy(), X, Y, [LargeMargin()])


class Frozen(nn.Module):
    """A trunk under no_grad, beside a path that autograd sees or alone."""

    def __init__(self, context: Callable, is_alone: bool) -> None:
        super().__init__()
        self.context, self.is_alone = context, is_alone

    def forward(self, inputs: Tensor) -> Tensor:
        with self.context():
            hidden = inputs.sin()
        return hidden if self.is_alone else inputs + hidden


@pytest.mark.parametrize("penalty", ALL)
def test_a_lost_path_is_no_zero(penalty: str) -> None:
    model = nn.Sequential(Frozen(torch.no_grad, is_alone=True), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"the derivative of the outputs by inputs is lost in 0 \(Frozen\)"):
        ALL[penalty](built("eager", model, X, ALL[penalty]))
    with pytest.raises(ValueError, match=r"the derivative of the outputs by inputs is lost in 0 \(Frozen\)"):
        built("functional", model, X, ALL[penalty])


@pytest.mark.parametrize("function", [torch.zeros_like, lambda h: (h > 0).to(h), lambda h: h.sign().detach()])
def test_a_derivative_that_is_zero_is_zero(function: Callable) -> None:
    """A constant and a step: there autograd knows no path, and is right."""
    model = Net(function)
    for penalty in ALL.values():
        assert penalty(EagerForward(model, CrossEntropy(), X.double(), Y, [penalty])).sum().item() == 0
        verify(model, CrossEntropy(), X, Y, [penalty])


def test_a_detach_beside_a_path_is_found_by_verify() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Frozen(torch.no_grad, is_alone=False), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"Jacobian takes the derivative .* not right in 1 \(Frozen\): along one"):
        verify(model, CrossEntropy(), X, Y, [Jacobian()])


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * context.saved_tensors[0].cos()


@pytest.mark.parametrize("penalty", ALL)
def test_a_function_without_second_derivative_is_named(penalty: str) -> None:
    model = Net(Sine.apply)
    for _ in range(4):
        EagerForward(model, CrossEntropy(), X.double(), Y, [WeightGradient()])
    with pytest.raises(ValueError, match="Sine has a backward marked once_differentiable"):
        EagerForward(model, CrossEntropy(), X.double(), Y, [ALL[penalty]])


class NoForward(torch.autograd.Function):
    """A function of the user's, differentiable as often as one likes, without forward mode."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient * context.saved_tensors[0].cos()


@pytest.mark.parametrize("penalty", ALL)
def test_a_users_function_needs_no_forward_mode(penalty: str) -> None:
    same(Net(NoForward.apply), Net(torch.sin), ALL[penalty], X.double())


class Counting(nn.Module):
    """Counts its passes in a buffer, an attribute and a list; draws dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.calls, self.seen = 0, []

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        self.calls += 1
        self.seen.append(len(inputs))
        return F.dropout(inputs, 0.5, self.training)


@pytest.mark.parametrize("name", [*ALL, "iterations", "layers"])
def test_a_penalty_leaves_what_one_pass_leaves(name: str) -> None:
    others = {"iterations": JacobianSpectral(iterations=3), "layers": ActivationGradient(layers=["0"])}
    penalty, hooked = (ALL | others)[name], []
    model = nn.Sequential(nn.Linear(6, 6), Counting(), nn.utils.parametrizations.spectral_norm(nn.Linear(6, 3)))
    once = copy.deepcopy(model)
    model[0].register_forward_hook(lambda *_: hooked.append(1))
    for step in range(1, 4):
        torch.manual_seed(step)
        penalty(EagerForward(model, CrossEntropy(), X, Y, [penalty], torch.Generator())).mean().backward()
        left = torch.get_rng_state()
        torch.manual_seed(step)
        once(X)
        assert torch.equal(left, torch.get_rng_state())
        counts = (model[1].passes.item(), model[1].calls, len(model[1].seen), len(hooked))
        assert counts == (step, step, step, step)
        for (key, ours), theirs in zip(model.state_dict().items(), once.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), key


def test_verify_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.InstanceNorm1d(1, track_running_stats=True), Counting(), nn.Linear(6, 3))
    model.forward = lambda x: model[3](model[2](model[1](model[0](x)[:, None])[:, 0]))  # type: ignore[method-assign]
    before = copy.deepcopy(model.state_dict())
    data, draws = [param.data_ptr() for param in model.parameters()], torch.get_rng_state()
    verify(model, CrossEntropy(), X, Y, [*ALL.values(), LargeMargin(), WeightGradient()])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [param.data_ptr() for param in model.parameters()] == data
    assert torch.equal(draws, torch.get_rng_state())
    assert (model[2].calls, model[2].seen) == (0, [])


class Broken(Penalty):
    """Penalties of the user's with the mistakes of forums."""

    per_example = True

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, forward: Any) -> Tensor:
        (gradient,) = forward.vjp(forward.loss_gradient())
        if self.kind == ".data":
            return gradient.data.square().flatten(1).sum(1) + 0 * forward.losses
        if self.kind == "detached factor":
            return gradient.square().flatten(1).sum(1) * forward.losses.detach()
        if self.kind == "no graph":
            (gradient,) = forward.vjp(forward.loss_gradient(), create_graph=False)
            return gradient.square().sum(1) + forward.losses
        return gradient.square().sum(0)  # columns


@pytest.mark.parametrize("kind", [".data", "detached factor", "no graph"])
def test_verify_finds_a_users_mistake(kind: str) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
        with pytest.raises(ValueError, match=r"^the gradient of Broken by .* is not right: along one"):
            verify(model, CrossEntropy(), torch.randn(8, 6), torch.arange(8) % 3, [Broken(kind)])


def test_verify_wants_a_value_of_each_example() -> None:
    with pytest.raises(ValueError, match=r"^Broken must return one value for each example, \(4,\), or one"):
        verify(Net(torch.tanh), CrossEntropy(), X, Y, [Broken("columns")])


def test_a_penalty_may_hold_a_part_constant() -> None:
    penalty = Broken("detached factor")
    penalty.holds_constant = True
    verify(Net(torch.tanh), CrossEntropy(), X, Y, [penalty])


# --- several inputs and outputs, functions as models, token ids ---


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(6, 3).double(), nn.Linear(2, 3).double()

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        return (self.left(image) * self.right(meta)).sin()


@pytest.mark.parametrize("build", ["eager", "functional"])
@pytest.mark.parametrize("is_dict", [True, False])
def test_a_penalty_names_one_of_several_inputs(is_dict: bool, build: str) -> None:
    model, meta = Two(), torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = {"image": X.double(), "meta": meta} if is_dict else (X.double(), meta)
    at = "inputs.meta" if is_dict else "inputs.1"
    for make in (Jacobian, InputGradient, JacobianSpectral, partial(TangentProp, tangents=ones)):
        penalty = make(at=at, **({"projections": None} if make is Jacobian else {}))
        forward = built(build, model, inputs, penalty)
        alone = make(**({"projections": None} if make is Jacobian else {}))
        net = Bound(model)
        expected = alone(EagerForward(net, CrossEntropy(), meta, Y, [alone]))
        torch.testing.assert_close(penalty(forward), expected)
        verify(model, CrossEntropy(), inputs, Y, [penalty])


class Bound(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, meta: Tensor) -> Tensor:
        return self.model(X.double(), meta)


@dataclass
class Answer:
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    ("wrap", "output"),
    [
        (lambda o: {"logits": o, "aux": o.sin()}, "logits"),
        (lambda o: Answer(o, o.sin()), "logits"),
        (lambda o: (o.sin(), o), 1),
        (lambda o: [o], 0),
    ],
)
def test_an_output_is_taken_by_its_name(wrap: Callable, output: Any) -> None:
    model = Net(torch.tanh)
    wrapped = nn.Sequential(model, Lambda(wrap))
    for penalty in ALL.values():
        right = value_and_slope(model, penalty, X.double())
        assert value_and_slope(wrapped, penalty, X.double(), output=output) == pytest.approx(right, rel=1e-12)
    with pytest.raises(ValueError, match=r"^the model must return one tensor, got a \w+: name the one to take"):
        EagerForward(wrapped, CrossEntropy(), X.double(), Y, [TANGENT])
    with pytest.raises(ValueError, match=r"^output must name one of .*, got nothing"):
        EagerForward(wrapped, CrossEntropy(), X.double(), Y, [TANGENT], output="nothing")


def test_a_function_is_a_model() -> None:
    model = Net(torch.tanh)
    scaled = lambda x, by: model(x * by)  # noqa: E731
    for penalty in ALL.values():
        right = value_and_slope(nn.Sequential(Lambda(lambda x: 2 * x), model), penalty, X.double())
        forward = EagerForward(partial(scaled, by=2), CrossEntropy(), X.double(), Y, [penalty])
        assert penalty(forward).mean().item() == pytest.approx(right[0], rel=1e-12)
        bound = EagerForward(partial(model.forward), CrossEntropy(), X.double(), Y, [penalty])
        assert [*bound.params] == [f"owner.{name}" for name, _ in model.named_parameters()]


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(10, 5).double(), nn.Linear(5, 3).double()

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids).tanh().mean(1))


@pytest.mark.parametrize("build", ["eager", "functional"])
def test_token_ids_are_penalised_at_the_embedding(build: str) -> None:
    model, ids = Words(), torch.randint(10, (4, 7), generator=torch.Generator().manual_seed(0))
    after = nn.Sequential(Lambda(lambda h: model.head(h.tanh().mean(1))))
    for make in (Jacobian, InputGradient, JacobianSpectral, partial(TangentProp, tangents=ones)):
        options = {"projections": None} if make is Jacobian else {}
        penalty, plain = make(at="embedding", **options), make(**options)
        value = penalty(built(build, model, ids, penalty))
        expected = plain(EagerForward(after, CrossEntropy(), model.embedding(ids).detach(), Y, [plain]))
        torch.testing.assert_close(value, expected)
        verify(model, CrossEntropy(), ids, Y, [penalty])
    with pytest.raises(ValueError, match=r"inputs are integers, which have no derivative: name a layer .*at=embedding"):
        REVERSE(EagerForward(model, CrossEntropy(), ids, Y, [REVERSE]))


# --- precision, criteria, compiled models ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("penalty", ALL)
def test_weights_of_half_precision(penalty: str, dtype: torch.dtype) -> None:
    half, full = Net(torch.tanh, dtype), Net(torch.tanh, torch.float32)
    right = value_and_slope(full, ALL[penalty], X)[0]
    assert value_and_slope(half, ALL[penalty], X.to(dtype))[0] == pytest.approx(right, rel=0.05)


@pytest.mark.parametrize("penalty", ALL)
def test_autocast(penalty: str) -> None:
    model = Net(torch.tanh, torch.float32)
    right = value_and_slope(model, ALL[penalty], X)[0]
    with torch.autocast("cpu", torch.bfloat16):
        forward = EagerForward(model, lambda o, y: CrossEntropy()(o.float(), y), X, Y, [ALL[penalty]])
        assert ALL[penalty](forward).mean().item() == pytest.approx(right, rel=0.05)


@pytest.mark.parametrize(
    ("criterion", "sentence"),
    [
        (nn.CrossEntropyLoss(), r'loss of each example, \(4,\), got shape \(\): write reduction="none"'),
        (lambda o, y: o, r"got shape \(4, 3\): take its mean over the rest"),
    ],
)
def test_a_criterion_gives_each_examples_loss(criterion: Callable, sentence: str) -> None:
    for penalty in (*ALL.values(), WeightGradient()):
        with pytest.raises(ValueError, match=sentence):
            EagerForward(Net(torch.tanh), criterion, X.double(), Y, [penalty])


def test_of_a_compiled_model_the_plain_one_is_used_and_that_is_said() -> None:
    model = Net(torch.tanh)
    right = value_and_slope(model, TANGENT, X.double())
    model = Net(torch.tanh)
    with pytest.warns(UserWarning, match="compiled code has no second derivative: the plain module inside is used"):
        assert value_and_slope(torch.compile(model, backend="eager"), TANGENT, X.double()) == pytest.approx(right)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value_and_slope(torch.compile(model, backend="eager"), TANGENT, X.double())


@pytest.mark.parametrize("block", [attend, torch.tanh])
def test_the_old_checkpointing_is_a_sentence(block: Callable) -> None:
    with pytest.raises(
        ValueError, match=r"^torch cannot differentiate .* write checkpoint\(..., use_reentrant=False\)$"
    ):
        EagerForward(Net(lambda h: checkpoint(block, h, use_reentrant=True)), CrossEntropy(), X.double(), Y, [REVERSE])


def test_checkpointed_attention_is_a_sentence_unless_its_kernel_is_chosen() -> None:
    model = Net(lambda h: checkpoint(attend, h, use_reentrant=False))
    with pytest.raises(ValueError, match=r"attention, whose kernel must be the same .*sdpa_kernel\(SDPBackend"):
        built("eager", model, X.double(), REVERSE)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        same(Net(lambda h: checkpoint(attend, h, use_reentrant=False)), Net(lambda h: h), REVERSE, X.double())
