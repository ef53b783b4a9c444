"""The value of a penalty, also in a run that is trained without it."""

import torch
from torch import Tensor

from data import Split
from losses import EagerForward, Penalty
from runner.evaluation.evaluate import BATCH
from runner.evaluation.probes import Probe, Subject


class PenaltyValue(Probe):
    """The unweighted value of a penalty on the training and on the test examples: `train`, `test`.

    The mean over the examples, the model in evaluation mode: exact if the penalty is (`projections: null` of a
    Jacobian), else from random directions that are the same at each evaluation. A penalty on the weights alone has one
    value, the same twice. One that is of a batch as a whole (`WeightGradient`) is the mean over batches of 500.

    Args:
        penalty: with its own options; `weight`, `every` and `warmup` are none of them.
        examples: how many examples of each split, the first ones (>= 1; null: all).

    Raises:
        ValueError: penalty is not one.
    """

    def __init__(self, penalty: Penalty, examples: int | None = None) -> None:
        super().__init__(examples)
        if not isinstance(penalty, Penalty):
            raise ValueError(f"penalty must name a class of penalties by _target_, got {penalty}")
        self.penalty = penalty

    def __call__(self, subject: Subject) -> dict[str, float | Tensor]:
        splits = {"train": subject.dataset.train, "test": subject.dataset.test}
        return {name: self.value(subject, split[: self.examples]) for name, split in splits.items()}

    def value(self, subject: Subject, split: Split) -> float:
        """Return the mean value on a split."""
        values, penalty = [], self.penalty
        for inputs, targets in zip(split.inputs.split(BATCH), split.targets.split(BATCH), strict=True):
            forward = EagerForward(subject.model, subject.criterion, inputs, targets, [penalty], subject.generator)
            value = penalty(forward).detach().double()
            values.append(value.expand(len(inputs)))  # a scalar counts as often as its batch has examples
            if penalty.of_weights:
                break
        return torch.cat(values).mean().item()
