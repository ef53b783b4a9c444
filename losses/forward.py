"""One forward pass, shared by the data loss and every penalty, and the linear maps that differentiate it.

Shapes, here and in all of `losses`: B batch, C outputs, D inputs, K tangents, *I one input, *H one hidden activation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

Inputs = Tensor | tuple | dict  # of a model: one tensor, or several by position or by name


def points_of(inputs: Inputs) -> dict[str, Tensor]:
    """Return the inputs by the name under which a penalty asks for them: "inputs", or "inputs.0" or "inputs.NAME"."""
    if isinstance(inputs, Tensor):
        return {"inputs": inputs}
    several = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    return {f"inputs.{name}": tensor for name, tensor in several}


def with_points(inputs: Inputs, points: Mapping[str, Tensor]) -> Inputs:
    """Return inputs of the same form with the tensors of `points`, named as by `points_of`."""
    if isinstance(inputs, Tensor):
        return points["inputs"]
    if isinstance(inputs, dict):
        return {name: points[f"inputs.{name}"] for name in inputs}
    return tuple(points[f"inputs.{index}"] for index in range(len(inputs)))


class Tangent(NamedTuple):
    """A direction in input space for each example, and the derivative wanted of the outputs along it."""

    direction: Tensor  # (B, *I)
    derivative: Tensor | float = 0.0  # (B, *O), or one number for all
    at: str = "inputs"  # or "inputs.NAME", one of several inputs


class Forward(ABC):
    """The record of one forward pass.

    Attributes:
        model: the module.
        inputs: (B, *I), or a tuple or a dict of such.
        targets: (B,) class labels or (B, C) values.
        outputs: (B, C), or of any shape (B, *O) where the criterion takes it.
        losses: (B,), the criterion of each example.
        params: the model's trainable parameters by name.
        activations: layer name -> (B, *H), for the layers that some penalty asked for.
        tangents: penalty -> the tangent that it declared before the pass, when `inputs`, `targets` and the random
            numbers were there and all else was not.
        generator: the source of `normal` and `signs`, on the device of the inputs; None for torch's own.
    """

    model: nn.Module
    inputs: Any
    targets: Tensor
    outputs: Tensor
    losses: Tensor
    params: dict[str, Tensor]
    activations: dict[str, Tensor]
    tangents: dict[Hashable, Tangent]
    generator: Generator | None

    @property
    def batch_size(self) -> int:
        """The number of examples B of which the objective takes the mean."""
        return self.rows

    @property
    def rows(self) -> int:
        """The number of rows of the inputs."""
        return len(self._first)

    @property
    def _first(self) -> Tensor:
        return self.inputs if isinstance(self.inputs, Tensor) else next(iter(points_of(self.inputs).values()))

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the examples, or over whatever else there is: a scalar."""
        return values.mean()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the entries of a parameter, or of its gradient: a scalar."""
        return values.sum()

    @abstractmethod
    def point(self, name: str) -> Tensor:
        """Return a point of differentiation: "inputs", "inputs.NAME", a recorded layer, a parameter, or "outputs"."""

    @abstractmethod
    def vjp(
        self,
        cotangent: Tensor,
        at: Sequence[str] = ("inputs",),
        of: str = "outputs",
        create_graph: bool = True,
    ) -> tuple[Tensor, ...]:
        """Return the vector-Jacobian products (d of / d point)^T cotangent, one tensor per point.

        At the inputs or a layer, row n is the derivative of example n alone, provided that the model does not
        mix examples; at a parameter it is the sum over the batch.

        Args:
            cotangent: shaped like `of`.
            at: points of differentiation: "inputs", or "inputs.NAME" for one of several (by position "inputs.0"), names
                of recorded layers, names of parameters.
            of: what is differentiated: "outputs" or a recorded layer.
            create_graph: False for a value that is to be held constant (a stopped gradient).
        """

    @abstractmethod
    def jvp(self, direction: Tensor, of: str = "outputs", create_graph: bool = True, at: str = "inputs") -> Tensor:
        """Return the Jacobian-vector products (d of / d point_n) t_n, shaped like `of`.

        Free for the direction of the first tangent in `tangents`. Any other takes two reverse passes, J t being the
        derivative of v^T J t by v; the first of them serves all directions, and the model is not called again.

        Args:
            direction: shaped like the point.
            of: what is differentiated: "outputs" or a recorded layer.
            create_graph: False for a value that is to be held constant.
            at: the point: "inputs", "inputs.NAME" or a recorded layer.
        """

    def power_step(self, direction: Tensor, scaled: Callable[[Tensor], Tensor], at: str = "inputs") -> Tensor:
        """Return J scaled(J^T v), held constant: a step of power iteration on J J^T.

        Args:
            direction: v, shaped like the outputs.
            scaled: changes lengths alone, so that nothing overflows on the way.
            at: the point by which J is taken.
        """
        return self.jvp(scaled(self.vjp(direction, (at,), create_graph=False)[0]), create_graph=False, at=at)

    @abstractmethod
    def loss_gradient(self) -> Tensor:
        """Return d losses / d outputs, (B, C), differentiable."""

    def normal(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, (B, *shape), in single precision or that of the inputs if it is higher."""
        return self._normal((self.batch_size, *shape), self.generator)

    def signs(self, count: int) -> Tensor:
        """Draw `count` signs for each example, +-1 with equal odds, (count, B)."""
        return self._signs((count, self.batch_size), self.generator)

    def _normal(self, size: Sequence[int], generator: Generator | None) -> Tensor:
        dtype = torch.promote_types(self._first.dtype, torch.float32)
        return torch.randn(size, dtype=dtype, device=self._first.device, generator=generator)

    def _signs(self, size: Sequence[int], generator: Generator | None) -> Tensor:
        bits = torch.randint(2, size, generator=generator, device=self._first.device)
        dtype = self._first.dtype if self._first.is_floating_point() else torch.float32
        return (2 * bits - 1).to(dtype)
