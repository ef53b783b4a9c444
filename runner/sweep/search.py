"""A search: trials that Optuna proposes, each a job, in a study that several processes may share.

The study is a journal in the sweep's folder, or a database. Each trial says which process runs it. If that process has
died, the trial is run again with the same values, by whoever sees it first; runs that are done are not trained again.
The same command continues the study, and a search ends when no trial of its folder is left running.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import yaml
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, Trial, TrialState

from runner.config.check import exit_with_problems
from runner.config.compose import Composer
from runner.outcome import objective
from runner.storage.atomic import write_atomic
from runner.storage.directory import Run
from runner.storage.identity import digest
from runner.storage.lock import is_held, machine
from runner.storage.members import add_to_list, start_list
from runner.storage.status import FINISHED
from runner.sweep.conclude import checked_runs
from runner.sweep.space import REPEATS, Proposals, Space, place_of
from runner.sweep.study import open_study
from runner.system import birth_of

OWNER = "owner"  # attribute of a trial: the process that runs it
GRACE_SECONDS = 5.0  # for another process to complete the trial that it has just begun
POLL_SECONDS = 1.0  # between looks at what other processes are doing

Jobs = list[list[str]]


class Options(NamedTuple):
    """What can be chosen of a search; conf/hydra/sweeper/optuna.yaml explains each."""

    sampler: str
    seed: int
    startup_trials: int
    n_trials: int
    n_jobs: int
    objectives: Sequence[str] | None
    storage: str | None
    study_name: str | None


def run_search(
    loader: ConfigLoader, config: DictConfig, lines: Sequence[str], options: Options, launch: Callable[[Jobs], None]
) -> None:
    """Run trials until the study has as many as it is to have, then report the best ones.

    Args:
        loader: Hydra's.
        config: of the sweep.
        lines: overrides, as they are typed; the last one of a key counts.
        options: of the search.
        launch: runs some jobs, however they end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = Space.of(lines, loader)
    problems = space.problems(options.sampler)
    if config.sweep.arms:
        problems.append("sweep.arms needs hydra/sweeper=grid: a search has no arms")
    if config.force and options.storage:
        problems.append("force=true would discard a study that others share: choose another hydra.sweeper.study_name")
    if problems:
        exit_with_problems(problems)
    search = _Search(loader, config, space, options, launch)
    start_list()
    search.run()
    search.report()


class _Search:
    """One process's part in a study; the arguments are those of `run_search`, with the lines as a space."""

    def __init__(
        self, loader: ConfigLoader, config: DictConfig, space: Space, options: Options, launch: Callable[[Jobs], None]
    ) -> None:
        self.loader, self.config, self.space, self.options, self.launch = loader, config, space, options, launch
        self.composer = Composer(loader, config.hydra.overrides.hydra)
        self.folder = Path(config.runs_dir, config.name).absolute()
        self.metrics = list(options.objectives or [config.objective_metric])
        self.n_trials = min(options.n_trials, space.size) if options.sampler == "grid" else options.n_trials
        me = os.getpid()
        self.owner = {"machine": machine(), "pid": me, "birth": birth_of(me), "folder": str(self.folder)}
        self.study = self._open_study()

    def _open_study(self) -> optuna.Study:
        """Open the study of this search, whose name tells what is searched, and how."""
        options = self.options
        searched = digest({"run": self._run_of(self.space.first).run_id, "axes": self.space.words, "by": self.metrics})
        how = {"sampler": options.sampler, "seed": options.seed, "startup_trials": options.startup_trials}
        name = options.study_name or digest({"searched": searched, **how})
        study = open_study(options.storage, self.folder, name, searched, len(self.metrics), anew=self.config.force)
        study.sampler = Proposals(self.space, options.sampler, options.seed, options.startup_trials)
        return study

    def _run_of(self, params: dict[str, Any]) -> Run:
        return Run(self.composer.compose(self.space.lines(params)).values)

    def run(self) -> None:
        """Run trials until there are enough and none of this folder is left running."""
        ended = sum(trial.state.is_finished() for trial in self._trials())
        print(
            f"search of {self.n_trials} trials, {ended} of them ended before: study {self.study.study_name}", flush=True
        )
        self._list_runs()
        if self.config.sweep.retry_failed:
            self._repeat_failed()
        is_waiting = False
        while True:
            trials = self._taken_over()
            trials += self._proposed(after_a_kill=bool(trials))
            if trials:
                self._train(trials)
            elif not any(self._is_here(trial) for trial in self._trials(TrialState.RUNNING)):
                return
            else:
                if not is_waiting:
                    print("other processes are running the last trials: waiting for them", flush=True)
                is_waiting = True
                time.sleep(POLL_SECONDS)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _is_here(self, trial: FrozenTrial) -> bool:
        """Tell whether a trial's run lies in our folder."""
        return trial.user_attrs.get(OWNER, {}).get("folder") == str(self.folder)

    def _is_whole(self, trial: FrozenTrial) -> bool:
        """Tell whether a trial has all its values, and an owner."""
        return OWNER in trial.user_attrs and trial.params.keys() == self.space.axes.keys()

    def _list_runs(self) -> None:
        """Write all runs of the study that lie here into the sweep's list."""
        add_to_list([self._run_of(trial.params) for trial in self._trials() if self._is_here(trial)])

    def _repeat_failed(self) -> None:
        """Put what failed in an earlier session into the queue of the study, once."""
        repeated = {trial.user_attrs.get(REPEATS) for trial in self._trials()}
        for trial in self._trials(TrialState.FAIL):
            if trial.number not in repeated and self._is_here(trial):
                self.study.enqueue_trial(trial.params, user_attrs={REPEATS: trial.number})

    def _taken_over(self) -> list[Trial]:
        """Take over the trials whose process has died."""
        running = self._trials(TrialState.RUNNING)
        if not all(map(self._is_whole, running)):
            time.sleep(GRACE_SECONDS)
            running = self._trials(TrialState.RUNNING)
        return [self._own(Trial(self.study, trial._trial_id)) for trial in running if self._is_orphan(trial)]

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Tell whether the process that began a trial has died; one that lacks its values has had the time."""
        owner = trial.user_attrs.get(OWNER)
        if owner is None:
            return True
        if owner["machine"] == machine():
            return birth_of(owner["pid"]) != owner["birth"]
        return self._is_here(trial) and not (self._is_whole(trial) and is_held(self._run_of(trial.params).path))

    def _own(self, trial: Trial) -> Trial:
        """Make a trial ours, and give it the values that it lacks."""
        trial.set_user_attr(OWNER, self.owner)
        self.space.suggest(trial)
        return trial

    def _proposed(self, after_a_kill: bool) -> list[Trial]:
        """Return new trials, as many as belong together.

        Args:
            after_a_kill: others are to be run again; then only what was missing of their batch is proposed.
        """
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

    def _train(self, trials: Sequence[Trial]) -> None:
        """Run trials and record what came out; a run that another process is training is waited for."""
        jobs = [self.space.lines(trial.params) for trial in trials]
        runs = checked_runs(self.loader, self.config, jobs)
        waiting = list(zip(jobs, runs, strict=True))
        for attempt in count():
            self.launch([job for job, _ in waiting])
            # If the other process was stopped meanwhile, its run is not finished: it is our turn, once.
            waiting = [(job, run) for job, run in waiting if is_held(run.path) or not (run.has_ended or attempt)]
            if not waiting:
                break
            while any(is_held(run.path) for _, run in waiting):
                time.sleep(POLL_SECONDS)
        for trial, run in zip(trials, runs, strict=True):
            is_result = run.status in FINISHED
            self.study.tell(
                trial,
                [objective(run, metric) for metric in self.metrics] if is_result else None,
                state=TrialState.COMPLETE if is_result else TrialState.FAIL,
                skip_if_finished=True,  # by a process that has taken it over
            )

    def report(self) -> None:
        """Print the best trials and write them down; have the table show all runs of the search."""
        self._list_runs()
        if not self._trials(TrialState.COMPLETE):
            print("no trial of the search has a result", flush=True)
            return
        best = [self.study.best_trial] if len(self.metrics) == 1 else self.study.best_trials
        found = [(self.space.values(trial.params), trial.values) for trial in best]
        for values, numbers in found:
            words = [
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
            ]
            names = [
                f"{metric or 'objective'} {number:.4g}" for metric, number in zip(self.metrics, numbers, strict=True)
            ]
            print(f"best: {' '.join(words)}  {', '.join(names)}", flush=True)
        if len(self.metrics) == 1:
            result: dict[str, Any] = {"best_params": found[0][0], "best_value": found[0][1][0]}
        else:
            result = {"solutions": [{"params": values, "values": numbers} for values, numbers in found]}
        write_atomic(self.folder / "optimization_results.yaml", yaml.safe_dump({"name": "optuna", **result}))
