"""Losses and errors of a trained model on a split of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data import Split

BATCH = 500  # examples; fixed, since the bits of a sum depend on it


@dataclass(frozen=True)
class Evaluation:
    """The model's outputs (N, C) and losses (N,) on a split; `error` is None for a regression."""

    outputs: Tensor
    losses: Tensor
    loss: float
    error: float | None

    def metrics(self, split: str) -> dict[str, float]:
        """Return loss and error under their tags."""
        error = {} if self.error is None else {f"{split}/error": self.error}
        return {f"{split}/loss": self.loss, **error}


@torch.no_grad()
def evaluate(
    model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], split: Split, classes: int | None
) -> Evaluation:
    """Return outputs and losses of all examples, their mean loss and the fraction of wrong classes."""
    model.eval()
    outputs = torch.cat([model(batch) for batch in split.inputs.split(BATCH)])
    losses = criterion(outputs, split.targets)
    error = None if classes is None else (outputs.argmax(1) != split.targets).double().mean().item()
    return Evaluation(outputs, losses, losses.double().mean().item(), error)
