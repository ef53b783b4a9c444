"""After which epochs a run is evaluated, and on what: a rule by sizes, never by the clock."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from data import Dataset, Split

MOST_ROWS = 100  # of a run with evaluate_every=null, besides epoch 0
SMALL = 2_000  # examples of all splits together, up to which each row has a whole evaluation
SHARE = 0.5  # examples evaluated for each example trained on; one costs a third of the other
SAMPLE = 5_000  # examples of a larger split that stand for all of it, before the first step or before the end
MOST_DRAWINGS, STEPS = 4, 300  # between the first epoch and the last: at most so many, and one for so many steps


class Plan:
    """What is measured after each epoch; epoch 0 ends before the first step.

    A whole evaluation is of all splits. With `evaluate_every=n` there is one after each n-th epoch and after the last,
    with pictures and histograms. With null, and at most 2,000 examples, there is one in each row; with more examples
    one before the first step, one after the last, and as many in between as keep the examples that are evaluated, those
    of the validation split in each row included, below half of those that are trained on. Then

    - the other epochs (at most 100) have rows with what training itself tells and, if there is a validation split,
      with that split evaluated: so the best epoch is that of `evaluate_every=1`;
    - before the first step large splits are evaluated on a fixed sample, since nothing was learned yet; in between the
      training split likewise, unless its error tells which epoch is best, because there is no validation split. Of how
      many examples the numbers are, is recorded as `examples/<split>`;
    - there are pictures and histograms of the last epoch, the first, and a few others.

    Args:
        dataset: of the run.
        config: of the run.
    """

    def __init__(self, dataset: Dataset, config: Mapping[str, Any]) -> None:
        self.dataset, self.epochs = dataset, config["epochs"]
        self.large: set[str] = set()  # names of splits of which a sample may be taken
        self.row_every = self.whole_every = self.drawn_every = config["evaluate_every"] or 0
        if config["evaluate_every"] is not None:
            return
        sizes = {name: len(split) for name, split in self.all_splits.items()}
        self.large = {name for name, size in sizes.items() if size > SAMPLE}
        self.row_every = self.whole_every = math.ceil(self.epochs / MOST_ROWS)
        if sum(sizes.values()) > SMALL:
            first, later, last = (sum(self._sizes(epoch).values()) for epoch in (0, 1, self.epochs))
            row = sizes.get("validation", 0)  # evaluated in each row
            left = SHARE * self.epochs * sizes["train"] - first - last - row * self.epochs / self.row_every
            self.whole_every = self._spread(1 + left / (later - row), self.row_every)
        self.drawn_every = self._spread(1 + min(MOST_DRAWINGS, self._steps(config) // STEPS), self.whole_every)

    def is_row(self, epoch: int) -> bool:
        """Tell whether anything is recorded of an epoch; of the last one always."""
        return self._is_each(self.row_every, epoch)

    def is_whole(self, epoch: int) -> bool:
        """Tell whether all splits are evaluated after an epoch."""
        return self._is_each(self.whole_every, epoch)

    def is_drawn(self, epoch: int) -> bool:
        """Tell whether there are pictures and histograms of an epoch."""
        return self._is_each(self.drawn_every, epoch)

    def splits(self, epoch: int) -> dict[str, Split]:
        """Return what is evaluated after an epoch, by name."""
        if not self.is_whole(epoch):
            return {name: split for name, split in self.all_splits.items() if name == "validation"}
        sampled = self._sampled(epoch)
        return {name: _sample_of(split) if name in sampled else split for name, split in self.all_splits.items()}

    @property
    def sentence(self) -> str:
        """What a user is told of a run that evaluates less than everything after each epoch that has a row; else ""."""
        if self.whole_every == self.row_every and not self.large:
            return ""
        at = [str(epoch) for epoch in range(self.epochs + 1) if self.is_whole(epoch)]
        listed = ", ".join(at if len(at) < 6 else [*at[:3], "...", at[-1]])
        parts = f", at 0 with at most {SAMPLE} examples of each" if self.large else ""
        if self._sampled(1) and len(at) > 2:
            parts += f", before the last with {SAMPLE} of {len(self.dataset.train)} training examples"
        return f"all splits are evaluated at epochs {listed}{parts}; evaluate_every=1: at each, with all"

    def facts(self, epoch: int) -> dict[str, float]:
        """Return what the row of a whole evaluation says of the sizes of large splits, if there are any."""
        sizes = self._sizes(epoch)
        return {f"examples/{name}": sizes[name] for name in sizes if name in self.large}

    @property
    def all_splits(self) -> dict[str, Split]:
        """All splits, in full."""
        named = {"train": self.dataset.train, "validation": self.dataset.validation, "test": self.dataset.test}
        return {name: split for name, split in named.items() if split is not None}

    def is_complete(self, row: Mapping[str, float]) -> bool:
        """Tell whether a row holds the evaluation of all splits in full."""
        return "test/loss" in row and self.facts(self.epochs).items() <= row.items()

    def _sampled(self, epoch: int) -> set[str]:
        if epoch == 0:
            return self.large
        return self.large & {"train"} if epoch < self.epochs and self.dataset.validation is not None else set()

    def _sizes(self, epoch: int) -> dict[str, int]:
        sampled = self._sampled(epoch)
        return {name: SAMPLE if name in sampled else len(split) for name, split in self.all_splits.items()}

    def _is_each(self, every: int, epoch: int) -> bool:
        return epoch == self.epochs or (every > 0 and epoch % every == 0)

    def _spread(self, count: float, unit: int) -> int:
        """Return the epochs, a multiple of `unit`, between `count` times, one of them epoch 0 (at least this one)."""
        return unit * math.ceil(self.epochs / (unit * max(1, int(count))))

    def _steps(self, config: Mapping[str, Any]) -> int:
        is_full = config["optimizer"]["gradient"] == "full"
        return self.epochs * (1 if is_full else math.ceil(len(self.dataset.train) / config["batch_size"]))


def _sample_of(split: Split) -> Split:
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    return split[chosen.sort().values.to(split.inputs.device)]
