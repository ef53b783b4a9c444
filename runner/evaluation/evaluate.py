"""Losses and errors of a trained model on a split of the data."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data import Split

MOST_OUTPUTS = 20  # whose errors are numbers of their own
BATCH = 500  # examples; fixed, since the bits of a sum depend on it


@dataclass(frozen=True)
class Evaluation:
    """The model's outputs (N, C) and losses (N,) on a split, and what is wrong with them.

    For classes `wrong` tells whose class is wrong (N,), for a regression `rmse` has an error for each output.
    """

    outputs: Tensor
    losses: Tensor
    wrong: Tensor | None
    rmse: Tensor | None = None

    @property
    def loss(self) -> float:
        """The mean loss."""
        return _mean(self.losses)

    @property
    def error(self) -> float | None:
        """The fraction of wrong classes."""
        return None if self.wrong is None else _mean(self.wrong)

    def metrics(self, split: str) -> dict[str, float]:
        """Return loss and error under their tags, and the mean loss of the right and of the wrong examples, if any.

        Of a regression with up to 20 outputs the error of each, too: the root of its mean square, in the data's units.
        """
        if self.wrong is None:
            errors = [] if self.rmse is None or len(self.rmse) > MOST_OUTPUTS else self.rmse.tolist()
            return {f"{split}/loss": self.loss, **{f"{split}/rmse/{i}": error for i, error in enumerate(errors)}}
        parts = {"right": self.losses[~self.wrong], "wrong": self.losses[self.wrong]}
        means = {f"{split}/loss_{name}": _mean(losses) for name, losses in parts.items() if len(losses)}
        return {f"{split}/loss": self.loss, f"{split}/error": _mean(self.wrong), **means}


@torch.no_grad()
def evaluate(
    model: nn.Module,
    criterion: Callable[[Tensor, Tensor], Tensor],
    split: Split,
    classes: int | None,
    unit: Tensor | float = 1.0,
) -> Evaluation:
    """Return outputs and losses of all examples, and whether their classes are wrong or by how many units they are."""
    model.eval()
    outputs = torch.cat([model(batch) for batch in split.inputs.split(BATCH)])
    losses = criterion(outputs, split.targets)
    if classes is not None:
        return Evaluation(outputs, losses, outputs.argmax(1) != split.targets)
    return Evaluation(outputs, losses, None, (outputs - split.targets).double().square().mean(0).sqrt() * unit)


def _mean(values: Tensor) -> float:
    return values.double().mean().item()
