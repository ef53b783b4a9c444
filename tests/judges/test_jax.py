"""Every penalty, its value and its gradient by the parameters, against JAX: definitions.py on networks.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import definitions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from definitions import LOSSES, Value, jacobian_of
from jax import Array
from networks import CASES, SEED, Case, case_of
from torch import Generator, Tensor, nn

from losses import (
    L1,
    L2,
    ActivationGradient,
    EagerForward,
    ElasticNet,
    FunctionalForward,
    InputGradient,
    Jacobian,
    JacobianSpectral,
    LargeMargin,
    Penalty,
    TangentProp,
    WeightGradient,
)

DRAWS = 3  # seed of the penalties' random numbers


def by_eager(case: Case, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(SEED)
    generator = Generator().manual_seed(DRAWS)
    forward = EagerForward(case.model, case.criterion, case.inputs, case.targets, [penalty], generator)
    value = penalty(forward).mean()
    gradients = torch.autograd.grad(value, list(forward.params.values()), materialize_grads=True)
    return value.detach(), dict(zip(forward.params, gradients, strict=True))


def by_functional(case: Case, penalty: Penalty) -> tuple[Tensor, dict[str, Tensor]]:
    def value(params: dict[str, Tensor]) -> Tensor:
        generator = Generator().manual_seed(DRAWS)
        forward = FunctionalForward(case.model, params, case.criterion, case.inputs, case.targets, [penalty], generator)
        return penalty(forward).mean()

    torch.manual_seed(SEED)
    params = {name: param.detach() for name, param in case.model.named_parameters()}
    gradients, found = torch.func.grad_and_value(value)(params)
    return found, gradients


def difference(found: dict[str, Tensor], expected: dict[str, Array]) -> float:
    """Return the norm of the difference of two gradients, relative to that of the expected one."""
    assert found.keys() == expected.keys()
    ours = np.concatenate([found[name].detach().numpy().ravel() for name in found])
    theirs = np.concatenate([np.asarray(expected[name]).ravel() for name in found])
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def differences(case: Case, penalty: Penalty, theirs: Value) -> tuple[float, float]:
    """Return the largest relative differences of value and gradient, of both forward passes."""
    expected, by_weights = jax.jit(jax.value_and_grad(theirs))(case.weights, case.batch)
    assert abs(expected) > 1e-8
    assert max(float(jnp.abs(gradient).max()) for gradient in by_weights.values()) > 1e-8
    found = [by_eager(case, penalty), by_functional(case, penalty)]
    values = [abs(float(value) / float(expected) - 1) for value, _ in found]
    return max(values), max(difference(gradients, by_weights) for _, gradients in found)


# --- the rows: one for each penalty and its options, ours and what JAX is given ---


@dataclass
class Row:
    method: str
    ours: Callable[[Case], Penalty]
    theirs: Callable[[Case], Value]
    suits: Callable[[Case], bool] = lambda case: True


def drawn(case: Case, of: str, count: int, noise: str) -> Array:
    """Return the directions (B, size, n) that the library is to draw: sum_i v_i v_i^T = I in expectation."""
    size = case.inputs[0].numel() if of == "inputs" else size_of(case, of)
    numbers = torch.randn(len(case.inputs), size, count, dtype=torch.float64, generator=Generator().manual_seed(DRAWS))
    v = numbers.numpy()
    if noise == "rademacher":
        return jnp.asarray(np.where(v > 0, 1.0, -1.0) / math.sqrt(count))
    if noise == "sphere":
        return jnp.asarray(v / np.sqrt((v**2).sum(1, keepdims=True)) * math.sqrt(size / count))
    return jnp.asarray(np.linalg.qr(v)[0] * math.sqrt(size / count))


def size_of(case: Case, of: str) -> int:
    x, _, masks = case.batch
    first = {name: mask[0] for name, mask in masks.items()}
    return definitions.activations(case.net, case.weights, x[0], first)[of].size


def projected(noise: str, count: int, default: bool = False, of: int | None = None) -> Row:
    """Return the row of an estimator in reverse mode, of the outputs or of a layer by its number."""

    def ours(case: Case) -> Penalty:
        options: Any = {} if default else {"noise": noise}
        return Jacobian(projections=count, mode="reverse", of=name(case), **options)

    def name(case: Case) -> str:
        return "outputs" if of is None else case.layers[of]

    def theirs(case: Case) -> Value:
        return definitions.jacobian_projected(case.net, drawn(case, name(case), count, noise), name(case))

    what = f"Jacobian{'' if of is None else ' of a layer'}, {count} {noise}"
    return Row(what, ours, theirs, lambda case: size_of(case, name(case)) > count)


def pushed(noise: str, count: int, of: int | None = None) -> Row:
    def name(case: Case) -> str:
        return "outputs" if of is None else case.layers[of]

    def ours(case: Case) -> Penalty:
        return Jacobian(projections=count, noise=noise, mode="forward", of=name(case))  # type: ignore[arg-type]

    def theirs(case: Case) -> Value:
        return definitions.jacobian_pushed(case.net, drawn(case, "inputs", count, noise), name(case))

    what = f"Jacobian{'' if of is None else ' of a layer'}, {count} {noise}, forward mode"
    return Row(what, ours, theirs, lambda case: case.inputs[0].numel() > count)


def power_iterated(case: Case) -> Value:
    """||u^T J||^2 after three steps u <- J J^T u, normalised, from a random u, which is then held constant."""
    directions = drawn(case, "outputs", 1, "sphere")[:, :, 0]
    rows = jax.vmap(lambda x, target, masks: jacobian_of(case.net, case.weights, x, masks))(*case.batch)
    for _ in range(3):
        directions = jnp.einsum("ncd,ned,ne->nc", rows, rows, directions)
        directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    return definitions.jacobian_projected(case.net, directions[:, :, None])


def loss_of(case: Case) -> Callable[[Array, Array], Array]:
    return LOSSES[type(case.criterion).__name__]


def tangents_of(case: Case) -> tuple[Array, Array]:
    """Return tangents (B, K, *I) and the derivatives wanted (B, K, C)."""
    tangents = case.tangents(case.inputs).transpose(0, 1)
    wanted = case.tangents.derivatives_at(case.inputs)
    shape = (*tangents.shape[:2], size_of(case, "outputs"))
    wanted = torch.zeros(shape).double() if wanted is None else wanted.transpose(0, 1)
    return jnp.asarray(tangents.numpy()), jnp.asarray(wanted.numpy())


def mixed_tangents(case: Case) -> Value:
    """||J sum_k e_k t_k - sum_k e_k K_k||^2 with the signs that the library is to draw; for one tangent no sign."""
    tangents, wanted = tangents_of(case)
    count = tangents.shape[1]
    bits = torch.randint(2, (count, len(case.inputs)), generator=Generator().manual_seed(DRAWS))
    signs = jnp.asarray((2 * bits - 1).T.numpy(), float) if count > 1 else jnp.ones((len(case.inputs), 1))
    mixed = jnp.einsum("nk,nk...->n...", signs, tangents)[:, None]
    return definitions.tangent_prop(case.net, mixed, jnp.einsum("nk,nkc->nc", signs, wanted)[:, None])


def rows() -> Iterator[Row]:
    yield Row("L2", lambda case: L2(), lambda case: definitions.l2)
    yield Row("Jacobian, exact", lambda case: Jacobian(projections=None), lambda case: definitions.jacobian(case.net))
    yield Row(
        "Jacobian of a layer, exact",
        lambda case: Jacobian(projections=None, of=case.layers[1]),
        lambda case: definitions.jacobian(case.net, case.layers[1]),
        lambda case: size_of(case, case.layers[1]) < 20 or case.inputs[0].numel() < 20,
    )
    yield projected("rademacher", 1, default=True)
    yield projected("rademacher", 3)
    yield projected("sphere", 1)
    yield projected("sphere", 2)
    yield projected("orthonormal", 2, default=True)
    yield projected("rademacher", 1, of=0)
    yield projected("orthonormal", 3, of=1)
    yield pushed("rademacher", 1)
    yield pushed("orthonormal", 2)
    yield pushed("sphere", 2, of=0)
    yield Row(
        "Jacobian spectral, exact",
        lambda case: JacobianSpectral(),
        lambda case: definitions.jacobian_spectral(case.net),
    )
    yield Row("Jacobian spectral, 3 iterations", lambda case: JacobianSpectral(iterations=3), power_iterated)
    yield Row(
        "input gradient",
        lambda case: InputGradient(),
        lambda case: definitions.loss_gradient(case.net, loss_of(case), ["inputs"]),
    )
    yield Row(
        "activation gradient",
        lambda case: ActivationGradient(layers=case.layers),
        lambda case: definitions.loss_gradient(case.net, loss_of(case), case.layers),
    )
    yield Row(
        "activation gradient, of the batch",
        lambda case: ActivationGradient(layers=case.layers, reduction="batch"),
        lambda case: definitions.batch_gradient(case.net, loss_of(case), case.layers),
    )
    yield Row(
        "weight gradient",
        lambda case: WeightGradient(),
        lambda case: definitions.weight_gradient(case.net, loss_of(case)),
    )
    yield Row(
        "tangent prop, exact",
        lambda case: TangentProp(tangents=case.tangents, exact=True),
        lambda case: definitions.tangent_prop(case.net, *tangents_of(case)),
    )
    yield Row("tangent prop, random signs", lambda case: TangentProp(tangents=case.tangents), mixed_tangents)


ROWS = {row.method: row for row in rows()}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return case_of(request.param)


@pytest.mark.parametrize("method", ROWS)
def test_value_and_gradient(case: Case, method: str, judged: Callable[..., None]) -> None:
    row = ROWS[method]
    if not row.suits(case):
        return
    value, gradient = differences(case, row.ours(case), row.theirs(case))
    judged(method, "JAX", case.name, value, gradient)


# --- large margin ---


def margins(
    case: Case, judged: Callable[..., None], *, layers: tuple[str, ...], aggregation: str, **options: Any
) -> None:
    """Compare with a margin and a clip that some distances lie below, some between, some above."""
    options = {"top_k": 1, "eps": 0.01, **options}
    _, distances = definitions.large_margin(case.net, aggregation, 1.0, 1.0, layers=layers, **options)
    of_examples = [distances(case.weights, *(jax.tree.map(lambda v, n=n: v[n], case.batch))) for n in range(4)]
    found = np.sort(np.stack([np.asarray(d) for d in of_examples]).ravel())
    low, gamma = 0.5 * (found[0] + found[1]), 0.5 * (found[-2] + found[-1])
    assert gamma > 0
    alpha = 1 - low / gamma
    theirs, _ = definitions.large_margin(case.net, aggregation, gamma, alpha, layers=layers, **options)
    ours: Any = {"aggregation": aggregation, "gamma": gamma, "alpha": alpha, **options}
    value, gradient = differences(case, LargeMargin(layers=layers, **ours), theirs)
    what = "norm differentiated" if options["differentiate_norm"] else "norm held constant"
    judged(f"large margin, {what}", "JAX", case.name, value, gradient)


@pytest.mark.parametrize("differentiate_norm", [False, True])
@pytest.mark.parametrize("norm", [1, 2, "inf"])
@pytest.mark.parametrize("aggregation", ["min_distance", "sum_of_hinges", "mean_distance"])
@pytest.mark.parametrize("scores", ["probability", "logit", "log_probability"])
def test_large_margin_in_all_its_options(
    judged: Callable[..., None], scores: str, aggregation: str, norm: Any, differentiate_norm: bool
) -> None:
    options = {"scores": scores, "norm": norm, "differentiate_norm": differentiate_norm, "top_k": 2}
    case = case_of("dropout")
    margins(case, judged, layers=("inputs", "gelu1"), aggregation=aggregation, **options)


@pytest.mark.parametrize("differentiate_norm", [False, True])
def test_large_margin(case: Case, judged: Callable[..., None], differentiate_norm: bool) -> None:
    if not case.has_classes:
        return
    options = {"scores": "probability", "norm": 2, "differentiate_norm": differentiate_norm, "top_k": 2}
    margins(case, judged, layers=("inputs", *case.layers), aggregation="min_distance", **options)


# --- L1 and elastic net: values, and proximal steps by their optimality ---


@pytest.mark.parametrize("biases", [True, False])
def test_penalties_on_the_weights(case: Case, judged: Callable[..., None], biases: bool) -> None:
    def both(w: Any, batch: Any) -> Array:
        return 0.3 * definitions.l1(w, batch, biases) + 0.7 * definitions.l2(w, batch, biases)

    rows: list[tuple[str, Penalty, Value]] = [
        ("L2", L2(biases=biases), lambda w, batch: definitions.l2(w, batch, biases)),
        ("L1", L1(method="subgradient", biases=biases), lambda w, batch: definitions.l1(w, batch, biases)),
        ("elastic net", ElasticNet(l1=0.3, l2=0.7, biases=biases), both),
    ]
    for method, ours, theirs in rows:
        judged(method, "JAX", case.name, *differences(case, ours, theirs))


@pytest.mark.parametrize("scale_by_lr", [True, False])
@pytest.mark.parametrize("method", ["L1", "elastic net"])
def test_proximal_step(judged: Callable[..., None], method: str, scale_by_lr: bool) -> None:
    """The step ends at z where 0 is a subgradient of (z - w)^2 / 2 + t |z| + lr l2 z^2."""
    weight, lr = 0.4, 0.25
    l1, l2 = (1.0, 0.0) if method == "L1" else (0.5, 1.5)
    threshold = weight * l1 * (lr if scale_by_lr else 1)
    ours = L1(scale_by_lr=scale_by_lr) if method == "L1" else ElasticNet(l1=l1, l2=l2, scale_by_lr=scale_by_lr)
    before = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    param = nn.Parameter(before.clone())
    ours.prox_([param], weight, lr)

    z, w = jnp.asarray(param.detach().numpy()), jnp.asarray(before.numpy())
    smooth = jax.grad(lambda z: ((z - w) ** 2 / 2 + lr * weight * l2 * z**2).sum())(z)
    assert 0 < (z == 0).mean() < 1
    assert bool((jnp.abs(smooth[z == 0]) <= threshold + 1e-15).all())
    worst = jnp.abs(smooth + threshold * jnp.sign(z))[z != 0].max()
    judged(f"{method}, proximal step", "JAX, optimality", "2,001 weights", float(worst))
