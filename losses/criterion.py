"""Criteria: the data loss of each example. B batch, C outputs.

    losses = CrossEntropy()(outputs, targets)     # (B, C), (B,) -> (B,)
    losses.mean().backward()

All work in any float type, in forward mode, under `torch.func`, and can be differentiated twice (the
absolute error and the hinges have second derivative 0 where they have one).
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


class Criterion(ABC):
    """The data loss of each example: (outputs (B, C), targets) -> losses (B,).

    A subclass computes `losses` and says in `targets` what its targets are: "classes", integers (B,) from 0 to
    C - 1, or "values", numbers (B, C). `wants_log_probabilities` tells that the outputs must be log-probabilities.

    Raises:
        ValueError: when called, outputs or targets of another shape or kind. Nothing is broadcast: (B,)
            against (B, 1) would silently compare all pairs.
    """

    targets: ClassVar[Literal["classes", "values"]]
    wants_log_probabilities: ClassVar[bool] = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        expected = outputs.shape[:1] if self.targets == "classes" else outputs.shape
        if outputs.dim() != 2 or targets.shape != expected:
            form = "(B,)" if self.targets == "classes" else "(B, C)"
            raise ValueError(
                f"{type(self).__name__} takes outputs (B, C) and targets {form} of equal sizes, "
                f"got {tuple(outputs.shape)} and {tuple(targets.shape)}"
            )
        if targets.is_floating_point() != (self.targets == "values"):
            kind = "floating-point values" if self.targets == "values" else "integer class numbers"
            raise ValueError(f"{type(self).__name__} takes {kind} as targets, got {targets.dtype}")
        return self.losses(outputs, targets)

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (B,), for outputs and targets whose shapes agree."""


class CrossEntropy(Criterion):
    """Cross-entropy of logits and classes, -sum_c q_c log softmax(outputs)_c.

    q is 1 for the target's class and 0 elsewhere, mixed with the uniform distribution for label smoothing:
    q_c = (1 - s) [c = target] + s / C.

    Args:
        label_smoothing: share s of the uniform distribution (at least 0, below 1).

    Raises:
        ValueError: label_smoothing outside its range.

    Source: EE-559, lecture 5.1; label smoothing: Szegedy et al. 2015, arXiv 1512.00567, section 7.
    """

    targets = "classes"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)


class NLL(Criterion):
    """Negative log-likelihood, -outputs[target], of outputs that are log-probabilities.

    The model must end in a log-softmax; then it equals `CrossEntropy` of the logits. On logits it has no minimum.

    Source: EE-559, lecture 5.1.
    """

    targets = "classes"
    wants_log_probabilities = True

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -of_class(outputs, targets).squeeze(-1)


class MSEOneHot(Criterion):
    """Mean squared error against one-hot targets, mean_c (outputs_c - [c = target])^2.

    The mean over the C components is `nn.MSELoss` on the (B, C) one-hot matrix, as in the source.

    Source: EE-559, lecture 5.1.
    """

    targets = "classes"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        one_hot = torch.zeros_like(outputs).scatter(-1, targets.unsqueeze(-1), 1.0)
        return (outputs - one_hot).square().mean(dim=-1)


class MSE(Criterion):
    """Mean squared error over the components, mean_c (outputs_c - targets_c)^2."""

    targets = "values"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(dim=-1)


class SumOfSquares(Criterion):
    """Squared error, summed over the components: sum_c (outputs_c - targets_c)^2."""

    targets = "values"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(dim=-1)


class AbsoluteError(Criterion):
    """Mean absolute error over the components, mean_c |outputs_c - targets_c| (torch's `nn.L1Loss`).

    Not to be confused with the penalty `L1`, of the weights.
    """

    targets = "values"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean(dim=-1)


class MultiMargin(Criterion):
    """Multi-class hinge, 1/C sum_{c != target} max(0, margin - outputs_target + outputs_c)^p.

    Args:
        margin: by how much the target's score shall exceed the others (positive, in units of the outputs).
        p: exponent, 1 or 2.

    Raises:
        ValueError: margin not positive and finite, or p neither 1 nor 2.

    Source: EE-559, lecture 5.1; torch's `nn.MultiMarginLoss`, written anew since that one has neither a
    second derivative nor a forward-mode one.
    """

    targets = "classes"

    def __init__(self, margin: float = 1.0, p: Literal[1, 2] = 1) -> None:
        if not 0 < margin < float("inf"):
            raise ValueError(f"margin must be positive and finite, got {margin}")
        if p not in (1, 2):
            raise ValueError(f"p must be 1 or 2, got {p}")
        self.margin, self.p = margin, p

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        hinges = torch.relu(self.margin - of_class(outputs, targets) + outputs)
        wrong = hinges.scatter(-1, targets.unsqueeze(-1), 0.0)
        return (wrong if self.p == 1 else wrong.square()).mean(dim=-1)


def of_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the output (B, 1) of each example's class."""
    return outputs.gather(-1, targets.unsqueeze(-1))
