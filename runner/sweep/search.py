"""A search: trials that Optuna proposes, each a job, in a study that several processes may share.

The study is a journal in the sweep's folder, or a database. Each trial says which process runs it. If that process has
died, the trial is run again with the same values, by whoever sees it first; runs that are done are not trained again.
The same command continues the study, and a search ends when no trial of its folder is left running.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, Trial, TrialState

from runner.config.check import exit_with_problems
from runner.config.objective import loss_beside, problems_of_metric
from runner.config.text import wrapped
from runner.outcome import objective
from runner.storage.atomic import write_atomic
from runner.storage.directory import Run
from runner.storage.identity import digest
from runner.storage.lock import is_held, machine
from runner.storage.status import FINISHED
from runner.summary.best import least
from runner.sweep.grid import Sweep
from runner.sweep.pruning import Pruning, problems_of_pruning, pruner_of
from runner.sweep.space import REPEATS, Proposals, Space, place_of
from runner.sweep.study import exit_if_lost, open_study
from runner.system import birth_of

OWNER = "owner"  # attribute of a trial: the process that runs it
GRACE_SECONDS = 5.0  # for another process to complete the trial that it has just begun
POLL_SECONDS = 1.0  # between looks at what other processes are doing


@dataclass(frozen=True)
class Search:
    """What can be chosen of a search; conf/hydra/sweeper/optuna.yaml explains each."""

    sampler: str
    pruner: str | None
    prune_after: int
    seed: int
    startup_trials: int
    n_trials: int
    n_jobs: int
    objectives: Sequence[str] | None
    storage: str | None
    study_name: str | None

    def run(self, sweep: Sweep) -> int:
        """Run trials until the study has as many as it is to have, then report the best ones."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = Space.of(sweep.lines, sweep.composer)
        if problems := space.problems(self.sampler):
            exit_with_problems(problems)
        first, *_ = sweep.runs(list(map(space.lines, space.samples())))
        if problems := _problems_of_search(self, first, sweep.nodes["launcher"]["_target_"]):
            exit_with_problems(problems)
        if len(self.objectives or ()) == 1:  # the runs, and their table, are to know it
            space.fixed.append(f"objective_metric={self.objectives[0]}")  # type: ignore[index]
        sweep.index.start()
        study = _Study(sweep, space, self, first)
        with exit_if_lost():
            study.run()
            study.report()
        return 0


def _problems_of_search(options: Search, first: Run, launcher: str) -> list[str]:
    names, problems = options.objectives or (), list[str]()
    for name in names:
        problems += problems_of_metric("hydra.sweeper.objectives", name, first.config)
    if first.config["sweep"]["arms"]:
        problems.append("sweep.arms needs hydra/sweeper=grid: a search has no arms")
    if first.config["force"] and options.storage:
        problems.append("force=true would discard a study that others share: choose another hydra.sweeper.study_name")
    return problems or (problems_of_pruning(launcher, options.objectives, first) if options.pruner else [])


def _this_process(folder: Path) -> dict[str, Any]:
    process = os.getpid()
    place = f"{folder.stat().st_ino}:{folder}"
    return {"machine": machine(), "pid": process, "birth": birth_of(process), "folder": place}


class _Study:
    """One process's part in a study.

    Args:
        sweep: that trains the jobs.
        space: what is varied.
        options: of the search.
        first: a run of the space; the others differ from it in what is varied.
    """

    def __init__(self, sweep: Sweep, space: Space, options: Search, first: Run) -> None:
        self.sweep, self.space, self.options = sweep, space, options
        self.folder, self.config = first.path.parent.absolute(), first.config
        self.metrics = list(options.objectives or [first.config["objective_metric"]])
        self.n_trials = min(options.n_trials, space.size) if options.sampler == "grid" else options.n_trials
        self.owner = _this_process(self.folder)
        searched = digest({"run": first.run_id, "axes": space.words, "by": self.metrics})
        how = {"sampler": options.sampler, "seed": options.seed, "startup_trials": options.startup_trials}
        how |= {"pruner": options.pruner, "prune_after": options.prune_after} if options.pruner else {}
        name = options.study_name or digest({"searched": searched, **how})
        anew = first.config["force"]
        self.study = open_study(options.storage, self.folder, name, searched, len(self.metrics), anew)
        self.study.sampler = Proposals(space, options.sampler, options.seed, options.startup_trials)
        self.study.pruner = pruner_of(options.pruner, options.prune_after, options.startup_trials)

    def _run_of(self, params: dict[str, Any]) -> Run:
        return Run(self.sweep.composer.compose(self.space.lines(params)).values)

    def run(self) -> None:
        """Run trials until there are enough and none of this folder is left running."""
        ended, name = sum(trial.state.is_finished() for trial in self._trials()), self.study.study_name
        print(f"search of {self.n_trials} trials, {ended} of them ended before: study {name}", flush=True)
        self._list_runs()
        if self.config["sweep"]["retry_failed"]:
            self._repeat_failed()
        while True:
            trials = self._taken_over()
            trials += self._proposed(after_a_kill=bool(trials))
            if trials:
                self._run_trials(trials)
            elif any(map(self._is_here, self._trials(TrialState.RUNNING))):
                time.sleep(POLL_SECONDS)  # another process is running the last ones
            else:
                return

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _is_here(self, trial: FrozenTrial) -> bool:
        return trial.user_attrs.get(OWNER, {}).get("folder") == self.owner["folder"]

    def _is_whole(self, trial: FrozenTrial) -> bool:
        return OWNER in trial.user_attrs and trial.params.keys() == self.space.axes.keys()

    def _list_runs(self) -> None:
        ours = [trial.params for trial in self._trials() if self._is_here(trial) and self._is_whole(trial)]
        self.sweep.index.add([run for run in map(self._run_of, ours) if run.path.exists()])

    def _repeat_failed(self) -> None:
        repeated = {trial.user_attrs.get(REPEATS) for trial in self._trials()}
        for trial in self._trials(TrialState.FAIL):
            if trial.number not in repeated and self._is_here(trial):
                self.study.enqueue_trial(trial.params, user_attrs={REPEATS: trial.number})

    def _taken_over(self) -> list[Trial]:
        running, end = self._trials(TrialState.RUNNING), time.monotonic() + GRACE_SECONDS
        while not all(map(self._is_whole, running)) and time.monotonic() < end:
            time.sleep(GRACE_SECONDS / 100)
            running = self._trials(TrialState.RUNNING)
        return [self._own(Trial(self.study, trial._trial_id)) for trial in running if self._is_orphan(trial)]

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is None:
            return True
        if owner["machine"] == machine():
            return birth_of(owner["pid"]) != owner["birth"]
        return self._is_here(trial) and not (self._is_whole(trial) and is_held(self._run_of(trial.params).path))

    def _own(self, trial: Trial) -> Trial:
        trial.set_user_attr(OWNER, self.owner)
        self.space.suggest(trial)
        return trial

    def _proposed(self, after_a_kill: bool) -> list[Trial]:
        """Return new trials, as many as belong together."""
        trials = self._trials()
        queued = sum(trial.state == TrialState.WAITING for trial in trials)
        wanted = queued + max(0, self.n_trials - place_of(self.study, len(trials)))
        room = -len(trials) % self.options.n_jobs if after_a_kill else self.options.n_jobs
        found = []
        for _ in range(min(room, wanted)):
            trial = self.study.ask()
            if REPEATS not in trial.user_attrs and place_of(self.study, trial.number) >= self.n_trials:
                self.study.tell(trial, state=TrialState.FAIL)  # others have proposed the last ones meanwhile
                break
            found.append(self._own(trial))
        return found

    def _run_trials(self, trials: Sequence[Trial]) -> None:
        """Run trials and record what came out; a run that another process is training is waited for."""
        jobs = [self.space.lines(trial.params) for trial in trials]
        reason = None
        if self.options.pruner:
            reason = Pruning([(self._run_of(trial.params), trial) for trial in trials], self.metrics[0]).reason
        runs = self.sweep.train(jobs, reason)
        for attempt in count():
            held = [is_held(run.path) for run in runs]
            # If the other process was stopped meanwhile, its run has not ended: it is our turn, once.
            ours = [not (busy or run.has_ended or attempt) for busy, run in zip(held, runs, strict=True)]
            if not any(held + ours):
                break
            while any(is_held(run.path) for run in runs):
                time.sleep(POLL_SECONDS)
            self.sweep.train([job for job, *why in zip(jobs, held, ours, strict=True) if any(why)], reason)
        is_pruned = [bool(reason and reason(run)) for run in runs]  # before any trial's end changes the median
        for trial, run, pruned in zip(trials, runs, is_pruned, strict=True):
            is_result = run.status in FINISHED and not pruned
            values = [objective(run, metric) for metric in self.metrics] if is_result else None
            state = TrialState.PRUNED if pruned else TrialState.COMPLETE if is_result else TrialState.FAIL
            self.study.tell(trial, values, state, skip_if_finished=True)  # by a process that has taken it over

    def report(self) -> None:
        """Print the best trials and write them down; have the table show all runs of the search."""
        self._list_runs()
        if not self._trials(TrialState.COMPLETE):
            print("no trial of the search has a result", flush=True)
            return
        best = self._best() if len(self.metrics) == 1 else self.study.best_trials
        for trial in best[:1] if len(self.metrics) == 1 else best:
            self._print_best(trial)
        if len(best) > 1:
            kind = "trials tie in it" if len(self.metrics) == 1 else "trials are the best compromises"
            print(f"{len(best)} {kind}", flush=True)
        found = [{"params": self.space.values(trial.params), "values": trial.values} for trial in best]
        result: dict[str, Any] = {"name": "optuna", "solutions": found}
        if len(self.metrics) == 1:
            result = {"name": "optuna", "best_params": found[0]["params"], "best_value": best[0].values[0]}
        write_atomic(self.folder / "optimization_results.yaml", yaml.safe_dump(result))

    def _best(self) -> list[FrozenTrial]:
        complete = self._trials(TrialState.COMPLETE)

        def loss(trial: FrozenTrial) -> float:
            result = self._run_of(trial.params).result()  # none, where another folder has it
            return float(result.get(loss_beside(self.metrics[0] or result.get("best/by", "")), math.inf))

        return least(complete, lambda trial: trial.values[0], loss)

    def _print_best(self, trial: FrozenTrial) -> None:
        monitor = self._run_of(trial.params).result().get("best/by", "objective")
        names = [metric or monitor for metric in self.metrics]
        found = self.space.values(trial.params) | dict(zip(names, trial.values, strict=True))
        words = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in found.items()]
        print(wrapped(f"best: {' '.join(words)}"), flush=True)
