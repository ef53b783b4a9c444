"""The training of K models as one: the loop of one model, on stacked components."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from losses.stacked import StackedForward
from runner.stack.components import stacked_components
from runner.training.loop import Diverged, Loop


class StackedLoop(Loop):
    """The training of K models side by side, each as its own loop would train it.

    The loops hold what belongs to one model: its components, its generators, the place to resume from. They are taken
    over here and do not train. Once `scatter` has brought them up to date, each can be evaluated and saved as if it had
    trained alone.

    Args:
        loops: of the models; their configs differ in numbers alone.
        ended: positions of models that hold their places, but are trained no more; the others are at one step.

    Attributes:
        diverged: models whose objective became NaN or infinite, and how; they are trained no more.
    """

    def __init__(self, loops: Sequence[Loop], ended: Collection[int] = ()) -> None:
        self.loops = loops
        first = next(loop for number, loop in enumerate(loops) if number not in ended)
        unclipped = {**first.config, "optimizer": {**first.config["optimizer"], "clip": None}}  # the optimizer does it
        super().__init__(stacked_components(loops), unclipped, StackedForward)
        self.generator = [loop.generator for loop in loops]  # type: ignore[assignment]
        columns = zip(*(loop.base_lrs for loop in loops), strict=True)  # what a group has by now is a schedule's
        device = self.components.device
        self.base_lrs = [torch.tensor(lrs, dtype=torch.float64, device=device) for lrs in columns]
        self.is_active = torch.tensor([number not in ended for number in range(len(loops))], device=device)
        self.latest = torch.tensor([loop.last_finite for loop in loops])
        self.diverged: dict[int, Diverged] = {}
        self._gather(first)

    def order(self) -> Tensor:
        """Return the indices of each model's examples in the order of this epoch, (K, N)."""
        for loop in self.loops:
            loop.epoch = self.epoch
        return torch.stack([loop.order() for loop in self.loops])

    def check_finite(self) -> None:
        """Remember the last finite objectives; note in `diverged` whose later one is not, if `on_nan` is stop."""
        self.means.sum_up()
        if not self.unchecked:
            return
        # In the precision of one model alone: each model's weight of a penalty is a number of Python's precision.
        objectives, self.unchecked = torch.stack(self.unchecked).to(self.params[0].dtype), []
        if (objectives.isfinite().all(0) | ~self.is_active).all():
            self.latest = objectives[-1]
        else:
            self._check_each(objectives)

    def _check_each(self, objectives: Tensor) -> None:
        for number, loop in self._active_loops():
            loop.unchecked = list(objectives[:, number])
            loop.epoch, loop.batch = self.epoch, self.batch
            loop.last_finite = float(self.latest[number])
            try:
                loop.check_finite()
            except Diverged as divergence:
                self.diverged[number] = divergence
                self.is_active[number] = False
        self.latest = torch.tensor([loop.last_finite for loop in self.loops])

    def _active_loops(self) -> list[tuple[int, Loop]]:
        return [(number, self.loops[number]) for number in self.is_active.nonzero().flatten().tolist()]

    def _gather(self, first: Loop) -> None:
        self.epoch, self.batch = first.epoch, first.batch
        self.means.counts = dict(first.means.counts)
        for name, total in first.means.sums.items():
            sums = [loop.means.sums.get(name, torch.zeros_like(total)) for loop in self.loops]
            self.means.sums[name] = torch.stack(sums)

    def scatter(self) -> None:
        """Bring the loops of the models up to date."""
        self.check_finite()
        own = zip(*(loop.components.model.parameters() for loop in self.loops), strict=True)
        for stack, params in zip(self.components.model.parameters(), own, strict=True):
            torch._foreach_copy_([param.detach() for param in params], list(stack.detach()))
        self.components.optimizer.scatter()  # type: ignore[attr-defined]
        for number, loop in self._active_loops():
            loop.epoch, loop.batch = self.epoch, self.batch
            loop.last_finite = float(self.latest[number])
            loop.means.sums = {name: total[number] for name, total in self.means.sums.items()}
            loop.means.counts = dict(self.means.counts)
