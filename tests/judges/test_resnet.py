"""Torchvision's resnet18, whose layers work in place, against a naive loop: one example, one derivative at a time."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn

from losses import CrossEntropy, EagerForward, InputGradient, Jacobian, LargeMargin, Penalty
from models import freeze_batch_norm, torchvision_classifier

pytestmark = pytest.mark.sample
DRAWS = 3
GAMMA, ALPHA, EPS = 5.0, 4.0, 1e-6  # the defaults, as conf/penalty/large_margin.yaml documents them


def loss(model: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    outputs = model(x[None])[0]
    return outputs.logsumexp(0) - outputs[target]


def jacobian(model: nn.Module, x: Tensor, target: Tensor, direction: Tensor) -> Tensor:
    """||v^T J||^2 from the rows of J."""
    x = x.clone().requires_grad_()
    rows = [torch.autograd.grad(output, x, create_graph=True)[0] for output in model(x[None])[0]]
    return (direction[:, None] * torch.stack(rows).flatten(1)).sum(0).square().sum()


def input_gradient(model: nn.Module, x: Tensor, target: Tensor, direction: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(model, x, target), x, create_graph=True)[0].square().sum()


def large_margin(model: nn.Module, x: Tensor, target: Tensor, direction: Tensor) -> Tensor:
    """The hinge of the distance, in logits, to the likeliest wrong class."""
    x = x.clone().requires_grad_()
    outputs = model(x[None])[0]
    wrong = max((i for i in range(10) if i != target), key=lambda i: outputs[i].item())
    gap = outputs[target] - outputs[wrong]
    slope = torch.autograd.grad(gap, x, create_graph=True)[0]
    distance = gap / (EPS + slope.square().sum().sqrt())
    return GAMMA - distance.clamp(GAMMA * (1 - ALPHA), GAMMA)


ROWS: list[tuple[str, Penalty, Callable[..., Tensor]]] = [
    ("Jacobian, 1 rademacher", Jacobian(), jacobian),
    ("input gradient", InputGradient(), input_gradient),
    ("large margin, norm differentiated", LargeMargin(), large_margin),
]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = torchvision_classifier(input_shape=(3, 32, 32), outputs=10, name="resnet18").double()
    freeze_batch_norm(model, torch.randn(20, 3, 32, 32).double())
    return model


@pytest.mark.parametrize(("method", "penalty", "naive"), ROWS, ids=[row[0] for row in ROWS])
def test_resnet18(
    model: nn.Module, judged: Callable[..., None], method: str, penalty: Penalty, naive: Callable[..., Tensor]
) -> None:
    torch.manual_seed(1)
    inputs, targets = torch.randn(3, 3, 32, 32).double(), torch.tensor([1, 5, 9])
    forward = EagerForward(model, CrossEntropy(), inputs, targets, [penalty], Generator().manual_seed(DRAWS))
    value = penalty(forward).mean()
    params = [param for param in model.parameters() if param.requires_grad]
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(value, params, materialize_grads=True)])

    twin = out_of_place(model)
    normal = torch.randn(3, 10, 1, dtype=torch.float64, generator=Generator().manual_seed(DRAWS))
    directions = torch.where(normal[:, :, 0] > 0, 1.0, -1.0).double()
    terms = [naive(twin, x, y, v) for x, y, v in zip(inputs, targets, directions, strict=True)]
    expected = sum(terms) / 3
    by_params = torch.autograd.grad(expected, list(twin.parameters()), materialize_grads=True)  # type: ignore
    theirs = torch.cat([g.flatten() for g in by_params])
    value_difference = abs(value.item() / expected.item() - 1)  # type: ignore[union-attr]
    assert math.isfinite(value_difference)
    judged(method, "naive loop", "resnet18", value_difference, ((gradient - theirs).norm() / theirs.norm()).item())


def out_of_place(model: nn.Module) -> nn.Module:
    """Return a copy of the model of which nothing works in place, with the statistics of the original."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return twin.eval()
