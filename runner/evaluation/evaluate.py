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
    """The model's outputs (N, C) and losses (N,) on a split, and whose class is wrong (N,); None for a regression."""

    outputs: Tensor
    losses: Tensor
    wrong: Tensor | None

    @property
    def loss(self) -> float:
        """The mean loss."""
        return _mean(self.losses)

    @property
    def error(self) -> float | None:
        """The fraction of wrong classes."""
        return None if self.wrong is None else _mean(self.wrong)

    def metrics(self, split: str) -> dict[str, float]:
        """Return loss and error under their tags, and the mean loss of the right and of the wrong examples, if any."""
        if self.wrong is None:
            return {f"{split}/loss": self.loss}
        parts = {"right": self.losses[~self.wrong], "wrong": self.losses[self.wrong]}
        means = {f"{split}/loss_{name}": _mean(losses) for name, losses in parts.items() if len(losses)}
        return {f"{split}/loss": self.loss, f"{split}/error": _mean(self.wrong), **means}


@torch.no_grad()
def evaluate(
    model: nn.Module, criterion: Callable[[Tensor, Tensor], Tensor], split: Split, classes: int | None
) -> Evaluation:
    """Return outputs and losses of all examples, and whether their classes are wrong."""
    model.eval()
    outputs = torch.cat([model(batch) for batch in split.inputs.split(BATCH)])
    wrong = None if classes is None else outputs.argmax(1) != split.targets
    return Evaluation(outputs, criterion(outputs, split.targets), wrong)


def _mean(values: Tensor) -> float:
    return values.double().mean().item()
