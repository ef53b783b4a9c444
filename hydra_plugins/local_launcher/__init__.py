"""What Hydra finds of this project's sweeps: thin classes, read at every start, so torch stays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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


class _Sweeper(Sweeper):
    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.config = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )


class GridSweeper(_Sweeper):
    """Runs a job for each point of the grid, or of the grids of all arms.

    Args:
        params: values that a file gives, by key.
        max_batch_size: jobs that the launcher gets at a time (null: all).
    """

    def __init__(self, params: Mapping[str, Any] | None = None, max_batch_size: int | None = None) -> None:
        self.params, self.max_batch_size = params or {}, max_batch_size

    def sweep(self, arguments: list[str]) -> None:
        from runner.config.compose import Composer, combinations
        from runner.storage.members import start_list
        from runner.sweep.arms import run_arms

        start_list()
        lines = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        if self.config.sweep.arms:
            return run_arms(self.loader, self.config, lines, self.launch)
        composer = Composer(self.loader)
        overrides = {override.get_key_element(): override for override in map(composer.parsed, lines)}  # the last wins
        jobs = combinations([*overrides.values()])
        size = self.max_batch_size or len(jobs)
        for start in range(0, len(jobs), size):
            self.launch(jobs[start : start + size])

    def launch(self, jobs: list[list[str]]) -> None:
        """Run some jobs."""
        for job in self.launcher.launch(jobs, initial_job_idx=0):
            _ = job.return_value  # raises what the job has raised


class SearchSweeper(_Sweeper):
    """Proposes the jobs by Optuna, some at a time, by what the jobs before them have shown.

    Args:
        params: values and ranges that a file gives, by key.
        options: of the search, see `runner.sweep.search.Options`.
    """

    def __init__(self, params: Mapping[str, Any] | None = None, **options: Any) -> None:
        self.params, self.options = params or {}, options

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
