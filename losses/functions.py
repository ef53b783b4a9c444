"""Derivatives for a loop of one's own, each example's own: `jacobian(model, x)` and what belongs to it.

They call the model once for each chunk of examples, in the mode in which it is; examples that mix (batch norm in
training mode) are refused. Pass `create_graph=True` to differentiate the result by the weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .eager import EagerForward
from .gradients import InputGradient
from .jacobian import unit_vectors
from .penalty import squared_norm


def jacobian(model: nn.Module, x: Tensor, *, create_graph: bool = False, chunk: int | None = None) -> Tensor:
    """Return each example's Jacobian d model(x)_n / d x_n, (B, *O, *I): (B, C, D) for outputs (B, C) of inputs (B, D).

    Args:
        model: gives outputs (B, *O); called once for each chunk, so that dropout has one mask for all rows of it.
        x: (B, *I).
        create_graph: have the result differentiable by the weights.
        chunk: examples at a time, which bounds the memory of the graph (null: all).

    Raises:
        ValueError: the examples mix, or torch cannot differentiate the model.
    """

    def rows(some: Tensor) -> Tensor:
        forward = _pass(model, some)
        products = [forward.vjp(unit, create_graph=create_graph)[0] for unit in unit_vectors(forward.outputs)]
        return torch.stack(products, 1).view(*forward.outputs.shape, *some.shape[1:])

    return _in_chunks(rows, chunk, x)


def jacobian_norm(model: nn.Module, x: Tensor, *, create_graph: bool = False, chunk: int | None = None) -> Tensor:
    """Return the squared Frobenius norm of each example's Jacobian, (B,): what `Jacobian(projections=None)` penalises.

    One row of the Jacobians is held at a time. Arguments and errors as in `jacobian`.
    """

    def norms(some: Tensor) -> Tensor:
        forward = _pass(model, some)
        rows = (forward.vjp(unit, create_graph=create_graph)[0] for unit in unit_vectors(forward.outputs))
        return sum((squared_norm(row) for row in rows), some.new_zeros(len(some)))

    return _in_chunks(norms, chunk, x)


def input_gradients(
    model: nn.Module, criterion: Any, x: Tensor, y: Tensor, *, create_graph: bool = False, chunk: int | None = None
) -> Tensor:
    """Return the gradient of each example's own loss by its input, d l_n / d x_n, (B, *I).

    Args:
        criterion: (outputs, targets) -> losses (B,).
        y: targets, with a row for each example.
        Others, and errors, as in `jacobian`.
    """

    def gradients(some: Tensor, targets: Tensor) -> Tensor:
        forward = EagerForward(model, criterion, some, targets, [InputGradient()])
        return forward.vjp(forward.loss_gradient(), create_graph=create_graph)[0]

    return _in_chunks(gradients, chunk, x, y)


def tangent_derivative(
    model: nn.Module, x: Tensor, t: Tensor, *, create_graph: bool = False, chunk: int | None = None
) -> Tensor:
    """Return the derivative of each example's outputs along its direction, J(x_n) t_n, (B, *O).

    Args:
        t: directions, shaped like x.
        Others, and errors, as in `jacobian`.
    """
    if t.shape != x.shape:
        raise ValueError(f"t must be shaped like x, {tuple(x.shape)}, got {tuple(t.shape)}")
    return _in_chunks(lambda some, along: _pass(model, some).jvp(along, create_graph=create_graph), chunk, x, t)


def per_example_gradients(
    model: nn.Module, criterion: Any, x: Tensor, y: Tensor, *, chunk: int | None = None
) -> dict[str, Tensor]:
    """Return the gradient of each example's own loss by each trained parameter, name -> d l_n / d w, (B, *w).

    One pass and B reverse passes for each chunk, which is right on any model whose examples do not mix, and sees one
    draw of dropout; their sum is the gradient of `losses.sum()`. Memory: B times the parameters.

    Args:
        criterion, y: as in `input_gradients`; chunk: examples that share a pass (null: all).

    Raises:
        ValueError: as in `jacobian`.
    """
    parts: list[dict[str, Tensor]] = []
    for some, targets in zip(*(tensor.split(chunk or len(x)) for tensor in (x, y)), strict=True):
        forward = EagerForward(model, criterion, some, targets, [InputGradient()])
        unit, own = torch.eye(len(some), dtype=forward.outputs.dtype, device=some.device), []
        slopes = forward.loss_gradient()
        for row in unit:
            cotangent = slopes * row.view(-1, *[1] * (slopes.ndim - 1))
            own.append(forward.vjp(cotangent, tuple(forward.params), create_graph=False))
        parts.append(
            {name: torch.stack(column) for name, column in zip(forward.params, zip(*own, strict=True), strict=True)}
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _pass(model: nn.Module, x: Tensor) -> EagerForward:
    return EagerForward(model, lambda outputs, _: outputs.reshape(len(x), -1).sum(1), x, x, [InputGradient()])


def _in_chunks(compute: Callable[..., Tensor], chunk: int | None, *tensors: Tensor) -> Tensor:
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 or null, got {chunk}")
    parts = zip(*(tensor.split(chunk or len(tensor)) for tensor in tensors), strict=True)
    return torch.cat([compute(*part) for part in parts])
