"""A penalty as a term of the objective: the penalty knows its formula, the term its coefficient."""

from dataclasses import dataclass

from losses import Penalty
from losses.penalty import at_least


@dataclass(frozen=True)
class Term:
    """One summand of `objective = loss.weight * mean loss + sum of weight * penalty`.

    Args:
        name: of the penalty in the config and in the record.
        penalty: what is added, or acts by its proximal step.
        weight: coefficient, >= 0. With 0 the penalty is not evaluated at all.
        every: evaluate at each `every`-th step only, with `every` times the weight (unbiased in expectation),
            >= 1; 1 for a proximal penalty.
        warmup: epochs over which the weight grows linearly from 0, >= 0.

    Raises:
        ValueError: for a value out of range.
    """

    name: str
    penalty: Penalty
    weight: float = 1.0
    every: int = 1
    warmup: float = 0.0

    def __post_init__(self) -> None:
        at_least("weight", self.weight, 0)
        at_least("every", self.every, 1)
        at_least("warmup", self.warmup, 0)
        if not self.penalty.in_objective and self.every != 1:
            raise ValueError(
                f"every must be 1 for a proximal penalty, got {self.every}: its step follows each step of the optimizer"
            )

    @property
    def is_proximal(self) -> bool:
        """Whether it acts by a proximal step after the optimizer's, and is no summand of the objective."""
        return not self.penalty.in_objective

    def is_due(self, step: int) -> bool:
        """Tell whether the penalty is evaluated in a step (counted from 0) as a summand of the objective."""
        return bool(self.weight) and not self.is_proximal and step % self.every == 0

    def weight_at(self, epoch: float) -> float:
        """Return the weight in force after `epoch` epochs (a fraction within one)."""
        return self.weight * min(1.0, epoch / self.warmup) if self.warmup else self.weight

    def coefficient_at(self, epoch: float) -> float:
        """Return what the value is multiplied by where it is evaluated: `every` times the weight in force."""
        return self.every * self.weight_at(epoch)
