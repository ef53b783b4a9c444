"""Jobs on a Ray cluster, as tasks. Ray ends them with the process that started them, so the sweep waits for them.

A job that is killed has failed. One whose machine has died is started again, and goes on from its checkpoint.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.outcome import FAILED
from runner.signals import STOP_CODES
from runner.storage.directory import Run
from runner.storage.lock import is_held
from runner.sweep.cluster import End, Engine, Job, Refused
from runner.sweep.job import train_in_engines_process

# As of 2.47 Ray repeats `uv run` in its workers, in an environment without Ray: they never start.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, TaskCancelledError, WorkerCrashedError

CONNECT_SECONDS = 10.0  # within which a cluster answers
LEAVING_SECONDS = 30.0  # in which the job of a driver or of a machine that has died ends as well
REASONS = {
    WorkerCrashedError: "its process died (killed by somebody, or a crash in native code)",
    OutOfMemoryError: "Ray killed its process, since the memory of its machine was nearly used up",
    TaskCancelledError: "its task was cancelled",
    NodeDiedError: "its machine died",
}


class RayEngine(Engine):
    """A Ray cluster.

    Args:
        address: of the cluster (auto: that of this machine; null: start one).
        num_cpus: cores of each job.
        num_gpus: GPUs of each job whose run does not say.
        mem_gb: memory of each job whose run does not say (null: any).
        restarts: times that a job is started again after its machine has died.
    """

    def __init__(
        self, address: str | None, num_cpus: float, num_gpus: float | None, mem_gb: float | None, restarts: int
    ) -> None:
        self.address, self.restarts = address, restarts
        self.usual = {"num_cpus": num_cpus, "num_gpus": num_gpus, "mem_gb": mem_gb}

    def attached(self, runs: Sequence[Run]) -> Mapping[Path, Job]:
        """Connect to the cluster; return no job, since those of an earlier command have died with it.

        Raises:
            Refused: if there is no cluster, or none of its machines has what a job needs: Ray would wait for one.
        """
        if runs and not ray.is_initialized():  # by the trials before, in a search
            _connect(self.address)
        if runs:
            machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            for run in runs:
                _require(self._needs_of(run), machines)
        return {}

    def _needs_of(self, run: Run) -> dict[str, float]:
        said = {"num_gpus": run.config["resources"]["gpus"], "mem_gb": run.config["resources"]["mem_gb"]}
        needs = self.usual | {key: value for key, value in said.items() if value is not None}
        return {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"] or 0, "memory": (needs["mem_gb"] or 0) * 2**30}

    def submit(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Job]]:
        """Submit a task for each run."""
        for run in runs:
            yield run, RayJob(run, self._needs_of(run), self.restarts)

    def cancel(self, jobs: Sequence[Any], at_once: bool) -> None:
        """End tasks: those that run get a Ctrl-C, unless it is to be at once."""
        for job in jobs:
            ray.cancel(job.task, force=at_once)


def _connect(address: str | None) -> None:
    """Connect to a cluster, whose processes are to find all packages that this one finds."""
    path = os.pathsep.join(map(os.path.abspath, os.environ["PYTHONPATH"].split(os.pathsep)))
    where = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    try:
        if found := re.fullmatch(r"(.+):(\d+)", where or ""):  # Ray itself would try for minutes
            socket.create_connection((found[1], int(found[2])), CONNECT_SECONDS).close()
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise Refused(f"hydra.launcher.address={where} leads to no Ray cluster: {_first_line(error)}") from error


def _require(needs: Mapping[str, float], machines: Sequence[Mapping[str, float]]) -> None:
    if any(all(machine.get(name, 0) >= number for name, number in needs.items()) for machine in machines):
        return
    most = {name: max((machine.get(name, 0) for machine in machines), default=0) for name in needs}
    raise Refused(
        f"a job must need no more than one machine of the Ray cluster has, got {_words(needs)}; "
        f"the most that one has: {_words(most)}"
    )


def _words(resources: Mapping[str, float]) -> str:
    return f"{resources['CPU']:g} CPU, {resources['GPU']:g} GPU, {resources['memory'] / 2**30:.3g} GB"


class RayJob:
    """A task, and those that take its place when its machine has died.

    Args:
        run: to train.
        needs: of the job, by Ray's names.
        restarts: times that it may be started again.
    """

    def __init__(self, run: Run, needs: Mapping[str, float], restarts: int) -> None:
        self.run, self.needs, self.restarts, self.log = run, needs, restarts, run.log
        self.start()

    def start(self) -> None:
        """Submit the task."""
        cores, gpus, memory = self.needs["CPU"], self.needs["GPU"], self.needs["memory"]
        options = {"num_cpus": cores, "num_gpus": gpus, "memory": memory or None, "max_retries": 0}  # Ray's are silent
        self.task = ray.remote(_train).options(**options).remote(self.run, Path.cwd(), max(1, int(cores)))
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
        print(f"started again: {self.run.title}  job {self.id}, since {REASONS[NodeDiedError]}", flush=True)
        return None


def _end_of(error: RayError) -> End:
    known = next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), None)
    code = STOP_CODES[0] if isinstance(error, TaskCancelledError) else FAILED
    return End(code, known or _first_line(error))


def _first_line(error: Exception) -> str:
    """Return what an error says; one that was raised in a process of Ray's says what its cause does."""
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


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
