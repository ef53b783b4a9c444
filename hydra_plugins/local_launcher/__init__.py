"""What Hydra finds of this project's sweeps: thin classes, read at every start, so torch stays out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from runner.sweep.pool import Reason


class LocalLauncher(Launcher):
    """Runs each job in a process of its own on this machine, some at a time; a bad job ends alone.

    Args:
        n_jobs: jobs at a time (>= 1; null: as many as cores).
    """

    largest = 1

    def __init__(self, n_jobs: int | None = None) -> None:
        self.n_jobs = n_jobs
        self.reason: Reason | None = None  # to stop a run; a search that prunes has some

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs that are not done yet, and return the objectives of all."""
        from runner.sweep.conclude import checked_runs
        from runner.sweep.pool import run_all

        runs = checked_runs(self.loader, self.config, job_overrides)
        return _returns(job_overrides, run_all(runs, self.n_jobs, self.largest, self.reason))


def _returns(jobs: Sequence[Sequence[str]], objectives: Sequence[float]) -> list[JobReturn]:
    """Return what Hydra's sweepers take for a job that has ended."""
    return [
        JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=objective)
        for overrides, objective in zip(jobs, objectives, strict=True)
    ]


class _ClusterLauncher(Launcher):
    """Submits jobs to a cluster; each is waited for by itself, and a bad job ends alone.

    Args:
        options: of the cluster's engine, see `conf/hydra/launcher`.
    """

    def __init__(self, **options: Any) -> None:
        self.options: Any = OmegaConf.to_container(OmegaConf.create(options))

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def engine(self) -> Any:
        """Return the engine, see `runner.sweep.cluster`."""
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs that are not done yet, and return the objectives of all."""
        from runner.sweep.cluster import run_all
        from runner.sweep.conclude import checked_runs

        runs = checked_runs(self.loader, self.config, job_overrides)
        return _returns(job_overrides, run_all(runs, self.engine(), self.config.sweep.wait))


class SlurmLauncher(_ClusterLauncher):
    """Runs the jobs on the Slurm cluster of this machine."""

    def engine(self) -> Any:
        from runner.sweep.slurm import SlurmEngine

        return SlurmEngine(**self.options)


class SubmititLauncher(_ClusterLauncher):
    """Runs the jobs as submitit's processes on this machine, all at the same time."""

    def engine(self) -> Any:
        from runner.sweep.slurm import MachineEngine

        return MachineEngine(**self.options)


class RayLauncher(_ClusterLauncher):
    """Runs the jobs as tasks of a Ray cluster."""

    def engine(self) -> Any:
        from runner.sweep.ray_engine import RayEngine

        return RayEngine(**self.options)


class StackedLauncher(LocalLauncher):
    """Trains jobs that differ in numbers alone as one stack of models in a process, and the others as `local` does.

    Args:
        n_jobs: stacks, or single jobs, at a time (>= 1; null: as many as cores).
        largest: number of jobs in a stack (>= 2).
    """

    def __init__(self, n_jobs: int | None = None, largest: int = 64) -> None:
        super().__init__(n_jobs)
        self.largest = largest


class GridSweeper(BasicSweeper):
    """Hydra's own sweeper, with two differences: all configs are checked before any job starts, and it knows arms."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run a job for each point of the grid, or of the grids of all arms."""
        from runner.storage.members import start_list
        from runner.sweep.arms import run_arms

        start_list()
        self.config.hydra.sweep.dir = os.path.expanduser(self.config.hydra.sweep.dir)  # Hydra makes this folder
        if not self.config.sweep.arms:
            return super().sweep(arguments)
        return run_arms(self.hydra_context.config_loader, self.config, [*self._parse_config(), *arguments], self.launch)

    def launch(self, jobs: list[list[str]]) -> None:
        """Run some jobs, all of them checked before."""
        self.validate_batch_is_legal(jobs)
        for job in self.launcher.launch(jobs, initial_job_idx=0):
            _ = job.return_value  # raises what the job has raised

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Exit with code 2 and a sentence for each problem; our launchers do so by themselves."""
        from runner.sweep.conclude import checked_runs

        if not isinstance(self.launcher, LocalLauncher | _ClusterLauncher):
            checked_runs(self.hydra_context.config_loader, self.config, batch)


class SearchSweeper(Sweeper):
    """Proposes the jobs by Optuna, some at a time, by what the jobs before them have shown.

    Args:
        params: values and ranges that a file gives, by key.
        options: of the search, see `runner.sweep.search.Options`.
    """

    def __init__(self, params: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.params, self.options = params or {}, options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.config = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until the study has as many as it is to have."""
        from runner.sweep.search import Options, run_search

        lines = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        run_search(self.loader, self.config, lines, Options(**self.options), self.launch)

    def launch(self, jobs: list[list[str]], reason: Reason | None) -> None:
        """Run some jobs, each until there is a reason to stop it; how it ended stands in its run's directory."""
        if isinstance(self.launcher, LocalLauncher):
            self.launcher.reason = reason
        self.launcher.launch(jobs, initial_job_idx=0)
