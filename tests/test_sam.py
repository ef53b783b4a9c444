"""SAM, ours and the public one, which looks at gradients before it calls its closure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from runner.config.compose import project_composer
from runner.training.build import build
from runner.training.loop import Loop
from runner.training.optimizers import SAM, evaluates_once

SMALL = ("data=digits", "model=mlp", "model.widths=[20]", "data.train_size=60", "data.validation_size=0", "device=cpu")


def loop_of(*words: str) -> Loop:
    config = project_composer().compose([*SMALL, "batch_size=20", *words]).values
    return Loop(build(config), config)


def weights(loop: Loop) -> torch.Tensor:
    return torch.cat([param.detach().flatten() for param in loop.params])


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_is_the_papers_algorithm(adaptive: bool, momentum: float) -> None:
    rho, eta, lr = 0.3, 0.01, 0.1
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(3, 2, dtype=torch.float64)), nn.Parameter(torch.randn(2, dtype=torch.float64))]
    w = torch.cat([p.detach().flatten() for p in ours])

    def function(flat: torch.Tensor) -> torch.Tensor:
        return (flat.sin() * flat.roll(1)).sum() + flat.square().sum() / 2

    optimizer, velocity = SAM(ours, lr=lr, momentum=momentum, rho=rho, adaptive=adaptive, eta=eta), torch.zeros_like(w)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = function(torch.cat([p.flatten() for p in ours]))
        value.backward()
        return value

    for _ in range(5):
        gradient = torch.func.grad(function)(w)
        size = w.abs() + eta if adaptive else torch.ones_like(w)
        point = w + rho * size.square() * gradient / (size * gradient).norm()
        velocity = momentum * velocity + torch.func.grad(function)(point)
        assert optimizer.step(closure).item() == pytest.approx(function(w).item())
        w = w - lr * velocity
        torch.testing.assert_close(torch.cat([p.detach().flatten() for p in ours]), w, rtol=1e-10, atol=1e-10)


def test_a_radius_of_zero_is_sgd() -> None:
    plain = loop_of("optimizer=sgd", "penalty=jacobian")
    sam = loop_of("optimizer=sam", "optimizer.rho=0", "penalty=jacobian")
    for loop in (plain, sam):
        loop.run_epoch()
    torch.testing.assert_close(weights(plain), weights(sam), rtol=1e-5, atol=1e-7)
    other = loop_of("optimizer=sam", "penalty=jacobian")
    other.run_epoch()
    assert (weights(other) - weights(sam)).norm() > 1e-3
    assert not evaluates_once(other.components.optimizer)


class PublicSAM(Optimizer):
    """As people write it: the first step uses the gradients that are there, the closure is for the second."""

    def __init__(self, params: Any, lr: float, rho: float) -> None:
        super().__init__(params, {"lr": lr, "rho": rho})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        params = [param for group in self.param_groups for param in group["params"] if param.grad is not None]
        norm = torch.stack([param.grad.norm() for param in params]).norm() if params else None
        moves = [param.grad * (self.param_groups[0]["rho"] / (norm + 1e-12)) for param in params]
        for param, move in zip(params, moves, strict=True):
            param.add_(move)
        self.zero_grad()
        with torch.enable_grad():
            closure()
        for param, move in zip(params, moves, strict=True):
            param.sub_(move)
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.add_(param.grad, alpha=-group["lr"])


class Usual(Optimizer):
    """A user's optimizer that calls its closure first."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})
        self.calls = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            value = closure()
        self.calls += 1
        for group in self.param_groups:
            for param in group["params"]:
                param.add_(param.grad, alpha=-group["lr"])
        return value


def with_optimizer(make: Callable[[Any], Optimizer], *words: str) -> Loop:
    loop = loop_of(*words)
    loop.components.optimizer = make(loop.params)
    return Loop(loop.components, loop.config)


@pytest.mark.parametrize("words", [(), ("penalty=jacobian",), ("model.dropout=0.5",), ("optimizer.clip=0.1",)])
def test_the_public_sam_trains_as_ours(words: tuple[str, ...]) -> None:
    ours = loop_of("optimizer=sam", "optimizer.rho=0.1", *words)
    ours.run_epoch()
    public = with_optimizer(lambda params: PublicSAM(params, lr=0.1, rho=0.1), *words)
    public.run_epoch()
    torch.testing.assert_close(weights(public), weights(ours), rtol=1e-4, atol=1e-6)
    assert public.read_means()["train/objective"] == pytest.approx(ours.read_means()["train/objective"], rel=1e-5)


def test_who_calls_the_closure_first_pays_for_one_evaluation() -> None:
    usual, plain = with_optimizer(lambda params: Usual(params, lr=0.1)), loop_of("optimizer=sgd")
    passes: list[int] = []
    usual.components.model.register_forward_hook(lambda *_: passes.append(1))
    for loop in (usual, plain):
        loop.run_epoch()
    torch.testing.assert_close(weights(usual), weights(plain))
    assert usual.components.optimizer.calls == 3
    assert len(passes) == 3


class Reader(Usual):
    """Compares the gradients that are there with those of its closure, and moves no weight in between."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        params = [param for group in self.param_groups for param in group["params"]]
        there = [param.grad.clone() for param in params]
        with torch.enable_grad():
            closure()
        assert all(torch.equal(one, param.grad) for one, param in zip(there, params, strict=True))
        for param in params:
            param.add_(param.grad, alpha=-self.param_groups[0]["lr"])


class LateReader(Reader):
    """Calls its closure first, but for the later steps."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        self.calls += 1
        (Usual if self.calls == 1 else Reader).step(self, closure)


class Ignorant(Usual):
    """Takes the gradients to be there, and lets its closure be."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for param in group["params"]:
                param.add_(param.grad, alpha=-group["lr"])


class Closureless(Ignorant):
    def step(self) -> None:  # type: ignore[override]
        Ignorant.step(self)


class Recordless(Usual):
    """Calls its closure where no graph is recorded."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> None:  # type: ignore[override]
        closure()
        Ignorant.step(self)


@pytest.mark.parametrize("kind", [Reader, LateReader, Ignorant, Closureless, Recordless])
@pytest.mark.parametrize("words", [(), ("penalty=jacobian", "model.dropout=0.5")])
def test_gradients_are_those_of_the_weights_whoever_asks_for_them(kind: type[Usual], words: tuple[str, ...]) -> None:
    own = with_optimizer(lambda params: kind(params, lr=0.1), *words)
    own.run_epoch()
    plain = loop_of("optimizer=sgd", *words)
    plain.run_epoch()
    torch.testing.assert_close(weights(own), weights(plain), rtol=1e-6, atol=1e-8)
    assert own.read_means() == plain.read_means()


def test_the_public_sam_is_not_misled_by_a_first_gradient_of_zero() -> None:
    public = with_optimizer(lambda params: PublicSAM(params, lr=0.1, rho=0.1))
    ours = loop_of("optimizer=sam", "optimizer.rho=0.1")
    for loop in (public, ours):
        loop.config["loss"]["weight"] = 0
        loop.run_epoch()
        loop.config["loss"]["weight"] = 1
        loop.run_epoch()
    torch.testing.assert_close(weights(public), weights(ours), rtol=1e-4, atol=1e-6)


def test_an_optimizer_that_does_nothing_is_recorded_all_the_same() -> None:
    class Idle(Usual):
        def step(self, closure: Any = None) -> None:
            pass

    loop = with_optimizer(lambda params: Idle(params, lr=0.1))
    loop.run_epoch()
    assert loop.read_means()["train/objective"] > 0


class Counter(nn.Module):
    """What it gives depends on how often it was called: by a buffer, an attribute and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("buffer", torch.zeros(()))
        self.attribute, self.entries, self.seen = 0, [0], nn.Module()
        self.seen.calls = lambda: None  # survives: a function is no state
        self.seen.calls.log = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.buffer += 1
        self.attribute += 1
        self.entries.append(0)
        self.seen.calls.log.append((int(self.buffer), self.attribute, len(self.entries) - 1))
        return inputs * self.attribute


@pytest.mark.parametrize("words", [("optimizer=sam",), ("optimizer=lbfgs", "optimizer.max_iter=3")])
def test_all_evaluations_of_a_step_see_the_same_function(words: tuple[str, ...]) -> None:
    loop = loop_of(*words)
    counter = Counter()
    loop.components.model.add_module("counter", counter)
    loop.run_epoch()
    log = counter.seen.calls.log
    assert len(log) >= 6
    assert log == sorted(log)
    assert set(log) == {(1, 1, 1), (2, 2, 2), (3, 3, 3)}
    assert (counter.buffer, counter.attribute, len(counter.entries)) == (3, 3, 4)


def test_groups_have_radii_of_their_own() -> None:
    values = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))]
    optimizer = SAM([{"params": values[:1], "rho": 0.0}, {"params": values[1:]}], rho=0.5)
    points = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        points.append([value.detach().clone() for value in values])
        objective = sum(value.square().sum() for value in values) / 2
        objective.backward()
        return objective

    optimizer.step(closure)
    assert torch.equal(points[1][0], points[0][0])
    torch.testing.assert_close(points[1][1], 3 + 0.5 * torch.tensor([3.0]) / 14**0.5)
    with pytest.raises(ValueError, match=r"rho must be at least 0 and finite, got -1"):
        SAM([{"params": values, "rho": -1}])


def test_weights_are_not_left_at_the_worst_point() -> None:
    value = nn.Parameter(torch.ones(2))
    calls: list[int] = []

    def closure() -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        value.square().sum().backward()
        return value

    with pytest.raises(KeyboardInterrupt):
        SAM([value]).step(closure)
    assert torch.equal(value, torch.ones(2))


def test_statistics_are_counted_once_a_step() -> None:
    loop = loop_of("optimizer=sam")
    loop.components.model.add_module("norm", nn.BatchNorm1d(10))  # behind the last layer
    loop.run_epoch()
    assert loop.components.model.norm.num_batches_tracked == 3


def test_options_out_of_range_are_told() -> None:
    for name, value in (("rho", -0.1), ("eta", float("inf"))):
        with pytest.raises(ValueError, match=f"{name} must be at least 0 and finite, got"):
            SAM([nn.Parameter(torch.ones(1))], **{name: value})
