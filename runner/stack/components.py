"""The components of K models as those of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from data import Split
from runner.stack.layers import stacked
from runner.stack.optimizer import StackedOptimizer
from runner.training.build import Components
from runner.training.loop import Loop
from runner.training.term import Term


def stacked_components(loops: Sequence[Loop]) -> Components:
    """Return components with which a loop trains the models of some loops, from copies of their weights."""
    components = [loop.components for loop in loops]
    first, model = components[0], stacked([each.model for each in components])
    stack_of = dict(zip(first.model.parameters(), model.parameters(), strict=True))
    groups: Any = [[stack_of[param] for param in group["params"]] for group in first.optimizer.param_groups]
    clips = [loop.config["optimizer"]["clip"] for loop in loops]
    columns = zip(*(each.terms for each in components), strict=True)
    terms: Any = [StackedTerm(column, first.device) for column in columns]
    return replace(
        first,
        dataset=replace(first.dataset, train=StackedSplit.of([each.dataset.train for each in components])),
        model=model,
        optimizer=StackedOptimizer([each.optimizer for each in components], groups, clips),
        terms=terms,
        probes={},
    )


@dataclass(frozen=True)
class StackedSplit(Split):
    """The training splits of K models, N examples each; what is the same in all is held once."""

    count: int

    @classmethod
    def of(cls, splits: Sequence[Split]) -> StackedSplit:
        """Join splits of one size."""
        inputs, targets = ([getattr(split, name) for split in splits] for name in ("inputs", "targets"))
        return cls(_joined(inputs), _joined(targets), len(splits[0]))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Split:
        """Return the examples of each model's indices (K, B), those of one model beside each other."""
        return Split(self._chosen(self.inputs, index), self._chosen(self.targets, index))

    def _chosen(self, values: Tensor, index: Tensor) -> Tensor:
        if len(values) != self.count:
            index = index + self.count * torch.arange(len(index), device=index.device).unsqueeze(1)
        return values[index.flatten()]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    first, *others = tensors
    return first if all(torch.equal(first, other) for other in others) else torch.cat(list(tensors))


class StackedTerm:
    """A penalty in the objectives of K models, in each with its own weight; where one weight is 0, all are.

    Args:
        terms: of the models, alike except for the numbers.
        device: of the models.
    """

    def __init__(self, terms: Sequence[Term], device: torch.device) -> None:
        self.terms, self.device, first = terms, device, terms[0]
        self.name, self.penalty, self.weight = first.name, first.penalty, first.weight
        self.is_proximal, self.is_due = first.is_proximal, first.is_due

    def weight_at(self, epoch: float) -> Tensor:
        """Return each model's weight in force, (K,)."""
        return self._tensor([term.weight_at(epoch) for term in self.terms])

    def coefficient_at(self, epoch: float) -> Tensor:
        """Return what each model's value is multiplied by, (K,)."""
        return self._tensor([term.coefficient_at(epoch) for term in self.terms])

    def _tensor(self, numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)
