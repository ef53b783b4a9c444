"""Jobs on a Ray cluster, as tasks. Ray ends them with the process that started them, so the sweep waits for them.

A job that is killed has failed. One whose machine has died is started again, and goes on from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from runner.outcome import FAILED
from runner.signals import STOP_CODES
from runner.storage.directory import Run
from runner.storage.lock import is_held
from runner.sweep.cluster import End, Job, Refused
from runner.sweep.job import train_in_engines_process

# As of 2.47 Ray repeats `uv run` in its workers, in an environment without Ray: they never start.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, TaskCancelledError, WorkerCrashedError

LEAVING_SECONDS = 30.0  # in which the job of a driver or of a machine that has died ends as well
REASONS = {
    WorkerCrashedError: "its process died (killed by somebody, or a crash in native code)",
    OutOfMemoryError: "Ray killed its process, since the memory of its machine was nearly used up",
    TaskCancelledError: "its task was cancelled",
    NodeDiedError: "its machine died",
}


class Needs(NamedTuple):
    """What one job needs of one machine.

    Attributes:
        num_cpus: cores, and threads.
        num_gpus: GPUs; jobs can share one.
        memory_gb: memory that Ray sets aside; null: none.
    """

    num_cpus: float
    num_gpus: float
    memory_gb: float | None

    @property
    def threads(self) -> int:
        return max(1, int(self.num_cpus))

    @property
    def memory(self) -> int | None:
        """The memory in bytes."""
        return int(self.memory_gb * 2**30) if self.memory_gb else None


class RayEngine:
    """A Ray cluster.

    Args:
        address: of the cluster (auto: that of this machine; null: start one).
        needs: of each job.
        restarts: times that a job is started again after its machine has died.

    Raises:
        Refused: if there is no cluster.
    """

    def __init__(self, address: str | None, needs: Needs, restarts: int) -> None:
        self.needs, self.restarts = needs, restarts
        if ray.is_initialized():  # by the trials before, in a search
            return
        path = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))
        try:
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise Refused(f"hydra.launcher.address={address} leads to no Ray cluster: {first}") from error

    def attached(self, runs: Sequence[Run]) -> Mapping[Path, Job]:
        """Return nothing: the tasks of an earlier command have died with it."""
        return {}

    def submit(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Job]]:
        """Submit a task for each run.

        Raises:
            Refused: if no machine of the cluster has what a job needs: Ray would wait for one.
        """
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        wanted = {"CPU": self.needs.num_cpus, "GPU": self.needs.num_gpus, "memory": self.needs.memory or 0}
        if not any(all(machine.get(name, 0) >= number for name, number in wanted.items()) for machine in machines):
            most = {name: max((machine.get(name, 0) for machine in machines), default=0) for name in wanted}
            raise Refused(
                f"hydra.launcher must need no more than a machine of the Ray cluster has (at most {most['CPU']:g} CPU, "
                f"{most['GPU']:g} GPU, {most['memory'] / 2**30:.3g} GB), got {_words(self.needs)}"
            )
        for run in runs:
            yield run, RayJob(run, self.needs, self.restarts)

    def cancel(self, jobs: Sequence[Job], at_once: bool) -> None:
        """End tasks: those that run get a Ctrl-C, unless it is to be at once."""
        for job in jobs:
            assert isinstance(job, RayJob)
            ray.cancel(job.task, force=at_once)


class RayJob:
    """A task, and those that take its place when its machine has died.

    Args:
        run: to train.
        needs: of the job.
        restarts: times that it may be started again.
    """

    def __init__(self, run: Run, needs: Needs, restarts: int) -> None:
        self.run, self.needs, self.restarts, self.log = run, needs, restarts, run.log
        self.start()

    def start(self) -> None:
        """Submit the task."""
        remote = ray.remote(
            num_cpus=self.needs.num_cpus,
            num_gpus=self.needs.num_gpus,
            memory=self.needs.memory,
            max_retries=0,  # Ray's own would be silent
        )(_train)
        self.task = remote.remote(self.run, Path.cwd(), self.needs.threads)
        self.id = self.task.task_id().hex()

    def ended(self) -> End | None:
        """Return how the job ended; a task whose machine has died is started again."""
        if not ray.wait([self.task], timeout=0)[0]:
            return None
        try:
            code = ray.get(self.task)
            return End(code, f"its process exited with code {code}")
        except NodeDiedError as error:
            if not self.restarts:
                return _end_of(error)
        except RayError as error:
            return _end_of(error)
        self.restarts -= 1
        self.start()
        return None


def _end_of(error: RayError) -> End:
    """Return how a job ended that did not return."""
    known = next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), None)
    code = STOP_CODES[0] if isinstance(error, TaskCancelledError) else FAILED
    return End(code, known or next(iter(str(error).splitlines()), type(error).__name__))


def _words(needs: Needs) -> str:
    """Return needs as options of the launcher."""
    return " ".join(f"{name}={value:g}" for name, value in needs._asdict().items() if value)


def _train(run: Run, folder: Path, threads: int) -> int:
    """Train a run in a process of Ray's, and return its exit code; what it prints goes into the run's log."""
    os.chdir(folder)
    end = time.monotonic() + LEAVING_SECONDS
    while is_held(run.path) and time.monotonic() < end:  # by the task before, whose driver or machine has just died
        time.sleep(1)
    run.path.mkdir(parents=True, exist_ok=True)
    before = [os.dup(number) for number in (1, 2)]
    log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(log, number)
    try:
        train_in_engines_process(run, folder, threads)
    except SystemExit as leaving:  # its state is saved
        return leaving.code if leaving.code in STOP_CODES else 128 + signal.SIGTERM
    finally:
        sys.stdout.flush()
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
        for number in (log, *before):
            os.close(number)
    return 0
