"""The forward pass of a stack: K models of one shape, computed as one module, and trained side by side.

The module takes K * B examples, those of one model beside each other: rows k * B to (k + 1) * B belong to model k. No
example mixes with another, so a penalty of each example is the same formula, and its value (K * B,). What is of one
model, a mean over its examples or a sum over its weights, is (K,). A parameter is (K, *shape).
"""

from typing import Any

import torch
from torch import Tensor

from .eager import EagerForward


class StackedForward(EagerForward):
    """A forward pass of K models.

    Args:
        generator: a list, the source of the random numbers of each model.
        Others as in `EagerForward`.
    """

    generator: Any

    @property
    def batch_size(self) -> int:
        return self.rows // len(self.generator)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over each model's examples, (K,); what is of one model already, (K,), stays."""
        return values.reshape(len(self.generator), -1).mean(1)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the entries of each model's parameter, (K,)."""
        return values.flatten(1).sum(1)

    def normal(self, *shape: int) -> Tensor:
        return torch.cat([self._normal((self.batch_size, *shape), generator) for generator in self.generator])

    def signs(self, count: int) -> Tensor:
        return torch.cat([self._signs((count, self.batch_size), generator) for generator in self.generator], 1)
