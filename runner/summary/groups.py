"""Runs in groups that differ in the seed alone, each group a row of the table.

Read from `result.json` and `config.yaml` of the runs' directories and from nothing else, so that it does not matter
which launcher ran them, or whether all of them ended.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from runner.storage.identity import values_that_count
from runner.storage.members import Member, members_of
from runner.summary.runs import RunRecord, config_of, directories, read_run
from runner.summary.settings import BLANK, as_typed, short_names, sort_key, swept

# Of the best row; never the test set. An error means the same for all criteria, a loss for one criterion only.
MONITORS = ("validation/error", "validation/loss", "train/error", "train/loss")
TIE = 1e-6  # relative difference of two means that is rounding: sums of float32 in another order


class NothingToShow(ValueError):
    """No run where runs are looked for, or none with the metric asked for."""


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of a group.

    Args:
        values: one for each run, under the run's seeds.
    """

    values: pd.Series

    @property
    def mean(self) -> float:
        return float(self.values.mean(skipna=False))

    @property
    def deviation(self) -> float:
        """The sample standard deviation (n - 1); NaN for a single value, and if a value is not finite."""
        return float(self.values.std(skipna=False))

    @property
    def median(self) -> float:
        return float(self.values.median(skipna=False))


@dataclass(frozen=True)
class Row:
    """One group.

    Args:
        keys: what tells it from the others, by the columns' names.
        runs: of all its seeds.
        criterion: what a loss of these runs is.
        setting: what a row must share with another one to be compared with it.
        options: of an arm, by name: what its trials have chosen, or are trying, and what else it alone has.
        is_baseline: whether it is what others are compared with.
    """

    keys: Mapping[str, Any]
    runs: Sequence[RunRecord]
    criterion: str = ""
    setting: str = ""
    is_baseline: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def done(self) -> list[RunRecord]:
        """The runs that ended well: these alone are in the means."""
        return [run for run in self.runs if run.status == "done"]

    @cached_property
    def diverged(self) -> int:
        return sum(run.status == "diverged" for run in self.runs)

    @cached_property
    def metrics(self) -> dict[str, Spread]:
        frame = pd.DataFrame([run.numbers for run in self.done], [run.seeds for run in self.done], dtype=float)
        return {tag: Spread(frame[tag][[tag in run.numbers for run in self.done]]) for tag in frame}

    def typed(self, column: str) -> str:
        """Return the value of a column as it is typed; nothing where the row has none."""
        return as_typed(self.keys.get(column, BLANK))

    def mean(self, metric: str | None) -> float:
        """Return the mean of a metric; NaN if no run that ended well has it."""
        return self.metrics[metric].mean if metric in self.metrics else math.nan


@dataclass(frozen=True)
class Summary:
    """Rows in the order of their keys.

    Args:
        rows: the groups.
        others: the runs that are in none of the means, with the reasons.
        trials: the rows of the runs that have chosen, on validation, what is compared; empty without `sweep.trials`.
        baseline: what rows are compared with, where it is named: an arm, or KEY=VALUE.
    """

    rows: Sequence[Row]
    others: Sequence[RunRecord]
    trials: Sequence[Row] = ()
    baseline: str | None = None

    @cached_property
    def columns(self) -> list[str]:
        """The swept keys, by short names."""
        return list(dict.fromkeys(key for row in self.rows for key in row.keys))

    def label(self, row: Row) -> str:
        """Return what tells a row from the others: its arm, the value of the only column, or all keys and values."""
        if len(self.columns) == 1:
            return row.typed(self.columns[0]) or "none"
        words = [f"{key}={as_typed(value)}" for key, value in row.keys.items() if key not in ("arm", "chosen")]
        return " ".join([row.keys["arm"], *words]) if "arm" in row.keys else ", ".join(words)

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


def summarize(*folders: Path, members: Sequence[Member] | None = None, baseline: str | None = None) -> Summary:
    """Return the summary of all runs below some folders; nothing that is missing or damaged in them raises.

    Runs of one group are pooled over the folders, unless a run stands in two of them: then the folders are compared,
    in a column `sweep`.

    Args:
        folders: of runs.
        members: what the runs are in their sweep for (null: as the lists in the folders say).
        baseline: what rows are compared with: an arm, or KEY=VALUE (null: as the sweep says, or what has no penalty).
    """
    runs = [read_run(path) for path in directories(folders)]
    if members is None:
        members = [member for folder in {run.path.parent for run in runs} for member in members_of(folder)]
    groups = _grouped(runs, members)
    configs = {group: config_of(some) for group, some in groups.items()}
    lost = [run for group, some in groups.items() if configs[group] is None for run in some]
    tried = [run for group, some in groups.items() if group.is_trial for run in some if run.status == "diverged"]
    others = [run for run in runs if run.status != "done" and run not in lost and run not in tried]
    others += [
        RunRecord(run.path, {}, "unreadable", f"{run.path / 'config.yaml'} is missing or no config") for run in lost
    ]
    named = baseline or _agreed_baseline(members)
    readable = {group: (config, groups[group]) for group, config in configs.items() if config is not None}
    rows, trials = (
        in_order(_rows({group: both for group, both in readable.items() if group.is_trial == is_trial}, named))
        for is_trial in (False, True)
    )
    return Summary(rows, others, trials, named)


def _agreed_baseline(members: Sequence[Member]) -> str | None:
    """Return the baseline that the sweeps of some runs name; None if they name none, or different ones."""
    named = {member.baseline for member in members}
    return named.pop() if len(named) == 1 else None


def _grouped(runs: Sequence[RunRecord], members: Sequence[Member]) -> dict[_Group, list[RunRecord]]:
    """Return the runs that have a result, by their groups."""
    purposes = {member.path.resolve(): member for member in members}
    found = {(run.path.parent, run.result["run_id"]): run for run in runs if "group_id" in run.result}
    known = list(found.values())  # a run counts once, though it be in two directories side by side
    compared = len({run.result.get("run_id") for run in known}) < len(known)
    groups: dict[_Group, list[RunRecord]] = defaultdict(list)
    for run in known:
        purpose = purposes.get(run.path.resolve(), Member(run.path))
        folder, is_trial = str(run.path.parent) if compared else "", purpose.stage == "trial"
        groups[_Group(folder, is_trial, purpose.arm, tuple(purpose.setting), run.result["group_id"])].append(run)
    return groups


class _Group(NamedTuple):
    """What the runs of a row share."""

    folder: str
    is_trial: bool
    arm: str
    setting: tuple[str, ...]
    group_id: str


def _rows(groups: Mapping[_Group, tuple[dict[str, Any], list[RunRecord]]], baseline: str | None) -> list[Row]:
    """Return a row for each group, named by what tells it from the others."""
    values = swept([config for config, _ in groups.values()])
    tuned = [_tuned(config) if group.arm else {} for group, (config, _) in groups.items()]
    names = short_names(dict.fromkeys(path for own in (*values, *tuned) for path in own))
    varied = _varied([group.arm for group in groups], values)
    folders = {group.folder for group in groups}
    rows = []
    for (group, (config, runs)), own, chosen in zip(groups.items(), values, tuned, strict=True):
        shared = {line.partition("=")[0] for line in group.setting}
        keys = {names[path]: value for path, value in own.items() if path in shared or not group.arm}
        options = {path: value for path, value in own.items() if path not in shared and path != "penalty"}
        if group.arm:
            chosen |= {path: value for path, value in options.items() if path in varied[group.arm]}
            words = [f"{names[path]}={as_typed(value)}" for path, value in chosen.items()]
            keys = {"arm": group.arm, **keys, "chosen": " ".join(words)}
        if len(folders) > 1:
            keys = {"sweep": os.path.relpath(group.folder, os.path.commonpath(folders)), **keys}
        setting, is_baseline = _place(group, config, own, baseline)
        named = {names[path]: value for path, value in options.items()}
        rows.append(Row(keys, runs, _criterion_of(config), setting, is_baseline, named))
    return rows


def _tuned(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers that trials may have chosen, by path: the weights of the penalties and `sweep.ranges`."""
    weights = [f"penalty.{name}.weight" for name in config.get("penalty", {})]
    ranges = config.get("sweep", {}).get("ranges") or {}
    values = values_that_count(config)
    return {path: values[path] for path in (*weights, *ranges) if path in values}


def _varied(arms: Sequence[str], values: Sequence[Mapping[str, Any]]) -> dict[str, set[str]]:
    """Return the paths whose values tell the rows of an arm apart, by arm."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for arm, own in zip(arms, values, strict=True):
        for path, value in own.items():
            seen[arm][path].add(as_typed(value))
    return {arm: {path for path, found in paths.items() if len(found) > 1} for arm, paths in seen.items()}


def _place(group: _Group, config: Mapping[str, Any], own: Mapping[str, Any], baseline: str | None) -> tuple[str, bool]:
    """Return what a row must share with those it is compared with, and whether it is what they are compared with."""
    if group.arm:
        return json.dumps([group.folder, group.setting]), group.arm == (baseline or "none")
    key, _, value = (baseline or "").partition("=")
    compared = key.partition(".")[0] if value else "penalty"
    setting = {path: as_typed(v) for path, v in own.items() if path.partition(".")[0] != compared}
    acts = any(options.get("weight", 1) for options in config.get("penalty", {}).values())
    is_baseline = as_typed(own.get(key, BLANK)) == value if value else not acts
    return json.dumps([group.folder, setting]), is_baseline


def _criterion_of(config: Mapping[str, Any]) -> str:
    """Return what a loss of a run means: the class and the options of its criterion, less its weight."""
    options = {path: value for path, value in values_that_count(config).items() if path.startswith("loss.")}
    return json.dumps({path: value for path, value in options.items() if path != "loss.weight"}, sort_keys=True)


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Return the rows sorted by their keys, the first column first; runs by their seeds."""
    columns = list(dict.fromkeys(key for row in rows for key in row.keys))
    return sorted(rows, key=lambda row: [sort_key(row.keys.get(column, BLANK)) for column in columns])
