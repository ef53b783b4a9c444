"""Optimizers: TensorFlow's RMSprop, and textbook facts of those that `conf/optimizer` builds."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from runner.training.build import build_optimizer
from runner.training.optimizers import TensorFlowRMSprop, evaluates_once
from runner.training.schedule import Constant

Composed = Callable[..., Any]
GRADIENTS = np.random.RandomState(0).standard_normal((12, 3)) * [1e-3, 1e-1, 10]
START = np.array([1.0, -2.0, 3.0])
LRS = [0.1] * 5 + [0.03] * 7  # momentum includes the learning rate: a change must not rescale the past


def recursion(alpha: float, eps: float, momentum: float, weight_decay: float) -> np.ndarray:
    """The formula in numpy: the point after each step."""
    point, square, move, points = START.copy(), np.ones(3), np.zeros(3), []
    for gradient, lr in zip(GRADIENTS, LRS, strict=True):
        gradient = gradient + weight_decay * point
        square = alpha * square + (1 - alpha) * gradient**2
        move = momentum * move + lr * gradient / np.sqrt(square + eps)
        point = point - move
        points.append(point)
    return np.stack(points)


def stepped(param: Tensor, optimizer: Optimizer, steps: range) -> list[np.ndarray]:
    """Make some of the steps, and return the points."""
    points = []
    for step in steps:
        optimizer.param_groups[0]["lr"] = LRS[step]
        param.grad = torch.from_numpy(GRADIENTS[step]).to(param)
        optimizer.step()
        points.append(param.detach().numpy().copy())
    return points


OPTIONS: list[dict[str, float]] = [
    {"alpha": 0.9, "eps": 1e-10, "momentum": 0.0, "weight_decay": 0.0},
    {"alpha": 0.9, "eps": 0.01, "momentum": 0.0, "weight_decay": 0.0},  # the large-margin reference's
    {"alpha": 0.5, "eps": 0.1, "momentum": 0.9, "weight_decay": 0.2},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_rmsprop_is_tensorflows_recursion(options: dict[str, float]) -> None:
    param = nn.Parameter(torch.from_numpy(START.copy()))
    points = stepped(param, TensorFlowRMSprop([param], lr=1.0, **options), range(12))
    np.testing.assert_allclose(np.stack(points), recursion(**options), rtol=1e-12)


def test_rmsprop_goes_on_with_the_same_bits() -> None:
    options = OPTIONS[2]
    whole = nn.Parameter(torch.from_numpy(START).float())
    expected = stepped(whole, TensorFlowRMSprop([whole], lr=1.0, **options), range(12))
    param = nn.Parameter(torch.from_numpy(START).float())
    optimizer, file = TensorFlowRMSprop([param], lr=1.0, **options), io.BytesIO()
    stepped(param, optimizer, range(7))
    torch.save((param.data, optimizer.state_dict()), file)
    file.seek(0)
    values, state = torch.load(file, weights_only=True)
    param = nn.Parameter(values)
    optimizer = TensorFlowRMSprop([param], lr=9.0)  # the state has the options
    optimizer.load_state_dict(state)
    assert np.array_equal(stepped(param, optimizer, range(7, 12)), expected[7:])


def test_rmsprop_calls_the_closure_and_skips_what_has_no_gradient() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = TensorFlowRMSprop([used, unused], lr=0.1, alpha=0.0, eps=1e-30)

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = (3 * used).sum()
        objective.backward()
        return objective

    assert optimizer.step(closure).item() == 6
    torch.testing.assert_close(used.data, torch.full((2,), 0.9))
    assert torch.equal(unused.data, torch.ones(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"eps": 0.0}, "eps must be positive and finite, got 0.0"),
        ({"alpha": 1.0}, "alpha must be at least 0 and below 1, got 1.0"),
        ({"momentum": -0.1}, "momentum must be at least 0 and below 1, got -0.1"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0 and finite, got -1.0"),
    ],
)
def test_rmsprop_refuses(options: dict[str, float], message: str) -> None:
    for params in ([nn.Parameter(torch.ones(1))], [{"params": [nn.Parameter(torch.ones(1))], **options}]):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            TensorFlowRMSprop(params, **({} if isinstance(params[0], dict) else options))


# ---------------------------------------------------------------- lecture 5.2 and 5.3


class Point(nn.Module):
    """Two numbers, at the place where a valley f = (x^2 + 30 y^2) / 2 begins."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))


def trajectory(composed: Composed, steps: int, slope: Callable[[Tensor], Tensor], *overrides: str) -> Tensor:
    """The places (steps + 1, 2) from the start on, by an optimizer as the config builds it."""
    point = Point()
    optimizer = build_optimizer(composed(*overrides).config, point, Constant())
    places = [point.place.detach().clone()]
    for _ in range(steps):
        point.place.grad = slope(point.place.detach())
        optimizer.step()
        places.append(point.place.detach().clone())
    return torch.stack(places)


def valley(place: Tensor) -> Tensor:
    return place * torch.tensor([1.0, 30.0], dtype=torch.float64)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov"])
@pytest.mark.parametrize(("lr", "momentum"), [(0.1, 0.9), (0.01, 0.5)])
def test_momentum_reaches_its_terminal_velocity(composed: Composed, optimizer: str, lr: float, momentum: float) -> None:
    """Under a constant gradient, a step becomes lr / (1 - momentum) times it."""
    gradient = torch.tensor([2.0, -3.0], dtype=torch.float64)
    options = (f"optimizer={optimizer}", f"optimizer.lr={lr}", f"optimizer.momentum={momentum}")
    places = trajectory(composed, 400, lambda _: gradient, *options)
    first, last = places[1] - places[0], places[-1] - places[-2]
    torch.testing.assert_close(last, -lr / (1 - momentum) * gradient)
    torch.testing.assert_close(first, -lr * gradient * (1 + momentum if optimizer == "nesterov" else 1))


def test_sgd_diverges_in_a_narrow_valley_above_two_over_the_curvature(composed: Composed) -> None:
    """The coordinate of curvature 30 is multiplied by 1 - 30 lr in each step."""
    for lr, grows in ((0.99 * 2 / 30, False), (1.01 * 2 / 30, True)):
        places = trajectory(composed, 300, valley, "optimizer=sgd", f"optimizer.lr={lr}")
        torch.testing.assert_close(places[:, 1], (1 - 30 * lr) ** torch.arange(301.0, dtype=torch.float64))
        assert (places[-1, 1].abs() > 100) == grows
        assert places[-1, 0].abs() < 1e-5  # the other one converges


def test_momentum_is_faster_than_sgd_in_a_narrow_valley(composed: Composed) -> None:
    sgd, momentum = (
        trajectory(composed, 100, valley, f"optimizer={name}", "optimizer.lr=0.03", *more).norm(dim=1)
        for name, more in (("sgd", ()), ("momentum", ("optimizer.momentum=0.6",)))
    )
    assert momentum[-1] < 0.01 * sgd[-1]
    assert all(after < before for before, after in pairwise(sgd.tolist()))


class _Own(torch.optim.SGD):
    """An optimizer that is neither torch's nor ours: what its step does with the closure is not known."""


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (torch.optim.SGD, True),
        (torch.optim.Adam, True),
        (TensorFlowRMSprop, True),
        (torch.optim.LBFGS, False),
        (_Own, False),
    ],
)
def test_which_optimizers_call_their_closure_once(kind: type[torch.optim.Optimizer], expected: bool) -> None:
    param = torch.nn.Parameter(torch.ones(2))
    optimizer, calls = kind([param]), []  # type: ignore[call-arg]

    def closure() -> torch.Tensor:
        calls.append(1)
        optimizer.zero_grad()
        loss = (param - 3).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert evaluates_once(optimizer) == expected
    assert not expected or len(calls) == 1
