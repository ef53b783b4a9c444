"""What a penalty is: a term of the objective beyond the data loss."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence

import torch
from torch import Tensor

from .forward import Forward, Tangent


class Penalty(ABC):
    """A term of the objective, `objective = losses.mean() + sum_i weight_i * penalty_i.mean()`.

    A subclass needs `__call__` alone: the value of each example. It may say what it needs before the forward pass
    (`layers`, `tangent`) and, if it is not smooth, what it does to the parameters after the optimizer's step
    (`prox_`). It reaches derivatives through `forward.vjp`, `forward.jvp` and `forward.loss_gradient`, and random
    numbers through `forward.normal` and `forward.signs`, so that the same class runs in a plain loop and under
    `torch.func`.

    The value is unweighted: sum over outputs and inputs, no factor 1/2. The loop takes the mean over the batch and
    multiplies by the weight.
    """

    layers: tuple[str, ...] = ()  # activations to record in the forward pass
    at: str = "inputs"  # the point of differentiation: the inputs, "inputs.NAME" of several, or one of `layers`
    in_objective: bool = True  # False: acts through `prox_`; its value is reported, not differentiated
    of_weights: bool = False  # depends on the weights alone: counts once per step, and calls neither vjp nor jvp
    per_example: bool = False  # differentiates each example by itself: wrong where batch norm mixes them
    holds_constant: bool = False  # its gradient leaves a part of the value out on purpose: not that of the value
    tolerates_batch_norm: bool = False  # per example, but its reference uses batch norm all the same: a warning
    prefers_contiguous: bool = False  # slower channels last: the double backward of max-pooling leaves that layout
    wants_smooth: bool = False  # shapes slopes, which a piecewise linear model cannot bend: a warning

    def tangent(self, forward: Forward) -> Tangent | None:
        """Return the tangent to carry through the forward pass, which makes J t cost no second one.

        Args:
            forward: before its pass: the inputs, the targets and the random numbers are there, the outputs are not.
        """
        return None

    @abstractmethod
    def __call__(self, forward: Forward) -> Tensor:
        """Return the unweighted value of each example, (B,), that can be differentiated by the parameters.

        A penalty on the weights, or on the batch as a whole, returns a scalar.
        """

    def prox_(  # noqa: B027 (most do nothing)
        self, params: Iterable[Tensor], weight: float | Tensor, lr: float | Tensor
    ) -> None:
        """Apply the proximal operator in place, after the optimizer's step, to one parameter group.

        Args:
            params: the group's parameters.
            weight: coefficient in force, >= 0; for a stack of models that of each, (K,).
            lr: the group's learning rate, > 0; for a stack (K,).
        """

    def statistics(self, mean: Callable[[Tensor], Tensor] = torch.mean) -> dict[str, Tensor]:
        """Return further scalars worth a record, of the last value, by name.

        Args:
            mean: over the examples, (B,) -> (), as `forward.mean`.
        """
        return {}


def at_least(name: str, value: float, low: float) -> None:
    """Raise ValueError, in one sentence, unless `value` is a finite number of at least `low`."""
    if not (math.isfinite(value) and value >= low):
        raise ValueError(f"{name} must be at least {low} and finite, got {value}")


def positive_or_null(name: str, value: int | None) -> None:
    """Raise ValueError, in one sentence, unless `value` is None or at least 1."""
    if value is not None and value < 1:
        raise ValueError(f"{name} must be positive or null, got {value}")


def one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    """Raise ValueError, in one sentence, unless `value` is among the allowed ones."""
    if value not in allowed:
        choices = ", ".join("null" if choice is None else str(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}, got {'null' if value is None else value}")


def squared_norm(tensor: Tensor) -> Tensor:
    """Return the squared norm of each example, (B, ...) -> (B,).

    Squared on purpose: the first derivative of sqrt(sum) and the second one of norm() are NaN at 0.
    """
    return square(tensor).flatten(1).sum(1) if tensor.ndim > 1 else square(tensor)


def square(tensor: Tensor) -> Tensor:
    """Return |x|^2 of each entry, real also of complex numbers."""
    return tensor.real.square() + tensor.imag.square() if tensor.is_complex() else tensor.square()


def of_layers(*points: str) -> tuple[str, ...]:
    """Return those of some points that are layers, each once."""
    return tuple(dict.fromkeys(name for name in points if name != "outputs" and not is_input(name)))


def total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors of one shape; unlike `sum`, it starts from the first and not from the integer 0."""
    return torch.stack(list(terms)).sum(0)


def declared_tangents(penalties: Sequence[Penalty], forward: Forward) -> dict[Hashable, Tangent]:
    """Ask each penalty, in order, for the tangent that it wants carried through the pass."""
    declared = {penalty: penalty.tangent(forward) for penalty in penalties}
    return {penalty: tangent for penalty, tangent in declared.items() if tangent is not None}


def any_differentiates(penalties: Sequence[Penalty]) -> bool:
    """Tell whether one of the penalties asks for more than the losses; those on the weights alone do not."""
    return any(not penalty.of_weights or penalty.layers for penalty in penalties)


def layers_of(penalties: Sequence[Penalty]) -> tuple[str, ...]:
    """Return the layers that the penalties ask for, each once, without the inputs."""
    return tuple(dict.fromkeys(name for p in penalties for name in p.layers if not is_input(name)))


def is_input(name: str) -> bool:
    """Tell whether a point is the inputs, or one of several, "inputs.NAME"."""
    return name == "inputs" or name.startswith("inputs.")
