"""Learning-rate schedules: pure functions of the epoch or of the step, with no state to checkpoint.

Before each step every parameter group gets

    lr = initial * schedule(epoch, epochs, step)

where epochs and steps are counted from 0, and `initial` is the group's own lr if it has one (`optimizer.groups`), else
`schedule.initial`, else `optimizer.lr`. A schedule is a factor, 1 at the start, so groups keep their proportions.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


class Schedule(ABC):
    """A factor of the learning rates, by the epoch or by the step."""

    @property
    def initial(self) -> float | None:
        """Learning rate at the start of the groups that have none of their own; None: the optimizer's."""
        return None

    @abstractmethod
    def __call__(self, epoch: float, epochs: int, step: int) -> float:
        """The factor at an epoch (0 <= epoch <= epochs) of a run of so many epochs, and at a step of the whole run."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate throughout."""

    def __call__(self, epoch: float, epochs: int, step: int) -> float:
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

    def __call__(self, epoch: float, epochs: int, step: int) -> float:
        return self.values[bisect_right(self.milestones, epoch)] / self.values[0]


@dataclass(frozen=True)
class Geometric(Schedule):
    """The learning rate times `factor` every epoch: factor^epoch.

    Args:
        factor: ratio of one epoch's learning rate to the one before (positive, at most 1).
    """

    factor: float = 0.95

    def __call__(self, epoch: float, epochs: int, step: int) -> float:
        return self.factor**epoch


@dataclass(frozen=True)
class Staircase(Schedule):
    """The learning rate times `factor` after every so many steps of the optimizer: factor^floor(step / steps).

    Args:
        factor: ratio of two successive learning rates (positive, at most 1).
        steps: how many steps have the same learning rate (at least 1).

    Source: Elsayed et al. 2018, arXiv 1803.05598, by its public code, as TensorFlow's
    `exponential_decay(staircase=True)`.
    """

    factor: float = 0.96
    steps: int = 2000

    def __call__(self, epoch: float, epochs: int, step: int) -> float:
        return self.factor ** (step // self.steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 at the start to `final` at the end of the run.

    final + (1 - final) * (1 + cos(pi * epoch / epochs)) / 2. The last epoch, epochs - 1, still trains with
    a little more than `final`.

    Args:
        final: fraction of the initial learning rate at the end (0 to 1).

    Source: Loshchilov and Hutter 2016, arXiv 1608.03983, equation 5, without restarts.
    """

    final: float = 0.0

    def __call__(self, epoch: float, epochs: int, step: int) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * epoch / epochs)) / 2
