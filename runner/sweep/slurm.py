"""Jobs on Slurm, started by submitit.

The job of a run writes who it is into the run's directory, so that the same command finds it again. A job that is
preempted or meets its time limit is queued again by submitit, and resumes from its checkpoint.
"""

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
from runner.sweep.cluster import End, Engine, Job, Refused
from runner.sweep.job import train_in_engines_process
from runner.sweep.pool import reason_of_death

GENERIC = (
    "name",
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "mem_gb",
    "stderr_to_stdout",
)  # not of Slurm alone


class _Training(submitit.helpers.Checkpointable):
    """What submitit runs in a job; it may do so several times."""

    def __init__(self, run: Run, folder: Path, threads: int) -> None:
        self.run, self.folder, self.threads = run, folder, threads

    def __call__(self) -> None:
        train_in_engines_process(self.run, self.folder, self.threads)


def _resources(wanted: Mapping[str, Any]) -> dict[str, Any]:
    if (wanted["gpus"] or 0) % 1:
        raise Refused(f"resources.gpus must be a whole number under this launcher, got {wanted['gpus']}")
    return {"gpus_per_node": wanted["gpus"], "mem_gb": wanted["mem_gb"]}


def _in_one_line(error: Exception) -> str:
    lines = [line.removeprefix("sbatch: ").removeprefix("error: ").strip() for line in str(error).splitlines()]
    return "; ".join(filter(None, lines))


def _groups(runs: Sequence[Run], largest: int) -> Iterator[list[Run]]:
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


class SlurmEngine(Engine):
    """Jobs on the Slurm cluster of this machine, in arrays.

    Args:
        folder: of submitit's files; %j stands for the job.
        max_num_timeout: how often a job may meet its time limit and be queued again.
        python: command that starts Python in a job (null: this one).
        options: of sbatch, as conf/hydra/launcher/submitit_cluster.yaml explains them; null ones are left out.
    """

    def __init__(self, folder: str, max_num_timeout: int, python: str | None, **options: Any) -> None:
        self.folder, self.options, self.queue = folder, options, queue()
        self.how = {"slurm_max_num_timeout": max_num_timeout, "slurm_python": python}

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
            for run, job in zip(group, self._submit_array(group), strict=True):
                ticket = Ticket(cluster, job.job_id, str(job.paths.stdout))
                ticket.write(run.path)
                yield run, _SlurmJob(self.queue, ticket)

    def _submit_array(self, runs: Sequence[Run]) -> list[submitit.Job[None]]:
        """Submit an array of jobs that need the same resources."""
        wanted = runs[0].config["resources"]
        options = self.options | {key: value for key, value in _resources(wanted).items() if value is not None}
        given = {key if key in GENERIC else f"slurm_{key}": value for key, value in options.items()}
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                executor = submitit.AutoExecutor(self.folder, "slurm", **self.how)
                executor.update_parameters(**given)
                here, threads = Path.cwd(), self.options["cpus_per_task"]
                return executor.submit_array([_Training(run, here, threads) for run in runs])
        except (RuntimeError, AssertionError, NameError, OSError) as error:
            raise Refused(f"slurm does not take the jobs: {_in_one_line(error)}") from error

    def cancel(self, jobs: Sequence[Job], at_once: bool) -> None:
        """Cancel jobs."""
        self.queue.cancel([job.id for job in jobs], at_once)
