"""Jobs on Slurm, or as processes of this machine, both started by submitit.

The job of a run writes who it is into the run's directory, so that the same command finds it again. A job that is
preempted or meets its time limit is queued again by submitit, and resumes from its checkpoint.
"""

from __future__ import annotations

import io
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from itertools import islice
from os import waitstatus_to_exitcode
from pathlib import Path
from typing import Any

import submitit

from runner.signals import STOP_CODES
from runner.storage.directory import Run
from runner.storage.slurm import ENDS, NoAnswer, Queue, Ticket, queue, queued
from runner.sweep.cluster import End, Job, Refused
from runner.sweep.job import train_in_engines_process
from runner.sweep.pool import reason_of_death

TAKERS = {"slurm": "slurm", "local": "hydra/launcher=submitit_machine"}  # executor -> its name for a user
GENERIC = ("name", "timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "stderr_to_stdout")  # of any executor


class _Training(submitit.helpers.Checkpointable):
    """What submitit runs in a job; it may do so several times."""

    def __init__(self, run: Run, folder: Path, threads: int) -> None:
        self.run, self.folder, self.threads = run, folder, threads

    def __call__(self) -> None:
        train_in_engines_process(self.run, self.folder, self.threads)


class _Executor:
    """Starts jobs by submitit.

    Args:
        kind: of submitit's executors (slurm, local).
        folder: of submitit's files; %j stands for the job.
        max_num_timeout: how often a job may meet its time limit and be queued again.
        python: command that starts Python in a job (null: this one).
        options: of the executor, as conf/hydra/launcher/submitit_cluster.yaml explains them; null ones are left out.
    """

    def __init__(self, kind: str, folder: str, max_num_timeout: int, python: str | None, **options: Any) -> None:
        self.kind, self.folder, self.options = kind, folder, options
        self.how = {f"{kind}_max_num_timeout": max_num_timeout, f"{kind}_python": python}

    def start(self, runs: Sequence[Run]) -> list[submitit.Job[None]]:
        """Submit an array of jobs that need the same resources.

        Raises:
            Refused: with what the executor says.
        """
        wanted = runs[0].config["resources"]
        options = self.options | {key: value for key, value in _resources(wanted).items() if value is not None}
        given = {key if key in GENERIC else f"{self.kind}_{key}": value for key, value in options.items()}
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                executor = submitit.AutoExecutor(self.folder, self.kind, **self.how)
                executor.update_parameters(**given)
                here, threads = Path.cwd(), self.options["cpus_per_task"]
                return executor.submit_array([_Training(run, here, threads) for run in runs])
        except (RuntimeError, AssertionError, NameError, OSError) as error:
            raise Refused(f"{TAKERS[self.kind]} does not take the jobs: {_in_one_line(error)}") from error


def _resources(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run needs as options of an executor."""
    if (wanted["gpus"] or 0) % 1:
        raise Refused(f"resources.gpus must be a whole number under this launcher, got {wanted['gpus']}")
    return {"gpus_per_node": wanted["gpus"], "mem_gb": wanted["mem_gb"]}


def _in_one_line(error: Exception) -> str:
    """Return what an executor says of its failure, without the prefixes of sbatch's lines."""
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in str(error).splitlines()]
    return "; ".join(filter(None, lines))


def _groups(runs: Sequence[Run], largest: int) -> Iterator[list[Run]]:
    """Yield the runs that need the same resources, at most so many together."""
    groups = defaultdict(list)
    for run in runs:
        groups[tuple(run.config["resources"].items())].append(run)
    for group in groups.values():
        rest = iter(group)
        while some := list(islice(rest, largest)):
            yield some


class _SlurmJob:
    """A job in Slurm's queue."""

    def __init__(self, queue: Queue, ticket: Ticket) -> None:
        self.queue, self.id, self.log, self.since = queue, ticket.job, Path(ticket.log), time.monotonic()

    def ended(self) -> End | None:
        try:
            state = self.queue.state(self.id)
        except NoAnswer:
            return None
        if not self.queue.knows_of(self.since):
            return None
        if state is None:  # too long ago for Slurm to remember: what the run says counts
            return End(0, f"job {self.id} left the queue without a result")
        if not state.has_ended:
            return None
        code = _exit_code(state.status) if state.name in ("COMPLETED", "FAILED") else -signal.SIGKILL
        return End(code, f"{ENDS[state.name] or reason_of_death(code)} (job {self.id}: {state.name})")


def _exit_code(status: int) -> int:
    """Return the exit code of a process, negative for a signal that killed it: srun tells it by 128 and its number."""
    code = waitstatus_to_exitcode(status)
    return 128 - code if 128 < code < 160 and code not in STOP_CODES else code


class SlurmEngine:
    """Jobs on the Slurm cluster of this machine, in arrays.

    Args:
        options: of `_Executor`.
    """

    def __init__(self, **options: Any) -> None:
        self.executor, self.queue = _Executor("slurm", **options), queue()

    def attached(self, runs: Sequence[Run]) -> dict[Path, Job]:
        """Return the jobs that are queued or running."""
        try:
            tickets = queued([run.path for run in runs])
        except NoAnswer as error:
            raise Refused(str(error)) from error
        return {path: _SlurmJob(self.queue, ticket) for path, ticket in tickets.items()}

    def submit(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Job]]:
        """Submit arrays of jobs, each as long as Slurm allows."""
        try:
            cluster, largest = self.queue.cluster, self.queue.largest_array
        except NoAnswer as error:
            raise Refused(str(error)) from error
        for group in _groups(runs, largest):
            for run, job in zip(group, self.executor.start(group), strict=True):
                ticket = Ticket(cluster, job.job_id, str(job.paths.stdout))
                ticket.write(run.path)
                yield run, _SlurmJob(self.queue, ticket)

    def cancel(self, jobs: Sequence[Job], at_once: bool) -> None:
        """Cancel jobs."""
        self.queue.cancel([job.id for job in jobs], at_once)


class _LocalJob:
    """A process of this machine, under submitit's supervision."""

    def __init__(self, job: submitit.Job[None]) -> None:
        self.job, self.id, self.log = job, job.job_id, job.paths.stdout

    def ended(self) -> End | None:
        if self.job.state == "RUNNING":
            return None
        return End(0 if self.job.paths.result_pickle.exists() else 1, "its process died during training")


class MachineEngine:
    """Jobs as processes of this machine, all at the same time.

    Args:
        options: of `_Executor`.
    """

    def __init__(self, **options: Any) -> None:
        self.executor = _Executor("local", **options)

    def attached(self, runs: Sequence[Run]) -> dict[Path, Job]:
        """Return none: nobody can be asked for them."""
        return {}

    def submit(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Job]]:
        """Start the jobs."""
        for group in _groups(runs, len(runs)):
            yield from zip(group, map(_LocalJob, self.executor.start(group)), strict=True)

    def cancel(self, jobs: Sequence[Any], at_once: bool) -> None:
        """Interrupt jobs; submitit kills them a second later."""
        for each in jobs:
            each.job.cancel()
