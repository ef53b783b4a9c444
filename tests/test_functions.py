"""The autograd functions of lecture 5.7: values, all derivatives, vmap, and use as layers."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import models
from models import absolute_product, kill_head

# torch 2.15 warns itself when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def test_kill_head_zeroes_the_first_components_both_ways():
    x = draw(2, 4)
    outputs = kill_head(x, 3)
    assert torch.equal(outputs, torch.cat([torch.zeros(2, 3), x[:, 3:]], dim=1))
    (gradient,) = torch.autograd.grad(outputs.sum(), x)
    assert torch.equal(gradient, torch.tensor([[0.0, 0.0, 0.0, 1.0]] * 2, dtype=torch.float64))


def test_kill_head_leaves_its_inputs_alone_and_stops_nan():
    x = torch.tensor([float("nan"), 1.0], requires_grad=True)
    outputs = kill_head(x, 1)
    assert outputs.tolist() == [0.0, 1.0]
    assert x.isnan().any()
    outputs.backward(torch.tensor([float("nan"), 2.0]))
    assert x.grad.tolist() == [0.0, 2.0]


def test_absolute_product_and_its_derivatives_in_closed_form():
    u = torch.tensor([2.0, -2.0, 3.0, 0.0], requires_grad=True)
    v = torch.tensor([5.0, 5.0, -1.0, 4.0], requires_grad=True)
    outputs = absolute_product(u, v)
    assert outputs.tolist() == [10.0, 10.0, 3.0, 0.0]
    by_u, by_v = torch.autograd.grad(outputs.sum(), (u, v), create_graph=True)
    assert by_u.tolist() == [5.0, -5.0, 1.0, 0.0]
    assert by_v.tolist() == [2.0, 2.0, -3.0, 0.0]
    (mixed,) = torch.autograd.grad(by_u.sum(), v)
    assert mixed.tolist() == [1.0, -1.0, -1.0, 0.0]


def test_the_lectures_loop_prints_its_losses():
    """Lecture 5.7 fits 3x8 outputs of `killhead` by SGD with lr 1 and prints the losses 1.5176 to 0.8663.

    Each step multiplies a residual that can be trained by 1 - 2/24, so its square, and with it the decrements of the
    loss, by (1 - 2/24)^2. What was killed stays: its share follows from the two printed numbers.
    """
    shrinks, first, last = (1 - 2 / 24) ** 2, 1.5176, 0.8663
    trainable = (first - last) / (1 - shrinks**4)
    y, x = draw(3, 8).detach(), draw(3, 8, seed=1)
    with torch.no_grad():
        y[:, :2] *= ((first - trainable) * 24 / y[:, :2].square().sum()).sqrt()
        residual = x[:, 2:] - y[:, 2:]
        x[:, 2:] = y[:, 2:] + residual * (trainable * 24 / residual.square().sum()).sqrt()
    killed, losses = x[:, :2].clone(), []
    criterion, optimizer = nn.MSELoss(), torch.optim.SGD([x], lr=1.0)
    for _ in range(5):
        loss = criterion(kill_head(x, 2), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (losses[0], losses[-1]) == pytest.approx((first, last), rel=1e-9)
    decrements = [before - after for before, after in pairwise(losses)]
    assert [after / before for before, after in pairwise(decrements)] == pytest.approx([0.84028] * 3, abs=5e-6)
    assert torch.equal(x[:, :2], killed)


@pytest.mark.parametrize("n", [0, 2, 4])
def test_kill_head_passes_the_numerical_checks(n):
    x = draw(3, 4)
    forward_modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(lambda x: kill_head(x, n), x, **forward_modes)
    assert gradgradcheck(lambda x: kill_head(x.square(), n), x, check_fwd_over_rev=True)


def test_absolute_product_passes_the_numerical_checks():
    u, v = draw(3, 4), draw(3, 4, seed=1)
    forward_modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(absolute_product, (u, v), **forward_modes)
    assert gradgradcheck(absolute_product, (u, v), check_fwd_over_rev=True, check_rev_over_rev=True)


def silly(x):
    """Both functions in one, (6,) -> (3,)."""
    return absolute_product(*kill_head(x.square() - 0.5, 1).chunk(2, dim=-1))


def plain(x):
    """The same from torch's own operations."""
    x = (x.square() - 0.5) * torch.tensor([0, 1, 1, 1, 1, 1], dtype=x.dtype)
    return (x[:3] * x[3:]).abs()


@pytest.mark.parametrize("transform", [lambda f: f, jacrev, jacfwd, hessian, lambda f: jacrev(jacfwd(f))])
def test_func_transforms_and_vmap_agree_with_plain_operations(transform):
    x = draw(5, 6).detach()
    torch.testing.assert_close(vmap(transform(silly))(x), vmap(transform(plain))(x))


def test_vmap_over_another_dimension_and_inside_jvp():
    x, tangent = draw(6, 5).detach(), draw(6, 5, seed=1).detach()
    expected = jvp(vmap(plain, in_dims=1), (x,), (tangent,))
    torch.testing.assert_close(jvp(vmap(silly, in_dims=1), (x,), (tangent,)), expected)


def test_vmap_over_one_of_two_arguments():
    u, v = draw(3, 4).detach(), draw(4, seed=1).detach()
    by_v = vmap(grad(lambda v, u: absolute_product(u, v).sum()), in_dims=(None, 0))(v, u)
    torch.testing.assert_close(by_v, u.abs() * v.sign())


def test_double_backward_through_a_model_with_both_layers():
    """The parameter gradient of a gradient penalty, against central differences."""
    torch.manual_seed(0)
    model = models.MLP(input_shape=(3,), outputs=2, widths=[8, 4], activation="tanh").double()
    model.tanh1 = nn.Sequential(nn.Tanh(), models.KillHead(2), nn.Linear(8, 16), models.AbsoluteProduct())
    model.double()
    x = draw(5, 3)

    def penalty():
        (gradient,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return gradient.square().sum()

    weight = model.fc1.weight
    (gradient,) = torch.autograd.grad(penalty(), weight)
    direction = draw(8, 3, seed=1).detach()
    values = []
    for step in (1e-6, -2e-6):
        weight.data += step * direction
        values.append(penalty().item())
    central = (values[0] - values[1]) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(central, rel=1e-6)
    assert not weight.grad
    assert not gradient[:2].any()
    assert gradient[2:].all()


def test_layers_are_the_functions():
    x = draw(2, 3, 4)
    torch.testing.assert_close(models.KillHead(3)(x), kill_head(x, 3))
    torch.testing.assert_close(models.AbsoluteProduct()(x), (x[..., :2] * x[..., 2:]).abs())
    assert repr(models.KillHead(3)) == "KillHead(n=3)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kill_head(torch.zeros(2, 3), 4), "n must be between 0 and the 3 components, got 4"),
        (lambda: kill_head(torch.zeros(2, 3), -1), "n must be between 0 and the 3 components, got -1"),
        (lambda: models.KillHead(-1), "n must be at least 0, got -1"),
        (
            lambda: absolute_product(torch.zeros(3), torch.zeros(3, 1)),
            "u and v must have the same shape, got (3,) and (3, 1)",
        ),
        (
            lambda: models.AbsoluteProduct()(torch.zeros(2, 3)),
            "inputs must have an even number of components, got 3",
        ),
    ],
)
def test_bad_arguments_get_one_sentence(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole message is compared)
        call()
    assert str(error.value) == message
