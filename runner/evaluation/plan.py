"""After which epochs a run is evaluated, and on what: a rule by sizes, never by the clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from data import Dataset, Split

MOST_ROWS = 100  # of a run with evaluate_every=null, besides epoch 0
SHARE = 0.15  # of the work of training: what whole evaluations may add to it; the first and the last are always made
FREE = 2_000  # work beyond it that nobody waits for
FORWARD = 1 / 3  # work for an example without gradient, where it is 1 in a training step
STEP, EVALUATION, DRAWING = 20, 100, 4_000  # work for each of them, whatever the number of examples
SAMPLE = 5_000  # training examples that are evaluated before the end
MOST_DRAWINGS = 4  # between the first epoch and the last


class Plan:
    """What is measured after each epoch; epoch 0 ends before the first step.

    A whole evaluation is of all splits. With `evaluate_every=n` there is one after each n-th epoch and after the last,
    with pictures and histograms. With null there is one before the first step, one after the last, and as many in
    between as the work of training allows, counted in examples. Then

    - the other epochs (at most 100) have rows with what training itself tells and, if there is a validation split,
      with that split evaluated: so the best epoch is that of `evaluate_every=1`;
    - before the end, `train/...` are of a fixed sample of a large training split, whose size is `train/examples`.
      Without a validation split there is no sample, since the training error then tells which epoch is best;
    - there are pictures and histograms of the last epoch, the first, and a few others.

    Args:
        dataset: of the run.
        config: of the run.
    """

    def __init__(self, dataset: Dataset, config: Mapping[str, Any]) -> None:
        self.dataset, self.epochs = dataset, config["epochs"]
        self.sample: Split | None = None
        self.row_every = self.whole_every = self.drawn_every = config["evaluate_every"] or 0
        if config["evaluate_every"] is not None:
            return
        if dataset.validation is not None and len(dataset.train) > SAMPLE:
            self.sample = _sample_of(dataset.train)
        allowed = SHARE * self._work_of_training(config) + FREE
        evaluations = (allowed - self._work_of(self.all_splits)) / self._work_of(self.all_splits | self._sampled)
        self.row_every = math.ceil(self.epochs / MOST_ROWS)
        self.whole_every = self._spread(evaluations, self.row_every)
        self.drawn_every = self._spread(1 + min(MOST_DRAWINGS, allowed // DRAWING), self.whole_every)

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
        return self.all_splits | ({} if epoch == self.epochs else self._sampled)

    @property
    def sentence(self) -> str:
        """What a user is told of a run that evaluates less than everything after each epoch that has a row; else ""."""
        if self.whole_every == self.row_every and self.sample is None:
            return ""
        at = [str(epoch) for epoch in range(self.epochs + 1) if self.is_whole(epoch)]
        listed = ", ".join(at if len(at) < 6 else [*at[:3], "...", at[-1]])
        part = f", before the last with {SAMPLE} of {len(self.dataset.train)} training examples" if self.sample else ""
        return f"all splits are evaluated at epochs {listed}{part}; evaluate_every=1: at each, with all"

    def facts(self, epoch: int) -> dict[str, float]:
        """Return what the row of a whole evaluation says of its sample, if there is one."""
        return {} if self.sample is None else {"train/examples": len(self.splits(epoch)["train"])}

    @property
    def all_splits(self) -> dict[str, Split]:
        """All splits, in full."""
        named = {"train": self.dataset.train, "validation": self.dataset.validation, "test": self.dataset.test}
        return {name: split for name, split in named.items() if split is not None}

    def is_complete(self, row: Mapping[str, float]) -> bool:
        """Tell whether a row holds the evaluation of all splits in full."""
        return "test/loss" in row and row.get("train/examples", len(self.dataset.train)) == len(self.dataset.train)

    @property
    def _sampled(self) -> dict[str, Split]:
        return {} if self.sample is None else {"train": self.sample}

    def _is_each(self, every: int, epoch: int) -> bool:
        return epoch == self.epochs or (every > 0 and epoch % every == 0)

    def _spread(self, count: float, unit: int) -> int:
        """Return the epochs, a multiple of `unit`, between `count` times, one of them epoch 0 (at least this one)."""
        return unit * math.ceil(self.epochs / (unit * max(1, int(count))))

    def _work_of_training(self, config: Mapping[str, Any]) -> float:
        examples = len(self.dataset.train)
        steps = 1 if config["optimizer"]["gradient"] == "full" else math.ceil(examples / config["batch_size"])
        return self.epochs * (examples + STEP * steps)

    @staticmethod
    def _work_of(splits: Mapping[str, Split]) -> float:
        return FORWARD * sum(map(len, splits.values())) + EVALUATION


def _sample_of(split: Split) -> Split:
    """Return the same random examples of a split for all runs, in the split's order."""
    chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    return split[chosen.sort().values.to(split.inputs.device)]
