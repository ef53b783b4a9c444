"""Runs in groups that differ in the seed alone, each group a row of the table.

Read from `result.json` and `config.yaml` of the runs' directories and from nothing else, so that it does not matter
which launcher ran them, or whether all of them ended.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runner.storage.identity import identity
from runner.summary.runs import RunRecord, config_of, directories, read_run
from runner.summary.settings import BLANK, sort_key, swept

# Of the best row; never the test set. An error means the same for all criteria, a loss for one criterion only.
MONITORS = ("validation/error", "validation/loss", "train/error", "train/loss")
TIE = 1e-9  # relative difference of two means that is rounding


class NothingToShow(ValueError):
    """No run where runs are looked for, or none with the metric asked for."""


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of a group."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def deviation(self) -> float:
        """The sample standard deviation (n - 1); NaN for a single value, and if a value is not finite."""
        usable = len(self.values) > 1 and all(map(math.isfinite, self.values))
        return statistics.stdev(self.values) if usable else math.nan

    @property
    def median(self) -> float:
        return math.nan if any(map(math.isnan, self.values)) else statistics.median(self.values)


@dataclass(frozen=True)
class Row:
    """One group: what tells it from the others, its runs, and the criterion that their losses are of."""

    keys: Mapping[str, Any]
    runs: Sequence[RunRecord]
    criterion: str = ""

    @cached_property
    def done(self) -> list[RunRecord]:
        """The runs that ended well: these alone are in the means."""
        return [run for run in self.runs if run.status == "done"]

    @cached_property
    def diverged(self) -> int:
        return sum(run.status == "diverged" for run in self.runs)

    @cached_property
    def metrics(self) -> dict[str, Spread]:
        values: dict[str, list[float]] = defaultdict(list)
        for run in self.done:
            for tag, number in run.numbers.items():
                values[tag].append(number)
        return {tag: Spread(tuple(numbers)) for tag, numbers in values.items()}

    def mean(self, metric: str | None) -> float:
        """Return the mean of a metric; NaN if no run that ended well has it."""
        return self.metrics[metric].mean if metric in self.metrics else math.nan


@dataclass(frozen=True)
class Summary:
    """Rows in the order of their keys, and the runs that are in none of the means, with the reasons."""

    rows: Sequence[Row]
    others: Sequence[RunRecord]

    @cached_property
    def columns(self) -> list[str]:
        """The swept keys, by short names."""
        return list(dict.fromkeys(key for row in self.rows for key in row.keys))

    @cached_property
    def metrics(self) -> list[str]:
        """All that was measured in any run that ended well."""
        return list(dict.fromkeys(metric for row in self.rows for metric in row.metrics))

    @property
    def metric(self) -> str | None:
        """The metric that is shown by default: the error of a classification, else the loss."""
        return next((metric for metric in ("test/error", "test/loss", *self.metrics) if metric in self.metrics), None)

    @cached_property
    def monitor(self) -> str | None:
        """The metric that selects the best row: the first that every row has."""
        rows = [row for row in self.rows if row.done]
        return next((monitor for monitor in MONITORS if rows and all(monitor in row.metrics for row in rows)), None)

    @cached_property
    def criteria(self) -> list[str]:
        """The criteria of the rows that have a mean, each once."""
        return list(dict.fromkeys(row.criterion for row in self.rows if row.done))

    @property
    def ranks_by_criterion(self) -> bool:
        """Tell whether each criterion has a best row of its own: there are several, and the monitor is a loss."""
        return len(self.criteria) > 1 and str(self.monitor).endswith("/loss")

    @cached_property
    def leading(self) -> list[Row]:
        """The rows with the least mean of the monitor; if that is a loss, the least of each criterion.

        A row of which a run diverged is among them only if all rows it is compared with have such a run.
        """
        rows = [row for row in self.rows if math.isfinite(row.mean(self.monitor))]
        compared = _of_each_criterion(rows) if self.ranks_by_criterion else [rows]
        return [row for some in compared for row in _least(_steady(some), self.monitor)]

    @property
    def tied(self) -> list[Row]:
        """The leading rows that are equal to one they are compared with."""
        compared = _of_each_criterion(self.leading) if self.ranks_by_criterion else [self.leading]
        return [row for some in compared if len(some) > 1 for row in some]

    @cached_property
    def best(self) -> list[Row]:
        """The leading rows; where they tie in an error, those with the least loss of each criterion."""
        loss = f"{str(self.monitor).partition('/')[0]}/loss"
        return [row for some in _of_each_criterion(self.leading) for row in _least(some, loss)]


def _of_each_criterion(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows of each criterion, in their order."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.criterion].append(row)
    return list(found.values())


def _steady(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the rows of which no run diverged; all of them if there are no such rows."""
    return [row for row in rows if not row.diverged] or rows


def _least(rows: Sequence[Row], metric: str | None) -> list[Row]:
    """Return the rows with the least mean of a metric, all of them if none has it; equal but for rounding is equal."""
    means = [mean if math.isfinite(mean := row.mean(metric)) else math.inf for row in rows]
    lowest = min(means, default=math.inf)
    return [row for row, mean in zip(rows, means, strict=True) if math.isclose(mean, lowest, rel_tol=TIE)]


def summarize(*folders: Path) -> Summary:
    """Return the summary of all runs below some folders; nothing that is missing or damaged in them raises.

    Runs of one group are pooled over the folders, unless a run stands in two of them: then the folders are compared,
    in a column `sweep`.
    """
    runs = [read_run(path) for path in directories(folders)]
    found = {(run.path.parent, run.result["run_id"]): run for run in runs if "group_id" in run.result}
    known = list(found.values())  # a run counts once, though it be in two directories side by side
    ids = [run.result.get("run_id") for run in known]
    compared = len(set(ids)) < len(ids)
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for run in known:
        groups[str(run.path.parent) if compared else "", run.result["group_id"]].append(run)
    configs = {group: config_of(members) for group, members in groups.items()}
    lost = [run for group, members in groups.items() if configs[group] is None for run in members]
    readable = [(group, config) for group, config in configs.items() if config is not None]
    keys = swept([config for _, config in readable])
    names = [name for (name, _), _ in readable]
    if len(set(names)) > 1:
        common = os.path.commonpath(names)
        keys = [{"sweep": os.path.relpath(name, common)} | own for name, own in zip(names, keys, strict=True)]
    rows = [Row(own, groups[group], _criterion_of(config)) for (group, config), own in zip(readable, keys, strict=True)]
    others = [run for run in runs if run.status != "done" and run not in lost]
    others += [
        RunRecord(run.path, {}, "unreadable", f"{run.path / 'config.yaml'} is missing or no config") for run in lost
    ]
    return Summary(in_order(rows), others)


def _criterion_of(config: Mapping[str, Any]) -> str:
    """Return what a loss of a run means: the class and the options of its criterion, less its weight."""
    options = {path: value for path, value in identity(config).items() if path.startswith("loss.")}
    return json.dumps({path: value for path, value in options.items() if path != "loss.weight"}, sort_keys=True)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return the rows sorted by their keys, the first column first; runs by their seeds."""
    columns = list(dict.fromkeys(key for row in rows for key in row.keys))
    return sorted(rows, key=lambda row: [sort_key(row.keys.get(column, BLANK)) for column in columns])
