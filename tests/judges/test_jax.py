"""Every penalty, its value and its gradient by the parameters, against JAX: definitions.py on networks.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import definitions
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from definitions import Judge, Value
from jax import Array
from networks import CASES, SEED, Case, Weights, case_of
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
SAMPLE = ("mlp", "in_place")  # JAX compiles each network for long
NETWORKS = [pytest.param(name, marks=[pytest.mark.sample] * (name in SAMPLE)) for name in CASES]


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


def difference(found: dict[str, Tensor], expected: Weights) -> float:
    """Return the norm of the difference of two gradients, relative to that of the expected one."""
    assert found.keys() == expected.keys()
    ours = np.concatenate([found[name].detach().numpy().ravel() for name in found])
    theirs = np.concatenate([np.asarray(expected[name]).ravel() for name in found])
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def differences(case: Case, penalty: Penalty, expected: Array, by_weights: Weights) -> tuple[float, float]:
    """Return the largest relative differences of value and gradient, of both forward passes."""
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
    theirs: Callable[[Judge], Value]
    suits: Callable[[Judge], bool] = lambda judge: True


def size_of(judge: Judge, name: str) -> int:
    """Return the number of components of the inputs, the outputs or a layer."""
    return judge.derivatives.by[name].shape[2] if name != "outputs" else judge.derivatives.outputs.shape[1]


def drawn(judge: Judge, of: str, count: int, noise: str) -> Array:
    """Return the directions (B, size, n) that the library is to draw: sum_i v_i v_i^T = I in expectation."""
    size = size_of(judge, of)
    shape = (len(judge.targets), size, count)
    v = torch.randn(shape, dtype=torch.float64, generator=Generator().manual_seed(DRAWS)).numpy()
    if noise == "rademacher":
        return jnp.asarray(np.where(v > 0, 1.0, -1.0) / math.sqrt(count))
    if noise == "sphere":
        return jnp.asarray(v / np.sqrt((v**2).sum(1, keepdims=True)) * math.sqrt(size / count))
    return jnp.asarray(np.linalg.qr(v)[0] * math.sqrt(size / count))


def estimator(noise: str, count: int, mode: str, layer: int | None = None, default: bool = False) -> Row:
    """Return the row of random directions, in output space (reverse) or input space (forward), of a layer or not."""

    def name(case: Case) -> str:
        return "outputs" if layer is None else case.layers[layer]

    def ours(case: Case) -> Penalty:
        options: Any = {} if default else {"noise": noise}
        return Jacobian(projections=count, mode=mode, of=name(case), **options)  # type: ignore[arg-type]

    def theirs(judge: Judge) -> Value:
        of = name(judge.case)
        if mode == "reverse":
            return definitions.jacobian_projected(drawn(judge, of, count, noise), of)
        return definitions.jacobian_pushed(drawn(judge, "inputs", count, noise), of)

    def suits(judge: Judge) -> bool:
        of = name(judge.case)
        return of in judge.derivatives.of and size_of(judge, of if mode == "reverse" else "inputs") > count

    what = "Jacobian" if layer is None else "Jacobian of a layer"
    return Row(f"{what}, {count} {noise}{', forward mode' * (mode == 'forward')}", ours, theirs, suits)


def power_iterated(judge: Judge) -> Value:
    """||u^T J||^2 after three steps u <- J J^T u, normalised, from a random u, which is then held constant."""
    u, rows = drawn(judge, "outputs", 1, "sphere")[:, :, 0], judge.derivatives.of["outputs"]
    for _ in range(3):
        u = jnp.einsum("ncd,ned,ne->nc", rows, rows, u)
        u /= jnp.linalg.norm(u, axis=1, keepdims=True)
    return definitions.jacobian_projected(u[:, :, None])


def tangents_of(judge: Judge) -> tuple[Array, Array]:
    """Return tangents (B, K, *I) and the derivatives wanted (B, K, C)."""
    case = judge.case
    tangents = case.tangents(case.inputs).transpose(0, 1)
    wanted = case.tangents.derivatives_at(case.inputs)
    shape = (*tangents.shape[:2], size_of(judge, "outputs"))
    wanted = torch.zeros(shape).double() if wanted is None else wanted.transpose(0, 1)
    return jnp.asarray(tangents.numpy()), jnp.asarray(wanted.numpy())


def mixed_tangents(judge: Judge) -> Value:
    """||J sum_k e_k t_k - sum_k e_k K_k||^2 with the signs that the library is to draw; for one tangent no sign."""
    tangents, wanted = tangents_of(judge)
    batch, count = tangents.shape[:2]
    bits = torch.randint(2, (count, batch), generator=Generator().manual_seed(DRAWS))
    signs = jnp.asarray((2 * bits - 1).T.numpy(), float) if count > 1 else jnp.ones((batch, 1))
    mixed = jnp.einsum("nk,nk...->n...", signs, tangents)[:, None]
    return definitions.tangent_prop(mixed, jnp.einsum("nk,nkc->nc", signs, wanted)[:, None])


ROWS = [
    Row("Jacobian, exact", lambda case: Jacobian(projections=None), lambda judge: definitions.jacobian()),
    *(
        Row(
            "Jacobian of a layer, exact",
            lambda case, i=i: Jacobian(projections=None, of=case.layers[i]),
            lambda judge, i=i: definitions.jacobian(judge.case.layers[i]),
            lambda judge, i=i: judge.case.layers[i] in judge.derivatives.of,
        )
        for i in (0, 1)
    ),
    estimator("rademacher", 1, "reverse", default=True),
    estimator("rademacher", 3, "reverse"),
    estimator("sphere", 1, "reverse"),
    estimator("sphere", 2, "reverse"),
    estimator("orthonormal", 1, "reverse"),
    estimator("orthonormal", 2, "reverse", default=True),
    estimator("rademacher", 1, "reverse", layer=0),
    estimator("orthonormal", 3, "reverse", layer=1),
    estimator("rademacher", 1, "forward"),
    estimator("orthonormal", 2, "forward"),
    estimator("sphere", 2, "forward", layer=0),
    Row("Jacobian spectral, exact", lambda case: JacobianSpectral(), lambda judge: definitions.jacobian_spectral),
    Row("Jacobian spectral, 3 iterations", lambda case: JacobianSpectral(iterations=3), power_iterated),
    Row("input gradient", lambda case: InputGradient(), lambda judge: definitions.loss_gradient(judge, ["inputs"])),
    Row(
        "activation gradient",
        lambda case: ActivationGradient(layers=case.layers),
        lambda judge: definitions.loss_gradient(judge, judge.case.layers),
    ),
    Row(
        "activation gradient, of the batch",
        lambda case: ActivationGradient(layers=case.layers, reduction="batch"),
        lambda judge: definitions.batch_gradient(judge, judge.case.layers),
    ),
    Row(
        "tangent prop, exact",
        lambda case: TangentProp(tangents=case.tangents, exact=True),
        lambda judge: definitions.tangent_prop(*tangents_of(judge)),
    ),
    Row("tangent prop, random signs", lambda case: TangentProp(tangents=case.tangents), mixed_tangents),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_value_and_gradient(name: str, judged: Callable[..., None]) -> None:
    """All in one test, so that one process compiles the derivatives of a network."""
    judge = Judge(case_of(name))
    rows = [row for row in ROWS if row.suits(judge)]
    expected = judge.values_and_gradients([row.theirs(judge) for row in rows])
    for row, found in zip(rows, expected, strict=True):
        judged(row.method, "JAX", judge.case.name, *differences(judge.case, row.ours(judge.case), *found))
    if judge.case.has_classes:
        options = {"layers": ("inputs", *judge.case.layers), "aggregation": "min_distance", "scores": "probability"}
        compare_margins(judge, judged, [{**options, "norm": 2, "differentiate_norm": flag} for flag in (False, True)])


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_gradient(name: str, judged: Callable[..., None]) -> None:
    judge = Judge(case_of(name))
    found = jax.jit(jax.value_and_grad(judge.weight_gradient))(judge.weights)
    judged("weight gradient", "JAX", judge.case.name, *differences(judge.case, WeightGradient(), *found))


# --- large margin ---


def compare_margins(judge: Judge, judged: Callable[..., None], options: list[dict[str, Any]]) -> None:
    """Compare with margins and clips that some distances lie below, some between, some above."""
    options = [{"top_k": 2, "eps": 0.01, **option} for option in options]
    distances = [
        definitions.distances(judge, **{name: value for name, value in option.items() if name != "aggregation"})
        for option in options
    ]
    found = jax.jit(lambda derivatives: [function(derivatives) for function in distances])(judge.derivatives)
    options = [{**option, **clip_amid(np.asarray(values))} for option, values in zip(options, found, strict=True)]
    theirs = [
        definitions.large_margin(function, option["aggregation"], option["gamma"], option["alpha"])
        for function, option in zip(distances, options, strict=True)
    ]
    for option, expected in zip(options, judge.values_and_gradients(theirs), strict=True):
        what = f"large margin, norm {'differentiated' if option['differentiate_norm'] else 'held constant'}"
        ours = differences(judge.case, LargeMargin(**option), *expected)
        judged(what, "JAX", judge.case.name, *ours)


def clip_amid(distances: np.ndarray) -> dict[str, float]:
    """Return gamma and alpha with three distances below the clip and three above; no mean of two is an end of it."""
    found = np.sort(distances.ravel())
    low, gamma = 0.3 * found[2] + 0.7 * found[3], 0.3 * found[-3] + 0.7 * found[-4]
    assert low < gamma
    assert gamma > 0
    return {"gamma": gamma, "alpha": 1 - low / gamma}


def test_large_margin_in_all_its_options(judged: Callable[..., None]) -> None:
    aggregations = ("min_distance", "sum_of_hinges", "mean_distance")
    names = ("scores", "aggregation", "norm", "differentiate_norm")
    choices = product(definitions.SCORES, aggregations, definitions.DUAL_NORMS, (False, True))
    options = [{"layers": ("inputs", "gelu1"), **dict(zip(names, choice, strict=True))} for choice in choices]
    compare_margins(Judge(case_of("dropout")), judged, options)


# --- penalties on the weights: values, and proximal steps by their optimality ---


@pytest.mark.sample
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("name", ["mlp", "mnist_convnet", "batch_norm"])
def test_penalties_on_the_weights(name: str, judged: Callable[..., None], biases: bool) -> None:
    judge = Judge(case_of(name))
    rows: list[tuple[str, Penalty, float, float]] = [
        ("L2", L2(biases=biases), 0, 1),
        ("L1", L1(method="subgradient", biases=biases), 1, 0),
        ("elastic net", ElasticNet(l1=0.3, l2=0.7, biases=biases), 0.3, 0.7),
    ]
    values = jax.jit(lambda w: (definitions.l1(w, biases), definitions.l2(w, biases)))(judge.weights)
    slopes = jax.jit(lambda w: (jax.grad(definitions.l1)(w, biases), jax.grad(definitions.l2)(w, biases)))
    by_l1, by_l2 = slopes(judge.weights)
    for method, ours, l1, l2 in rows:
        expected = l1 * values[0] + l2 * values[1]
        gradient = {name: l1 * by_l1[name] + l2 * by_l2[name] for name in by_l1}
        judged(method, "JAX", judge.case.name, *differences(judge.case, ours, expected, gradient))


@pytest.mark.sample
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
