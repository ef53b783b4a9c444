"""What a penalty is: a term of the objective beyond the data loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from losses.forward import Forward


class Tangent(NamedTuple):
    """A direction in input space for each example, and the derivative wanted of the outputs along it."""

    direction: Tensor  # (B, *I)
    derivative: Tensor | float = 0.0  # (B, C), or one number for all


class Penalty(ABC):
    """A term of the objective, `objective = loss + sum_i weight_i * penalty_i`.

    Subclasses say what they need before the forward pass (`layers`, `tangent`), what they are worth after it
    (`__call__`), and, if they are not smooth, what they do to the parameters after the optimizer's step
    (`prox_`). They reach derivatives through `forward.vjp`, `forward.jvp` and `forward.loss_gradient` alone,
    so that the same class runs in a plain loop and under `torch.func`.

    The value is unweighted: mean over the batch, sum over outputs and inputs, no factor 1/2. The loop
    multiplies.

    Args:
        weight: coefficient in the objective, >= 0. With 0 the penalty is not evaluated at all.
        every: evaluate at each `every`-th step only, with `every` times the weight (unbiased in expectation),
            >= 1.
        warmup: epochs over which the weight grows linearly from 0 to `weight`, >= 0.

    Raises:
        ValueError: for a value out of range.
    """

    layers: tuple[str, ...] = ()  # activations to record in the forward pass
    in_objective: bool = True  # False: acts through `prox_`; its value is reported, not differentiated
    of_weights: bool = False  # depends on the weights alone: counts once per step, whatever the batches
    per_example: bool = False  # differentiates each example by itself: wrong where batch norm mixes them
    tolerates_batch_norm: bool = False  # per example, but its reference uses batch norm all the same: a warning
    prefers_contiguous: bool = False  # slower channels last: the double backward of max-pooling leaves that layout
    wants_smooth: bool = False  # shapes slopes, which a piecewise linear model cannot bend: a warning

    def __init__(self, weight: float = 1.0, every: int = 1, warmup: float = 0.0) -> None:
        at_least("weight", weight, 0)
        at_least("every", every, 1)
        at_least("warmup", warmup, 0)
        self.weight, self.every, self.warmup = weight, every, warmup

    def weight_at(self, epoch: float) -> float:
        """Return the coefficient in force after `epoch` epochs (a fraction within one)."""
        return self.weight * min(1.0, epoch / self.warmup) if self.warmup else self.weight

    def tangent(self, inputs: Tensor, generator: Generator | None) -> Tangent | None:
        """Return the tangent to carry through the forward pass, which makes J t cost no second one."""
        return None

    @abstractmethod
    def __call__(self, forward: Forward) -> Tensor:
        """Return the unweighted value, a scalar that can be differentiated by the parameters."""

    def prox_(self, params: Iterable[Tensor], weight: float, lr: float) -> None:  # noqa: B027 (most do nothing)
        """Apply the proximal operator in place, after the optimizer's step, to one parameter group."""

    def statistics(self) -> dict[str, Tensor]:
        """Return further scalars of the last value worth a record, by name."""
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
    return tensor.square().flatten(1).sum(1)


def total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of scalar tensors; unlike `sum`, it starts from the first and not from the integer 0."""
    return torch.stack(list(terms)).sum()
