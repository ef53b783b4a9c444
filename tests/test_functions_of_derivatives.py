"""The plain functions: each example's own derivatives, against torch's own whole Jacobian."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from losses import (
    CrossEntropy,
    Jacobian,
    input_gradients,
    jacobian,
    jacobian_norm,
    per_example_gradients,
    tangent_derivative,
)


def net(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), *layers, nn.Flatten(), nn.Linear(8, 3))


MODEL = net().double().eval()
with torch.no_grad():
    MODEL[1].running_mean += 0.3
    MODEL[1].running_var *= 2.0
X = torch.randn(5, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(5) % 3
CHUNKS = pytest.mark.parametrize("chunk", [None, 1, 2, 7])


def blocks(model: nn.Module, x: Tensor) -> Tensor:
    whole = torch.autograd.functional.jacobian(model, x)  # (B, C, B, *I)
    return torch.stack([whole[n, :, n] for n in range(len(x))])


@CHUNKS
def test_the_jacobian_is_each_examples_own(chunk: int | None) -> None:
    before = copy.deepcopy(MODEL.state_dict())
    ours = jacobian(MODEL, X, chunk=chunk)
    assert ours.shape == (5, 3, 1, 3, 3)
    torch.testing.assert_close(ours, blocks(MODEL, X))
    torch.testing.assert_close(jacobian_norm(MODEL, X, chunk=chunk), ours.flatten(1).square().sum(1))
    assert not ours.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in MODEL.state_dict().items())


def test_shapes_follow_outputs_and_inputs() -> None:
    table = nn.Linear(4, 3).double()
    assert jacobian(table, X.flatten(1)[:, :4]).shape == (5, 3, 4)
    assert jacobian(nn.Sequential(table, nn.Flatten(0, 0)), X.flatten(1)[:, :4]).shape == (5, 3, 4)
    one = nn.Sequential(nn.Linear(4, 1).double(), nn.Flatten(0))
    assert jacobian(one, X.flatten(1)[:, :4]).shape == (5, 4)
    volume = nn.Conv2d(1, 2, 2).double()
    assert jacobian(volume, X).shape == (5, 2, 2, 2, 1, 3, 3)


@CHUNKS
def test_the_other_functions_follow_from_the_jacobian(chunk: int | None) -> None:
    whole = blocks(MODEL, X).flatten(2)
    t = torch.randn(X.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    along = torch.einsum("bcd,bd->bc", whole, t.flatten(1))
    torch.testing.assert_close(tangent_derivative(MODEL, X, t, chunk=chunk), along)
    slopes = MODEL(X).softmax(1) - nn.functional.one_hot(Y, 3)
    wanted = torch.einsum("bc,bcd->bd", slopes.detach(), whole).view(X.shape)
    torch.testing.assert_close(input_gradients(MODEL, CrossEntropy(), X, Y, chunk=chunk), wanted)


@CHUNKS
def test_gradients_of_each_example(chunk: int | None) -> None:
    ours = per_example_gradients(MODEL, CrossEntropy(), X, Y, chunk=chunk)
    assert [*ours] == [name for name, _ in MODEL.named_parameters()]
    for n in range(len(X)):
        loss = CrossEntropy()(MODEL(X[n : n + 1]), Y[n : n + 1]).sum()
        for (name, param), grad in zip(
            MODEL.named_parameters(), torch.autograd.grad(loss, list(MODEL.parameters())), strict=True
        ):
            assert ours[name].shape == (5, *param.shape)
            torch.testing.assert_close(ours[name][n], grad)


def test_they_can_be_differentiated() -> None:
    model = net().double().eval()
    value = jacobian_norm(model, X, create_graph=True).mean()
    wanted = jacobian(model, X, create_graph=True).square().sum() / 5
    grads = [torch.autograd.grad(one, model[0].weight)[0] for one in (value, wanted)]
    torch.testing.assert_close(*grads)
    assert grads[0].norm() > 0
    assert input_gradients(model, CrossEntropy(), X, Y, create_graph=True).requires_grad
    assert tangent_derivative(model, X, X, create_graph=True).requires_grad


def test_dropout_has_one_mask_for_all_rows() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(9, 3)).double()
    ours = jacobian(model, X)
    kept = ours / model[2].weight.detach()[None].view(1, 3, 1, 3, 3)
    assert set(kept.round(decimals=9).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(kept[:, 0] != 0, kept[:, 1] != 0)
    torch.manual_seed(3)
    ours = per_example_gradients(model, CrossEntropy(), X, Y)
    torch.manual_seed(3)
    CrossEntropy()(model(X), Y).sum().backward()
    torch.testing.assert_close(ours["2.weight"].sum(0), model[2].weight.grad)


def test_float32_and_mistakes() -> None:
    single = copy.deepcopy(MODEL).float()
    torch.testing.assert_close(jacobian(single, X.float()).double(), blocks(MODEL, X), rtol=1e-3, atol=1e-5)
    mixing = net().double()
    for call in (
        lambda: jacobian(mixing, X),
        lambda: jacobian_norm(mixing, X),
        lambda: per_example_gradients(mixing, CrossEntropy(), X, Y),
    ):
        with pytest.raises(ValueError, match=r"mix in 1 \(BatchNorm2d\)"):
            call()
    with pytest.raises(ValueError, match="chunk must be at least 1 or null, got 0"):
        jacobian(MODEL, X, chunk=0)
    with pytest.raises(ValueError, match=r"t must be shaped like x, \(5, 1, 3, 3\), got \(5, 9\)"):
        tangent_derivative(MODEL, X, X.flatten(1))
    with pytest.raises(ValueError, match="must return the loss of each example"):
        input_gradients(MODEL, nn.CrossEntropyLoss(), X, Y)


def test_the_norm_is_what_the_penalty_is() -> None:
    from losses import EagerForward

    penalty = Jacobian(projections=None)
    forward = EagerForward(MODEL, CrossEntropy(), X, Y, [penalty])
    torch.testing.assert_close(jacobian_norm(MODEL, X), penalty(forward).detach())
