"""L2, L1 and elastic net: against SGD's weight decay and the closed forms of an orthonormal design."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss, softshrink

from losses import L1, L2, EagerForward, ElasticNet, Penalty, weights_of


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def errors(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, penalty: Penalty | None, weight: float) -> None:
    """One step of somebody's own loop, on a fixed batch."""
    penalties = [penalty] if penalty else []
    forward = EagerForward(model, errors, drawn(8, 4, seed=1), drawn(8, 2, seed=2), penalties)
    objective = forward.losses.mean()
    if penalty and penalty.in_objective:
        objective = objective + weight * penalty(forward).mean()
    optimizer.zero_grad()
    objective.backward(inputs=list(forward.params.values()))
    optimizer.step()
    if penalty:
        penalty.prox_(forward.params.values(), weight, optimizer.param_groups[0]["lr"])


def trained(penalty: Penalty | None, weight: float = 0.0, **options: float) -> Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, **options)
    for _ in range(10):
        step(model, optimizer, penalty, weight)
    return nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_l2_is_weight_decay_of_twice_its_weight(momentum: float) -> None:
    ours = trained(L2(), 0.03, momentum=momentum)
    torch.testing.assert_close(ours, trained(None, momentum=momentum, weight_decay=0.06), rtol=1e-12, atol=1e-14)
    assert not torch.allclose(ours, trained(None, momentum=momentum, weight_decay=0.03), rtol=1e-3)


def orthonormal_regression(penalty: Penalty, prox_weight: float, lr: float = 0.5) -> tuple[Tensor, Tensor]:
    """Weights (D,) trained on N points with X^T X = I by gradient steps and the penalty's, and X^T y."""
    points, size = 12, 7
    design = torch.linalg.qr(drawn(points, size)).Q
    values = 3 * drawn(points, seed=3)
    weight = nn.Parameter(torch.zeros(size, dtype=torch.float64))
    for _ in range(2000):
        (gradient,) = torch.autograd.grad(mse_loss(design @ weight, values), weight)
        with torch.no_grad():
            weight -= lr * gradient
        penalty.prox_([weight], prox_weight, lr)
    return weight.detach(), design.T @ values


@pytest.mark.parametrize("scale_by_lr", [False, True])
def test_proximal_l1_reaches_the_lasso_solution(scale_by_lr: bool) -> None:
    threshold, lr, points = 0.1, 0.5, 12
    penalty = L1(scale_by_lr=scale_by_lr)
    weight, projected = orthonormal_regression(penalty, threshold / (lr if scale_by_lr else 1))
    lasso = softshrink(projected, threshold * points / (2 * lr))
    torch.testing.assert_close(weight, lasso, rtol=1e-10, atol=1e-12)
    zeros = weight == 0  # exact ones, and neither none nor all of them
    assert torch.equal(zeros, lasso == 0)
    assert 0 < zeros.sum() < len(zeros)


@pytest.mark.parametrize("scale_by_lr", [False, True])
def test_elastic_net_reaches_its_closed_form(scale_by_lr: bool) -> None:
    threshold, l2, lr, points = 0.1, 0.05, 0.5, 12
    penalty = ElasticNet(l1=threshold / (lr if scale_by_lr else 1), l2=l2, scale_by_lr=scale_by_lr)
    weight, projected = orthonormal_regression(penalty, 1.0)
    expected = softshrink(projected, threshold * points / (2 * lr)) / (1 + points * l2)
    torch.testing.assert_close(weight, expected, rtol=1e-10, atol=1e-12)


def test_elastic_net_step_minimises_what_defines_it() -> None:
    """prox(v) = argmin_w (w - v)^2 / 2 + lr * weight * (l1 |w| + l2 w^2), by search on a fine grid."""
    start, lr = torch.tensor([-2.0, -0.1, 0.0, 0.05, 1.3], dtype=torch.float64), 0.5
    grid = torch.linspace(-3, 3, 600_001, dtype=torch.float64)
    values = (grid - start.unsqueeze(1)).square() / 2 + lr * 2 * (0.4 * grid.abs() + 0.3 * grid.square())
    stepped = start.clone()
    ElasticNet(l1=0.4, l2=0.3, scale_by_lr=True).prox_([stepped], 2, lr)
    torch.testing.assert_close(stepped, grid[values.argmin(1)], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("penalty", "weight"), [(L1(), 0.7), (ElasticNet(l1=0.7, l2=0.2), 1.0)])
def test_a_proximal_step_never_crosses_zero(penalty: Penalty, weight: float) -> None:
    start = drawn(1000)
    stepped = start.clone()
    penalty.prox_([stepped], weight, 0.1)
    assert bool((stepped * start >= 0).all())
    assert bool((stepped.abs() <= start.abs()).all())
    assert torch.equal(stepped == 0, start.abs() <= 0.7)


def test_subgradient_gives_no_exact_zeros_and_proximal_does() -> None:
    assert not (trained(L1(method="subgradient"), 0.05) == 0).any()
    assert (trained(L1(), 0.05) == 0).any()


def test_a_subgradient_penalty_leaves_the_weights_alone_after_the_step() -> None:
    for penalty in (L1(method="subgradient"), L2()):
        weight = drawn(5)
        penalty.prox_([weight], 0.5, 0.1)
        assert torch.equal(weight, drawn(5))


@pytest.mark.parametrize("build", [lambda: L1(biases=False), lambda: ElasticNet(l1=1.0, biases=False)])
def test_biases_can_be_left_out_of_a_proximal_step(build: Callable[[], Penalty]) -> None:
    layer = nn.Linear(3, 3).double()
    weight, bias = (param.detach().clone() for param in layer.parameters())
    weights_of(layer)
    build().prox_(layer.parameters(), 0.1, 0.1)
    assert torch.equal(layer.bias, bias)
    assert not torch.equal(layer.weight, weight)


@pytest.mark.parametrize("penalty", [L1(biases=False), ElasticNet(biases=False)])
def test_a_proximal_step_without_biases_must_know_the_layers(penalty: Penalty) -> None:
    """By dimensions, layer scale (C, 1, 1) and the gain of a weight norm would count as weights."""
    with pytest.raises(ValueError, match=r"biases=False must know the layer .* call weights_of\(model\)"):
        penalty.prox_(nn.Linear(3, 3).parameters(), 0.1, 0.1)


@pytest.mark.parametrize("penalty", [L1(), ElasticNet(l1=1.0, l2=1.0)])
def test_a_proximal_step_leaves_frozen_parameters_alone(penalty: Penalty) -> None:
    frozen, trained = nn.Parameter(drawn(3, 3), requires_grad=False), nn.Parameter(drawn(3, 3))
    penalty.prox_([frozen, trained], 0.5, 0.1)
    assert torch.equal(frozen, drawn(3, 3))
    assert not torch.equal(trained, drawn(3, 3))


def test_a_proximal_step_on_nothing_does_nothing() -> None:
    for penalty in (L1(), ElasticNet(), L1(biases=False), ElasticNet(biases=False)):
        penalty.prox_([], 1.0, 0.1)


def test_proximal_penalties_are_no_term_of_the_objective() -> None:
    assert [L1().in_objective, ElasticNet().in_objective] == [False, False]
    assert [L1(method="subgradient").in_objective, L2().in_objective] == [True, True]
