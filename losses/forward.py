"""One forward pass, shared by the data loss and every penalty, and the linear maps that differentiate it.

Shapes, here and in all of `losses`: B batch, C outputs, D inputs, K tangents, *I one input, *H one hidden activation.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor


class Tangent(NamedTuple):
    """A direction in input space for each example, and the derivative wanted of the outputs along it."""

    direction: Tensor  # (B, *I)
    derivative: Tensor | float = 0.0  # (B, C), or one number for all


class Forward(ABC):
    """The record of one forward pass.

    Attributes:
        inputs: (B, *I).
        targets: (B,) class labels or (B, C) values.
        outputs: (B, C).
        losses: (B,), the criterion of each example.
        params: the model's trainable parameters by name.
        activations: layer name -> (B, *H), for the layers that some penalty asked for.
        tangents: penalty -> the tangent that it declared before the pass, when `inputs`, `targets` and the random
            numbers were there and all else was not.
        generator: the source of `normal` and `signs`, on the device of the inputs; None for torch's own.
    """

    inputs: Tensor
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
        return len(self.inputs)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the examples, or over whatever else there is: a scalar."""
        return values.mean()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the entries of a parameter, or of its gradient: a scalar."""
        return values.sum()

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
            at: points of differentiation: "inputs", names of recorded layers, names of parameters.
            of: what is differentiated: "outputs" or a recorded layer.
            create_graph: False for a value that is to be held constant (a stopped gradient).
        """

    @abstractmethod
    def jvp(self, direction: Tensor, of: str = "outputs", create_graph: bool = True) -> Tensor:
        """Return the Jacobian-vector products (d of / d x_n) t_n, shaped like `of`.

        Free for the direction of the first tangent in `tangents`; a forward-mode pass for any other.

        Args:
            direction: (B, *I).
            of: what is differentiated: "outputs" or a recorded layer.
            create_graph: False for a value that is to be held constant.
        """

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
        dtype = torch.promote_types(self.inputs.dtype, torch.float32)
        return torch.randn(size, dtype=dtype, device=self.inputs.device, generator=generator)

    def _signs(self, size: Sequence[int], generator: Generator | None) -> Tensor:
        bits = torch.randint(2, size, generator=generator, device=self.inputs.device)
        return (2 * bits - 1).to(self.inputs.dtype)
