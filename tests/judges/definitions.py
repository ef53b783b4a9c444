"""The penalties in JAX, from their definitions, by automatic differentiation.

A penalty is a function of outputs and whole Jacobians of a batch (`Derivatives`), which are functions of the weights:
JAX differentiates either. So the costly one is compiled once for each network. In single letters: B examples, C
outputs, D inputs, H components of a layer, K tangents, n directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from networks import Case, Weights, activations


class Derivatives(NamedTuple):
    """Outputs (B, C); their Jacobians by inputs and layers (B, C, H); Jacobians of layers by the inputs (B, H, D)."""

    outputs: Array
    by: dict[str, Array]
    of: dict[str, Array]


Value = Callable[[Derivatives], Array]


class Judge:
    """The derivatives of a case's network, and the gradients of what is made of them."""

    def __init__(self, case: Case) -> None:
        self.case, self.weights, (self.inputs, self.targets, self.masks) = case, case.weights, case.batch
        self.loss = LOSSES[type(case.criterion).__name__]

    def of_example(self, w: Weights, x: Array, masks: dict[str, Array]) -> Derivatives:
        net, shapes = self.case.net, activations(self.case.net, w, x, masks)
        taps = {name: jnp.zeros_like(shapes[name]) for name in self.case.layers}

        def outputs(x: Array, taps: dict[str, Array]) -> Array:
            return activations(net, w, x, masks, taps)["outputs"]

        by_inputs, by_layers = jax.jacrev(outputs, (0, 1))(x, taps)  # by a layer: by what is added to it
        by = {name: rows.reshape(len(rows), -1) for name, rows in {"inputs": by_inputs, **by_layers}.items()}

        small = [name for name in self.case.layers if shapes[name].size * x.size <= 100_000]
        of = {name: jax.jacrev(lambda x, name=name: activations(net, w, x, masks)[name].ravel())(x) for name in small}
        of = {name: rows.reshape(len(rows), -1) for name, rows in of.items()}
        return Derivatives(shapes["outputs"], by, {**of, "outputs": by["inputs"]})

    def of_batch(self, w: Weights) -> Derivatives:
        return jax.vmap(lambda x, masks: self.of_example(w, x, masks))(self.inputs, self.masks)

    @cached_property
    def derivatives(self) -> Derivatives:
        return jax.jit(self.of_batch)(self.weights)

    @cached_property
    def pullback(self) -> Callable[[Derivatives], Weights]:
        """Return what takes the gradient by the derivatives to that by the weights."""
        _, pull = jax.vjp(jax.jit(self.of_batch), self.weights)
        return jax.jit(lambda gradient: pull(gradient)[0])

    def values_and_gradients(self, values: Sequence[Value]) -> list[tuple[Array, Weights]]:
        """Return each value with its gradient by the weights; compiled together, which takes a third of the time."""
        found = jax.jit(lambda derivatives: [jax.value_and_grad(value)(derivatives) for value in values])
        return [(value, self.pullback(gradient)) for value, gradient in found(self.derivatives)]

    def weight_gradient(self, w: Weights) -> Array:
        """||d mean loss / d w||^2."""

        def mean_loss(w: Weights) -> Array:
            def one(x: Array, target: Array, masks: Any) -> Array:
                return self.loss(activations(self.case.net, w, x, masks)["outputs"], target)

            return jax.vmap(one)(self.inputs, self.targets, self.masks).mean()

        return jnp.stack([(gradient**2).sum() for gradient in jax.grad(mean_loss)(w).values()]).sum()


# --- losses of one example ---


def cross_entropy(outputs: Array, target: Array) -> Array:
    return jnp.log(jnp.exp(outputs).sum()) - outputs[target]


def mean_squares(outputs: Array, target: Array) -> Array:
    return ((outputs - target) ** 2).mean()


def sum_of_squares(outputs: Array, target: Array) -> Array:
    return ((outputs - target) ** 2).sum()


LOSSES = {"CrossEntropy": cross_entropy, "MSE": mean_squares, "SumOfSquares": sum_of_squares}


# --- of the weights ---


def l2(w: Weights, biases: bool = True) -> Array:
    return jnp.stack([(v**2).sum() for v in w.values() if biases or v.ndim > 1]).sum()


def l1(w: Weights, biases: bool = True) -> Array:
    return jnp.stack([jnp.abs(v).sum() for v in w.values() if biases or v.ndim > 1]).sum()


# --- of Jacobians ---


def jacobian(of: str = "outputs") -> Value:
    """||J||_F^2."""
    return lambda found: (found.of[of] ** 2).sum((1, 2)).mean()


def jacobian_projected(v: Array, of: str = "outputs") -> Value:
    """sum_i ||v_i^T J||^2, directions v (B, C, n)."""
    return lambda found: (jnp.einsum("bcn,bcd->bnd", v, found.of[of]) ** 2).sum((1, 2)).mean()


def jacobian_pushed(t: Array, of: str = "outputs") -> Value:
    """sum_i ||J t_i||^2, directions t (B, D, n)."""
    return lambda found: ((found.of[of] @ t) ** 2).sum((1, 2)).mean()


def jacobian_spectral(found: Derivatives) -> Array:
    """sigma_1(J)^2."""
    return (jnp.linalg.svd(found.of["outputs"], compute_uv=False)[:, 0] ** 2).mean()


def tangent_prop(tangents: Array, wanted: Array) -> Value:
    """sum_k ||J t_k - K_k||^2, tangents (B, K, *I), wanted (B, K, C)."""
    flat = tangents.reshape(*tangents.shape[:2], -1)
    return lambda found: ((jnp.einsum("bcd,bkd->bkc", found.of["outputs"], flat) - wanted) ** 2).sum((1, 2)).mean()


# --- of gradients of the loss ---


def loss_gradient(judge: Judge, points: Sequence[str]) -> Value:
    """mean_n sum_l ||d loss_n / d h_l||^2; the point "inputs" is the input."""

    def value(found: Derivatives) -> Array:
        slopes = jax.vmap(jax.grad(judge.loss))(found.outputs, judge.targets)
        gradients = [jnp.einsum("bc,bch->bh", slopes, found.by[name]) for name in points]
        return jnp.stack([(gradient**2).sum(1) for gradient in gradients]).sum(0).mean()

    return value


def batch_gradient(judge: Judge, points: Sequence[str]) -> Value:
    """sum_l ||d mean loss / d h_l||^2, h_l of the whole batch."""

    def value(found: Derivatives) -> Array:
        slopes = jax.grad(lambda outputs: jax.vmap(judge.loss)(outputs, judge.targets).mean())(found.outputs)
        gradients = [jnp.einsum("bc,bch->bh", slopes, found.by[name]) for name in points]
        return jnp.stack([(gradient**2).sum() for gradient in gradients]).sum()

    return value


# --- of margins ---

SCORES: dict[str, Callable[[Array], Array]] = {
    "probability": lambda z: jnp.exp(z) / jnp.exp(z).sum(),
    "logit": lambda z: z,
    "log_probability": lambda z: z - jnp.log(jnp.exp(z).sum()),
}
DUAL_NORMS: dict[Any, Callable[[Array], Array]] = {
    1: lambda g: jnp.abs(g).max(),
    2: lambda g: jnp.sqrt((g**2).sum()),
    "inf": lambda g: jnp.abs(g).sum() / g.size,
}


def distances(
    judge: Judge, layers: Sequence[str], *, scores: str, top_k: int, norm: Any, differentiate_norm: bool, eps: float
) -> Callable[[Derivatives], Array]:
    """(s_y - s_i) / (eps + ||d (s_y - s_i) / d h_l||_q) for the top_k wrong classes i, (B, layers, top_k)."""

    def of_example(z: Array, by: dict[str, Array], target: Array) -> Array:
        wrong = lax.top_k(jnp.where(jnp.arange(z.size) == target, -jnp.inf, lax.stop_gradient(z)), top_k)[1]

        def distance(i: Array) -> Array:
            def gap(z: Array) -> Array:
                return SCORES[scores](z)[target] - SCORES[scores](z)[i]

            norms = jnp.stack([DUAL_NORMS[norm](jax.grad(gap)(z) @ by[name]) for name in layers])
            return gap(z) / (eps + (norms if differentiate_norm else lax.stop_gradient(norms)))

        return jnp.stack([distance(wrong[k]) for k in range(top_k)], axis=1)

    return lambda found: jax.vmap(of_example)(found.outputs, found.by, judge.targets)


def large_margin(distances: Callable[[Derivatives], Array], aggregation: str, gamma: float, alpha: float) -> Value:
    """gamma - clip(d, gamma (1 - alpha), gamma), mean over layers and batch."""

    def value(found: Derivatives) -> Array:
        d = distances(found)
        if aggregation != "sum_of_hinges":
            d = (d.min(2) if aggregation == "min_distance" else d.mean(2))[:, :, None]
        hinges = gamma - jnp.minimum(jnp.maximum(d, gamma * (1 - alpha)), gamma)
        return hinges.sum(2).mean()

    return value
