"""What the studies of the large margin measure beside the runner: the question's loop, distances in the plane."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from support import ROOT
from torch import Tensor, nn

sys.path.insert(0, str(ROOT / "scripts"))
from studies import margin_moons, margin_question
from studies.margin_question import ALPHA, EPS, GAMMA

CLASSES = 4


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, CLASSES)).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 2, 3, dtype=torch.float64), torch.randint(CLASSES, (8,))


def literal(model: nn.Module, inputs: Tensor, targets: Tensor, zero: bool) -> Tensor:
    """The question's loop: a call of backward for each example and wrong class, the most probable class first."""
    inputs = inputs.clone().requires_grad_()
    probabilities = model(inputs).softmax(1)
    wrong = [
        [c for c in row.argsort(descending=True).tolist() if c != y]
        for row, y in zip(probabilities, targets, strict=True)
    ]
    gaps = probabilities.gather(1, targets.unsqueeze(1)) - probabilities.gather(1, torch.tensor(wrong))
    norms = torch.empty_like(gaps)
    for n in range(len(inputs)):
        for k in range(CLASSES - 1):
            gaps[n, k].backward(retain_graph=True)
            norms[n, k] = inputs.grad.data.norm()  # of the whole batch
            if zero:
                inputs.grad.data.zero_()
    distances = (gaps / (EPS + norms.detach())).mean(1)
    (GAMMA - distances.clamp(GAMMA * (1 - ALPHA), GAMMA)).mean().backward()
    return distances


def stored(model: nn.Module) -> Tensor:
    return torch.cat([param.grad.flatten() for param in model.parameters()])


@pytest.mark.parametrize("zero", [True, False])
def test_the_questions_loop_is_its_literal_form(model: nn.Module, batch: tuple[Tensor, Tensor], zero: bool) -> None:
    expected = literal(model, *batch, zero)
    followed = stored(model)
    model.zero_grad()
    found = margin_question.backward(model, *batch, zero)
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(stored(model), followed)
    model.zero_grad()
    assert not torch.allclose(margin_question.backward(model, *batch, not zero), found)


def test_distances_in_the_plane_are_those_to_a_known_boundary() -> None:
    classes = np.broadcast_to(margin_moons.X > 0.505, (len(margin_moons.Y), len(margin_moons.X))).astype(int)
    points, labels = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), np.array([0, 1, 0])
    assert margin_moons.distances(points, labels, classes) == pytest.approx([0.51, 0.5, 0.0], abs=1e-9)
