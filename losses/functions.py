"""Derivatives for a loop of one's own, each example's own: `jacobian(model, x)` and what belongs to it.

They call the model once for each chunk of examples, in the mode in which it is; the first time also with two examples,
which leaves no trace and shows whether examples mix (batch norm in training mode): that is refused.

Arguments that they share:
    model: gives outputs (B, *O); dropout has one mask for all that is computed of an example.
    x: (B, *I), or a tuple or a dict of such, given to the model by position or by name.
    at: by what it is differentiated: "inputs", one of several inputs ("inputs.NAME", "inputs.0"), or a layer, such as
        the embedding of token ids; *I is then the shape of that.
    output: which of several outputs: a key, an index, the name of an attribute (null: there is one tensor).
    create_graph: have the result differentiable by the weights.
    chunk: examples at a time, which bounds the memory (null: all).

All raise ValueError, in one sentence, if examples mix, or torch cannot differentiate the model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils._pytree import tree_map

from .eager import EagerForward, as_module
from .forward import Inputs, points_of
from .functional import FunctionalForward
from .gradients import InputGradient
from .jacobian import unit_vectors
from .known import WRONG, known_of
from .passes import undisturbed
from .penalty import positive_or_null, squared_norm

Model = nn.Module | Callable[..., Any]
Criterion = Callable[[Tensor, Tensor], Tensor]
Output = str | int | None


def jacobian(
    model: Model,
    x: Inputs,
    *,
    at: str = "inputs",
    output: Output = None,
    create_graph: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Return each example's Jacobian d model(x)_n / d x_n, (B, *O, *I): (B, C, D) for outputs (B, C) of inputs (B, D).

    It takes a reverse pass for each of the outputs.
    """

    def rows(forward: EagerForward) -> Tensor:
        products = [forward.vjp(unit, (at,), create_graph=create_graph)[0] for unit in unit_vectors(forward.outputs)]
        return torch.stack(products, 1).reshape(*forward.outputs.shape, *forward.point(at).shape[1:])

    return torch.cat([rows(forward) for forward in _Passes(model, _no_losses, x, x, at, output).of_chunks(chunk)])


def jacobian_norm(
    model: Model,
    x: Inputs,
    *,
    at: str = "inputs",
    output: Output = None,
    create_graph: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Return the squared Frobenius norm of each example's Jacobian, (B,): what `Jacobian(projections=None)` penalises.

    As `jacobian`, with one row of the Jacobians held at a time.
    """

    def norms(forward: EagerForward) -> Tensor:
        rows = (forward.vjp(unit, (at,), create_graph=create_graph)[0] for unit in unit_vectors(forward.outputs))
        return reduce(torch.add, map(squared_norm, rows))

    return torch.cat([norms(forward) for forward in _Passes(model, _no_losses, x, x, at, output).of_chunks(chunk)])


def input_gradients(
    model: Model,
    criterion: Criterion,
    x: Inputs,
    y: Tensor,
    *,
    at: str = "inputs",
    output: Output = None,
    create_graph: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Return the gradient of each example's own loss by its input, d l_n / d x_n, (B, *I).

    Args:
        criterion: (outputs, targets) -> losses (B,).
        y: targets, with a row for each example.
    """

    def gradients(forward: EagerForward) -> Tensor:
        return forward.vjp(forward.loss_gradient(), (at,), create_graph=create_graph)[0]

    return torch.cat([gradients(forward) for forward in _Passes(model, criterion, x, y, at, output).of_chunks(chunk)])


def tangent_derivative(
    model: Model,
    x: Inputs,
    t: Tensor,
    *,
    at: str = "inputs",
    output: Output = None,
    create_graph: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Return the derivative of each example's outputs along its direction, J(x_n) t_n, (B, *O).

    Args:
        t: directions, (B, *I).
    """

    def along(forward: EagerForward) -> Tensor:
        point, directions = forward.point(at), forward.targets
        if directions.shape != point.shape:
            raise ValueError(f"t must have rows of shape {tuple(point.shape[1:])}, got {tuple(directions.shape[1:])}")
        return forward.jvp(directions, create_graph=create_graph, at=at)

    return torch.cat([along(forward) for forward in _Passes(model, _no_losses, x, t, at, output).of_chunks(chunk)])


def per_example_gradients(
    model: Model,
    criterion: Criterion,
    x: Inputs,
    y: Tensor,
    *,
    output: Output = None,
    create_graph: bool = False,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """Return the gradient of each example's own loss by each trained parameter, name -> d l_n / d w, (B, *w).

    Their sum is the gradient of `losses.sum()`, with the same draw of dropout. Memory: B times the parameters.
    By `torch.func.vmap` where two examples show that it gives the same, else by a reverse pass over the chunk for each
    of its examples: a chunk of 8 is then much quicker than all.

    Args:
        criterion, y: as in `input_gradients`.
    """
    passes = _Passes(model, criterion, x, y, "inputs", output)
    compute = passes.mapped if passes.maps_rightly() else passes.one_by_one
    parts = [compute(some, targets, create_graph) for some, targets in passes.chunks(chunk)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else parts[0]


class Derivative(InputGradient):
    """What these functions ask of a pass: that each example can be differentiated by itself."""


@dataclass
class _Passes:
    """The passes that a function makes, for some of its examples at a time."""

    model: Model
    criterion: Criterion
    x: Inputs
    y: Any
    at: str
    output: Output

    def __post_init__(self) -> None:
        self.module = as_module(self.model)
        first = next(iter(points_of(self.x).values()))
        self.rows, self.device = len(first), first.device
        if not self.rows or len(self.y if isinstance(self.y, Tensor) else first) != self.rows:
            raise ValueError(f"x and what goes with it must have as many rows, at least one, got {self.rows} of x")
        if not known_of(self.module).apart:
            self.look()

    def look(self) -> None:
        """Raise ValueError, in one sentence, if examples mix, which a chunk of one would not show."""
        known, two = known_of(self.module), self.some([0, -1])
        with undisturbed(self.module, self.device):
            outputs = self.make(*two).outputs
        if known.apart is None:  # token ids: nothing to differentiate by
            with undisturbed(self.module, self.device):
                same = self.make(*self.some([0, 0])).outputs
            known.apart = torch.allclose(outputs[0], same[0], rtol=1e-4, atol=1e-6)
            with undisturbed(self.module, self.device):
                self.make(*two)

    def make(self, x: Inputs, y: Any) -> EagerForward:
        return EagerForward(self.module, self.criterion, x, y, [Derivative(at=self.at)], output=self.output)

    def some(self, rows: list[int] | slice) -> tuple[Inputs, Any]:
        return tree_map(lambda tensor: tensor[rows], (self.x, self.y))

    def chunks(self, chunk: int | None) -> Iterator[tuple[Inputs, Any]]:
        positive_or_null("chunk", chunk)
        size = chunk or self.rows
        return (self.some(slice(start, start + size)) for start in range(0, self.rows, size))

    def of_chunks(self, chunk: int | None) -> Iterator[EagerForward]:
        return (self.make(*some) for some in self.chunks(chunk))

    def maps_rightly(self) -> bool:
        """Tell whether vmap gives two examples' gradients; what a reverse pass has lost is then told, too."""
        two = self.some([0, -1])
        with undisturbed(self.module, self.device):
            theirs = self.one_by_one(*two, create_graph=False)
        try:
            with undisturbed(self.module, self.device):
                ours = self.mapped(*two, create_graph=False)
        except Exception:  # vmap forbids much that users write, and says so by errors of all kinds
            return False
        noise = 1e-5 * max(one.norm() for one in theirs.values())
        return all((ours[name] - one).norm() <= WRONG * one.norm() + noise for name, one in theirs.items())

    def mapped(self, x: Inputs, y: Tensor, create_graph: bool) -> dict[str, Tensor]:
        def loss(params: dict[str, Tensor], *example: Any) -> Tensor:
            inputs, targets = tree_map(lambda tensor: tensor[None], example)
            return FunctionalForward(self.module, params, self.criterion, inputs, targets, output=self.output).losses[0]

        params: dict[str, Tensor] = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        if not create_graph:
            params = {name: param.detach() for name, param in params.items()}
        return vmap(grad(loss), (None, 0, 0), randomness="different")(params, x, y)

    def one_by_one(self, x: Inputs, y: Tensor, create_graph: bool) -> dict[str, Tensor]:
        forward = self.make(x, y)
        slopes, names = forward.loss_gradient(), tuple(forward.params)
        if not names:
            raise ValueError("model must have parameters that require a gradient, got none: give the module itself")

        def of_example(n: int) -> tuple[Tensor, ...]:
            cotangent = torch.zeros_like(slopes)
            cotangent[n] = slopes[n]
            return forward.vjp(cotangent, names, create_graph=create_graph)

        columns = zip(*map(of_example, range(len(slopes))), strict=True)
        return {name: torch.stack(column) for name, column in zip(names, columns, strict=True)}


def _no_losses(outputs: Tensor, targets: Any) -> Tensor:
    return outputs.flatten(1).sum(1) if outputs.ndim > 1 else outputs
