"""The rows of a table of runs: their numbers over the seeds, their labels, and which of them is the best."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from runner.config.objective import loss_beside
from runner.summary.best import least
from runner.summary.labels import short_labels
from runner.summary.runs import RunRecord
from runner.summary.settings import BLANK, as_typed, is_number

# Of the best row; never the test set. An error means the same for all criteria, a loss for one criterion only.
MONITORS = ("validation/error", "validation/loss", "train/error", "train/loss")


class NothingToShow(ValueError):
    """No run where runs are looked for, or none with the metric or the baseline asked for."""


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
        family: the folder and the data: what is compared on other data is another question, corrected by itself.
        options: of an arm, by name: what its trials have chosen, or are trying, and what else it alone has.
        is_baseline: whether it is what others are compared with.
    """

    keys: Mapping[str, Any]
    runs: Sequence[RunRecord]
    criterion: str = ""
    setting: str = ""
    family: str = ""
    is_baseline: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def done(self) -> list[RunRecord]:
        """The runs that ended well: these alone are in the means."""
        return [run for run in self.runs if run.status == "done"]

    def count(self, status: str) -> int:
        return sum(run.status == status for run in self.runs)

    @cached_property
    def diverged(self) -> int:
        return self.count("diverged")

    @cached_property
    def metrics(self) -> dict[str, Spread]:
        frame = pd.DataFrame([run.numbers for run in self.done], [run.seeds for run in self.done], dtype=float)
        return {tag: Spread(frame[tag][[tag in run.numbers for run in self.done]]) for tag in frame}

    @property
    def arm(self) -> str:
        return self.keys.get("arm", "")

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
        objective: the metric that the sweep minimises, where it names one.
    """

    rows: Sequence[Row]
    others: Sequence[RunRecord]
    trials: Sequence[Row] = ()
    baseline: str | None = None
    objective: str | None = None

    @cached_property
    def columns(self) -> list[str]:
        """The swept keys, by short names."""
        return list(dict.fromkeys(key for row in self.rows for key in row.keys))

    def label(self, row: Row) -> str:
        """Return what tells a row from the others: its arm, the word in the only column, or all keys and values."""
        return self._separator.join(self._words(row))

    def short_label(self, row: Row) -> str:
        """Return the same in at most 40 characters."""
        return self._short_labels[self.label(row)]

    @cached_property
    def _short_labels(self) -> dict[str, str]:
        words = {self.label(row): self._words(row) for row in self.rows}
        return dict(zip(words, short_labels(list(words.values()), self._separator), strict=True))

    @property
    def _separator(self) -> str:
        return " " if "arm" in self.columns else ", "

    def _words(self, row: Row) -> list[str]:
        if len(self.columns) == 1 and isinstance(row.keys.get(self.columns[0], ""), str):
            return [row.typed(self.columns[0]) or "none"]
        words = [f"{key}={as_typed(value)}" for key, value in row.keys.items() if key not in ("arm", "chosen")]
        return [row.arm, *words] if row.arm else words or ["none"]

    def end_of(self, row: Row) -> str:
        """Return whether what trials have chosen for a row stands at an end of what they tried: `least`, `largest`."""
        rows = [trial for trial in self.trials if (trial.arm, trial.setting) == (row.arm, row.setting)]
        for key, value in row.options.items():
            numbers = {trial.options[key] for trial in rows if is_number(trial.options.get(key))}
            if len(numbers) > 1 and value in (min(numbers), max(numbers)):
                return "least" if value == min(numbers) else "largest"
        return ""

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
        """The metric that selects the best row: the sweep's objective, else the first usual one that all rows have."""
        return self._monitor_of(self.rows)

    @cached_property
    def tuned_on(self) -> str | None:
        """The metric by which the trials have chosen; None without trials."""
        return self._monitor_of(self.trials)

    def _monitor_of(self, rows: Sequence[Row]) -> str | None:
        rows = [row for row in rows if row.done]
        names = (*([self.objective] if self.objective else []), *MONITORS)
        return next((name for name in names if rows and all(name in row.metrics for row in rows)), None)

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
        return [row for some in self._rivals(rows) for row in least(_steady(some), lambda row: row.mean(self.monitor))]

    @property
    def tied(self) -> list[Row]:
        """The leading rows that are equal to one they are compared with."""
        return [row for some in self._rivals(self.leading) if len(some) > 1 for row in some]

    @cached_property
    def best(self) -> list[Row]:
        """The leading rows; where they tie in an error, those with the least loss of each criterion."""
        loss = loss_beside(str(self.monitor))
        return [row for some in _of_each_criterion(self.leading) for row in least(some, lambda row: row.mean(loss))]

    def _rivals(self, rows: Sequence[Row]) -> list[list[Row]]:
        return _of_each_criterion(rows) if self.ranks_by_criterion else [list(rows)]


def _of_each_criterion(rows: Sequence[Row]) -> list[list[Row]]:
    return [[row for row in rows if row.criterion == one] for one in dict.fromkeys(row.criterion for row in rows)]


def _steady(rows: Sequence[Row]) -> Sequence[Row]:
    return [row for row in rows if not row.diverged] or rows
