"""SAM, ours and the public one, which looks at gradients before it calls its closure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from runner.build import build
from runner.config.compose import project_composer
from runner.loop import Loop
from runner.optimizers import SAM, evaluates_once

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
    assert public.looks_first is True
    assert public.read_means()["train/objective"] == pytest.approx(ours.read_means()["train/objective"], rel=1e-5)


def test_who_calls_the_closure_first_pays_for_one_evaluation() -> None:
    usual, plain = with_optimizer(lambda params: Usual(params, lr=0.1)), loop_of("optimizer=sgd")
    passes: list[int] = []
    usual.components.model.register_forward_hook(lambda *_: passes.append(1))
    for loop in (usual, plain):
        loop.run_epoch()
    torch.testing.assert_close(weights(usual), weights(plain))
    assert usual.looks_first is False
    assert usual.components.optimizer.calls == 3
    assert len(passes) == 3 + 1  # the first step has looked at who comes first


def test_statistics_are_counted_once_a_step() -> None:
    loop = loop_of("optimizer=sam")
    loop.components.model.add_module("norm", nn.BatchNorm1d(10))  # behind the last layer
    loop.run_epoch()
    assert loop.components.model.norm.num_batches_tracked == 3


def test_options_out_of_range_are_told() -> None:
    for name, value in (("rho", -0.1), ("eta", float("inf"))):
        with pytest.raises(ValueError, match=f"{name} must be at least 0 and finite, got"):
            SAM([nn.Parameter(torch.ones(1))], **{name: value})
