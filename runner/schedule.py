"""Learning-rate schedules: pure functions of the epoch, with no state to checkpoint.

At the start of each epoch, counted from 0, every parameter group gets

    lr = initial * schedule(epoch, epochs)

where `initial` is the group's own lr if it has one (`optimizer.groups`), else `schedule.initial`, else
`optimizer.lr`. A schedule is a factor, 1 at epoch 0, so groups keep their proportions.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


class Schedule(ABC):
    """A factor of the learning rates, by the epoch."""

    @property
    def initial(self) -> float | None:
        """Learning rate at epoch 0 of the groups that have none of their own; None: the optimizer's."""
        return None

    @abstractmethod
    def __call__(self, epoch: float, epochs: int) -> float:
        """The factor at an epoch (0 <= epoch <= epochs) of a run of so many epochs."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate throughout."""

    def __call__(self, epoch: float, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """values[0] up to the epoch milestones[0], values[1] from there up to milestones[1], and so on.

    milestones [25], values [0.1, 0.05]: epochs 0 to 24 with 0.1, epoch 25 and all later ones with 0.05.
    The values are learning rates and take the place of `optimizer.lr`; a group with a learning rate of its
    own starts from that and falls in the same proportions.

    Args:
        milestones: epochs at which the next value starts (positive, increasing).
        values: learning rates (positive), one more than there are milestones.

    Raises:
        ValueError: milestones or values outside these ranges.
    """

    milestones: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        if any(not before < after for before, after in pairwise([0, *self.milestones])):
            raise ValueError(f"milestones must be positive and increasing, got {list(self.milestones)}")
        if len(self.values) != len(self.milestones) + 1:
            wanted = len(self.milestones) + 1
            raise ValueError(f"values must be {wanted}, one more than milestones, got {list(self.values)}")
        if any(not 0 < value < math.inf for value in self.values):
            raise ValueError(f"values must be positive and finite, got {list(self.values)}")

    @property
    def initial(self) -> float:
        return self.values[0]

    def __call__(self, epoch: float, epochs: int) -> float:
        return self.values[bisect_right(self.milestones, epoch)] / self.values[0]


@dataclass(frozen=True)
class Geometric(Schedule):
    """The learning rate times `factor` every epoch: factor^epoch.

    Args:
        factor: ratio of one epoch's learning rate to the one before (positive, at most 1).

    Raises:
        ValueError: factor outside its range.
    """

    factor: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise ValueError(f"factor must be positive and at most 1, got {self.factor}")

    def __call__(self, epoch: float, epochs: int) -> float:
        return self.factor**epoch


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 at the start to `final` at the end of the run.

    final + (1 - final) * (1 + cos(pi * epoch / epochs)) / 2. The last epoch, epochs - 1, still trains with
    a little more than `final`.

    Args:
        final: fraction of the initial learning rate at the end (0 to 1).

    Raises:
        ValueError: final outside its range.

    Source: Loshchilov and Hutter 2016, arXiv 1608.03983, equation 5, without restarts.
    """

    final: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.final <= 1:
            raise ValueError(f"final must be between 0 and 1, got {self.final}")

    def __call__(self, epoch: float, epochs: int) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * epoch / epochs)) / 2
