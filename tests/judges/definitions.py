"""The penalties in JAX, from their definitions: whole Jacobians and gradients of one example, no products.

Each takes the weights and a batch (inputs, targets, masks of dropout) and returns the unweighted value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from networks import Network, Weights, activations

Batch = tuple[Array, Array, dict[str, Array]]
Value = Callable[[Weights, Batch], Array]


def mean_over_batch(of_example: Callable[..., Array], *extra: Array) -> Value:
    """Return the mean over the batch of a function of (w, x, target, masks, further rows of the example)."""

    def value(w: Weights, batch: Batch) -> Array:
        return jax.vmap(partial(of_example, w))(*batch, *extra).mean()

    return value


def cross_entropy(outputs: Array, target: Array) -> Array:
    return jnp.log(jnp.exp(outputs).sum()) - outputs[target]


def mean_squares(outputs: Array, target: Array) -> Array:
    return ((outputs - target) ** 2).mean()


def sum_of_squares(outputs: Array, target: Array) -> Array:
    return ((outputs - target) ** 2).sum()


LOSSES = {"CrossEntropy": cross_entropy, "MSE": mean_squares, "SumOfSquares": sum_of_squares}


def jacobian_of(net: Network, w: Weights, x: Array, masks: dict[str, Array], of: str = "outputs") -> Array:
    """Return J of one example, (C, D)."""
    return jax.jacrev(lambda x: activations(net, w, x, masks)[of].ravel())(x).reshape(-1, x.size)


def gradients_of(
    net: Network, w: Weights, x: Array, masks: dict[str, Array], layers: Sequence[str], scalar: Callable[[Array], Array]
) -> list[Array]:
    """Return the gradients of a scalar of the outputs by the inputs or layers, a layer's as that by what is added."""
    found = activations(net, w, x, masks)
    taps = {name: jnp.zeros_like(found[name]) for name in layers if name != "inputs"}

    def value(x: Array, taps: dict[str, Array]) -> Array:
        return scalar(activations(net, w, x, masks, taps)["outputs"])

    by_inputs, by_layers = jax.grad(value, (0, 1))(x, taps)
    return [by_inputs if name == "inputs" else by_layers[name] for name in layers]


# --- weights ---


def l2(w: Weights, batch: Batch, biases: bool = True) -> Array:
    return sum((v**2).sum() for v in w.values() if biases or v.ndim > 1)  # type: ignore[return-value]


def l1(w: Weights, batch: Batch, biases: bool = True) -> Array:
    return sum(jnp.abs(v).sum() for v in w.values() if biases or v.ndim > 1)  # type: ignore[return-value]


# --- Jacobians ---


def jacobian(net: Network, of: str = "outputs") -> Value:
    """||J||_F^2."""
    return mean_over_batch(lambda w, x, target, masks: (jacobian_of(net, w, x, masks, of) ** 2).sum())


def jacobian_projected(net: Network, directions: Array, of: str = "outputs") -> Value:
    """sum_i ||v_i^T J||^2, directions (B, C, n)."""

    def value(w: Weights, x: Array, target: Array, masks: Any, v: Array) -> Array:
        return ((v.T @ jacobian_of(net, w, x, masks, of)) ** 2).sum()

    return mean_over_batch(value, directions)


def jacobian_pushed(net: Network, directions: Array, of: str = "outputs") -> Value:
    """sum_i ||J t_i||^2, directions (B, D, n)."""

    def value(w: Weights, x: Array, target: Array, masks: Any, t: Array) -> Array:
        return ((jacobian_of(net, w, x, masks, of) @ t) ** 2).sum()

    return mean_over_batch(value, directions)


def jacobian_spectral(net: Network) -> Value:
    """sigma_1(J)^2."""

    def value(w: Weights, x: Array, target: Array, masks: Any) -> Array:
        return jnp.linalg.svd(jacobian_of(net, w, x, masks), compute_uv=False)[0] ** 2

    return mean_over_batch(value)


# --- gradients of the loss ---


def loss_gradient(net: Network, loss: Callable[[Array, Array], Array], layers: Sequence[str]) -> Value:
    """sum_l ||d loss / d h_l||^2; the layer "inputs" is the input."""

    def value(w: Weights, x: Array, target: Array, masks: Any) -> Array:
        found = gradients_of(net, w, x, masks, layers, lambda outputs: loss(outputs, target))
        return sum((gradient**2).sum() for gradient in found)  # type: ignore[return-value]

    return mean_over_batch(value)


def batch_gradient(net: Network, loss: Callable[[Array, Array], Array], layers: Sequence[str]) -> Value:
    """sum_l ||d mean loss / d h_l of the whole batch||^2."""

    def mean_loss(w: Weights, batch: Batch, taps: dict[str, Array]) -> Array:
        def one(x: Array, target: Array, masks: Any, taps: dict[str, Array]) -> Array:
            return loss(activations(net, w, x, masks, taps)["outputs"], target)

        return jax.vmap(one)(*batch, taps).mean()

    def value(w: Weights, batch: Batch) -> Array:
        found = jax.vmap(lambda x, target, masks: dict(activations(net, w, x, masks)))(*batch)
        taps = {name: jnp.zeros_like(found[name]) for name in layers}
        return sum((g**2).sum() for g in jax.grad(mean_loss, 2)(w, batch, taps).values())  # type: ignore[return-value]

    return value


def weight_gradient(net: Network, loss: Callable[[Array, Array], Array]) -> Value:
    """||d mean loss / d w||^2."""

    def value(w: Weights, batch: Batch) -> Array:
        mean_loss = mean_over_batch(lambda w, x, target, masks: loss(activations(net, w, x, masks)["outputs"], target))
        return sum((gradient**2).sum() for gradient in jax.grad(mean_loss)(w, batch).values())  # type: ignore

    return value


# --- tangents ---


def tangent_prop(net: Network, tangents: Array, wanted: Array) -> Value:
    """sum_k ||J t_k - K_k||^2, tangents (B, K, *I), wanted (B, K, C)."""

    def value(w: Weights, x: Array, target: Array, masks: Any, tangents: Array, wanted: Array) -> Array:
        products = jacobian_of(net, w, x, masks) @ tangents.reshape(len(tangents), -1).T  # (C, K)
        return ((products.T - wanted) ** 2).sum()

    return mean_over_batch(value, tangents, wanted)


# --- margins ---

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


def distances_of(
    net: Network, layers: Sequence[str], scores: str, top_k: int, norm: Any, differentiate_norm: bool, eps: float
) -> Callable[..., Array]:
    """Return a function of one example to its distances, (layers, top_k), nearest classes by score first."""

    def distances(w: Weights, x: Array, target: Array, masks: Any) -> Array:
        z = activations(net, w, x, masks)["outputs"]
        wrong = lax.top_k(jnp.where(jnp.arange(z.size) == target, -jnp.inf, lax.stop_gradient(z)), top_k)[1]

        def distance(i: Array) -> Array:
            def gap(z: Array) -> Array:
                return SCORES[scores](z)[target] - SCORES[scores](z)[i]

            norms = jnp.stack([DUAL_NORMS[norm](g) for g in gradients_of(net, w, x, masks, layers, gap)])
            return gap(z) / (eps + (norms if differentiate_norm else lax.stop_gradient(norms)))

        return jnp.stack([distance(wrong[k]) for k in range(top_k)], axis=1)

    return distances


def large_margin(
    net: Network, aggregation: str, gamma: float, alpha: float, **options: Any
) -> tuple[Value, Callable[..., Array]]:
    """gamma - clip(d, gamma (1 - alpha), gamma), mean over layers and batch; and the function of distances d."""
    distances = distances_of(net, **options)

    def value(w: Weights, x: Array, target: Array, masks: Any) -> Array:
        found = distances(w, x, target, masks)
        if aggregation != "sum_of_hinges":
            found = (found.min(1) if aggregation == "min_distance" else found.mean(1))[:, None]
        hinges = gamma - jnp.minimum(jnp.maximum(found, gamma * (1 - alpha)), gamma)
        return hinges.sum(1).mean()

    return mean_over_batch(value), distances
