"""probe=signal: closed forms at initialisation, and what the numbers are of any network."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor, nn

from data import Dataset, Split
from losses import CrossEntropy
from models import KaimingNormal, Normal, TorchDefault, XavierNormal
from models.init import Initialisation
from runner.evaluation import Signal, Subject

WIDTH, DEPTH, CLASSES = 400, 6, 400


def subject_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Subject:
    test = Split(inputs + 100, targets)  # which is not asked
    dataset = Dataset(Split(inputs, targets), None, test, CLASSES, torch.tensor(0.0), torch.tensor(1.0))
    return Subject(model.eval(), CrossEntropy(), dataset, Generator().manual_seed(0))


def signals(init: Initialisation, activation: Callable[[], nn.Module]) -> dict[str, float]:
    """Return the numbers of square layers with zero biases, fc0 act0 fc1 act1 ..., the last without activation."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for number in range(DEPTH):
        model.add_module(f"fc{number}", nn.Linear(WIDTH, WIDTH, bias=False))
        if number < DEPTH - 1:
            model.add_module(f"act{number}", activation())
    init(model)
    inputs, targets = torch.randn(300, WIDTH), torch.randint(CLASSES, (300,))
    return Signal()(subject_of(model, inputs, targets))  # type: ignore[return-value]


def ratios(numbers: dict[str, float], kind: str, layers: str, count: int) -> list[float]:
    found = [numbers[f"{kind}/{layers.format(number)}"] for number in range(count)]
    return [after / before for before, after in pairwise(found)]


FORMS = [  # an initialisation, an activation, and N V(w), halved by relu
    (TorchDefault(), nn.Identity, 1 / 3),
    (XavierNormal(), nn.Identity, 1.0),
    (Normal(0.01), nn.Identity, WIDTH * 1e-4),
    (TorchDefault(), nn.ReLU, 1 / 6),
    (XavierNormal(), nn.ReLU, 1 / 2),
    (KaimingNormal(math.sqrt(2)), nn.ReLU, 1.0),
]


@pytest.mark.parametrize(("init", "activation", "ratio"), FORMS)
def test_the_signal_grows_by_its_closed_form(
    init: Initialisation, activation: Callable[[], nn.Module], ratio: float
) -> None:
    numbers = signals(init, activation)
    assert ratios(numbers, "activation", "act{}", DEPTH - 1) == pytest.approx([ratio] * (DEPTH - 2), rel=0.15)
    back = [1 / found for found in ratios(numbers, "gradient", "fc{}", DEPTH - 1)]
    assert back == pytest.approx([ratio] * (DEPTH - 2), rel=0.15)  # the same factor on the way back, in square layers
    assert numbers["activation/fc0"] == pytest.approx(ratio * (2 if activation is nn.ReLU else 1), rel=0.1)


@pytest.mark.parametrize("init", [TorchDefault(), XavierNormal(), Normal(0.01)])
def test_gradients_by_weights_are_alike_in_all_layers(init: Initialisation) -> None:
    """Although activations or gradients by them shrink to a hundredth: where one is small the other is large."""
    numbers = signals(init, nn.Identity)
    found = [numbers[f"weight_gradient/fc{number}.weight"] for number in range(DEPTH)]
    assert max(found) / min(found) < 1.5


class Reused(nn.Module):
    """An activation that works in place and is used twice, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Linear(18, CLASSES)
        self.fc.bias.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.relu(self.relu(self.conv(inputs)) - 0.3).flatten(1))


def test_numbers_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    model, inputs, targets = Reused(), torch.randn(7, 1, 5, 5), torch.randint(CLASSES, (7,))
    numbers = Signal(examples=4)(subject_of(model, inputs, targets))
    inputs, targets = inputs[:4], targets[:4]
    before = model.conv(inputs).detach().requires_grad_()
    first = before.relu()
    second = (first - 0.3).relu()
    losses = nn.functional.cross_entropy(model.fc(second.flatten(1)), targets, reduction="none")
    slopes = torch.autograd.grad(losses.sum(), (before, first, second), retain_graph=True)
    (weight,) = torch.autograd.grad(losses.mean(), model.fc.weight)
    squares = [tensor.square().mean().item() for tensor in (before, first, second, *slopes, weight)]
    assert numbers["activation/conv"] == pytest.approx(squares[0], rel=1e-5)
    assert numbers["activation/relu"] == pytest.approx((squares[1] + squares[2]) / 2, rel=1e-5)
    assert numbers["gradient/conv"] == pytest.approx(squares[3], rel=1e-5)
    assert numbers["gradient/relu"] == pytest.approx((squares[4] + squares[5]) / 2, rel=1e-5)
    assert numbers["weight_gradient/fc.weight"] == pytest.approx(squares[6], rel=1e-5)
    assert not any("bias" in name for name in numbers)
    assert all(param.grad is None for param in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
