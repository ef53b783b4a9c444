"""Pruning: a run that is worse at some epoch than the runs of other trials were is stopped there.

Each evaluated epoch of a run is reported to its trial, in order, and Optuna is asked after each. So what is decided
depends on what the run has recorded, not on when it is looked at: a run that came further in the meantime, even to its
end, belongs to a pruned trial all the same.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.trial import Trial

from runner.storage.directory import Run

LAUNCHER = "runner.sweep.pool.Local"  # the one that can stop a single job
REASON = "pruned"  # attribute of a trial: why its run is stopped
MEASURED = ("train/", "validation/", "test/")  # what the metrics begin with that each evaluated epoch has


def problems_of_pruning(launcher: str, objectives: Sequence[str] | None, run: Run) -> list[str]:
    """Return a sentence for each reason why the trials of a search cannot be pruned.

    Args:
        launcher: its class.
        objectives: metrics to minimise (null: that of the run).
        run: one of the search.
    """
    metrics = objectives or [run.config["objective_metric"] or MEASURED[0]]
    problems = []
    if launcher != LAUNCHER:
        problems.append("hydra.sweeper.pruner needs hydra/launcher=local: jobs elsewhere cannot be stopped one by one")
    if run.config["evaluate_every"] == 0:
        problems.append("hydra.sweeper.pruner needs epochs that are evaluated, got evaluate_every=0")
    if len(metrics) > 1 or not metrics[0].startswith(MEASURED):
        wanted = "one metric that each evaluated epoch has, such as validation/error"
        problems.append(f"hydra.sweeper.pruner needs {wanted}, got {', '.join(metrics)}")
    return problems


def pruner_of(name: str | None, prune_after: int, startup_trials: int) -> BasePruner:
    """Return what decides, by the epochs of all trials, which trial is given up.

    Args:
        name: median, halving, or null for none.
        prune_after: epochs that each trial is trained.
        startup_trials: those that end before the median is asked.
    """
    match name:
        case "median":
            return MedianPruner(startup_trials, prune_after)
        case "halving":
            return SuccessiveHalvingPruner(min_resource=prune_after, reduction_factor=3)
    return NopPruner()


class Pruning:
    """Reports the epochs of runs to their trials, and tells which runs to stop.

    Args:
        trials: those that run together, each with its run; a run may belong to several.
        metric: what is minimised (null: what the runs say).
    """

    def __init__(self, trials: Sequence[tuple[Run, Trial]], metric: str | None) -> None:
        self.metric = metric
        self.trials_of: dict[Path, list[Trial]] = {}
        self.reasons: dict[Path, str] = {}
        self.seen: dict[Path, int] = {}
        for run, trial in trials:
            self.trials_of.setdefault(run.path, []).append(trial)
            if reason := trial.user_attrs.get(REASON):  # before a kill
                self.reasons[run.path] = reason

    def reason(self, run: Run) -> str | None:
        """Report what a run has recorded since the last call; return why to stop it, None if it may go on."""
        if run.path not in self.reasons and self._has_changed(run.path / "metrics.csv"):
            for trial in self.trials_of[run.path]:
                with suppress(UpdateFinishedTrialError):  # by another process that has taken it over
                    self._report(trial, run)
        return self.reasons.get(run.path)

    def _has_changed(self, path: Path) -> bool:
        before = self.seen.get(path)
        with suppress(FileNotFoundError):
            self.seen[path] = path.stat().st_mtime_ns
        return self.seen.get(path) != before

    def _report(self, trial: Trial, run: Run) -> None:
        known = max(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values, default=0)
        metric = self.metric or run.result().get("best/by", "")
        for epoch, value in _epochs(run.path / "metrics.csv", metric):
            if epoch > known:
                trial.report(value, epoch)
                if trial.should_prune():
                    reason = self.reasons[run.path] = f"at epoch {epoch}, with {metric} {value:.4g}"
                    trial.set_user_attr(REASON, reason)
                    return


def _epochs(path: Path, metric: str) -> Iterator[tuple[int, float]]:
    with path.open(newline="") as file:
        whole = [line for line in file if line.endswith("\n")]  # the last one may be being written
    for row in csv.DictReader(whole):
        if int(row["epoch"]) > 0 and row.get(metric) and math.isfinite(float(row[metric])):
            yield int(row["epoch"]), float(row[metric])
