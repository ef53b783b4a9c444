"""Jobs in processes of their own, some at a time: a crash, a kill or a lack of memory ends one job and not the sweep.

The children are forked from a process that has imported torch but run nothing of it: a job then starts within a few
hundredths of a second instead of seconds. (After a torch operation the parent's threads would be missing in the
child, which would hang; so would a CUDA context.)
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from runner.config.check import ConfigError, exit_with_problems
from runner.outcome import BUSY, FAILED, objective
from runner.signals import StopSignals
from runner.storage.directory import FINISHED, Busy, Run
from runner.sweep.child import child
from runner.sweep.job import record_end
from runner.sweep.overview import Overview
from runner.system import cores

GRACE_SECONDS = 30.0  # for a stopped job to end its step and save, mostly a fraction of a second; then it is killed
STOPPED = tuple(128 + number for number in StopSignals.NUMBERS)  # exit codes of a run that a signal has stopped
TICK_SECONDS = 0.1  # between looks at signals and redrawings


def run_all(runs: Sequence[Run], n_jobs: int | None) -> list[float]:
    """Train in all directories whose run is not settled yet, and return what a sweeper minimises.

    Args:
        directories: of checked configs; a run that occurs twice is trained once.
        n_jobs: processes at a time (>= 1; null: as many as cores); each has its share of the cores as threads.
    """
    jobs = {run.path: run for run in runs}
    unsettled = [run for run in jobs.values() if not run.needs_no_training]
    n_jobs = n_jobs or cores()  # not fewer for fewer jobs: the bits of a result depend on the threads
    threads = max(1, cores() // n_jobs)
    print(
        f"sweep of {len(jobs)} job{'s' * (len(jobs) != 1)}, {len(jobs) - len(unsettled)} of them settled before: "
        f"{n_jobs} at a time, {threads} thread{'s' * (threads > 1)} each",
        flush=True,
    )
    for run in jobs.values():
        if run.needs_no_training:
            run.mark_seen()  # now, since a signal may end the sweep below
    if unsettled:
        import_all(unsettled)
        gc.freeze()  # what is shared with the children stays shared
        try:
            Pool(n_jobs, threads, unsettled[0].config["sweep"]["on_error"], len(jobs)).run(unsettled)
        finally:
            gc.unfreeze()
    for run in jobs.values():
        run.mark_seen()
    return [objective(run) for run in runs]


def import_all(runs: Sequence[Run]) -> None:
    """Import here, once, what every job imports; then hold all options against the signatures of their classes."""
    if any(run.config["data"]["_target_"] == "data.Digits" for run in runs):
        import sklearn.datasets  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import torch._dynamo  # noqa: F401 (the first optimizer of a process imports it)

    import runner.run  # noqa: F401
    from runner.instantiate import check_signatures

    problems = []
    for run in runs:
        if run.config["allow_targets"]:
            continue  # a user's module may run torch operations when imported: in the job alone
        try:
            check_signatures(run.config)
        except ConfigError as error:
            problems += str(error).splitlines()
    if problems:
        exit_with_problems(problems)


class Pool:
    """Runs jobs until all are settled, or a signal comes, or one fails and that is to stop the rest.

    Args:
        n_jobs: processes at a time.
        threads: of each.
        on_error: what a failure does to the other jobs (continue, stop).
        total: jobs of the sweep, those settled before included; for the overview.
    """

    def __init__(self, n_jobs: int, threads: int, on_error: str, total: int) -> None:
        self.n_jobs, self.threads, self.on_error, self.total = n_jobs, threads, on_error, total
        self.processes = multiprocessing.get_context("fork")
        self.running: dict[BaseProcess, Run] = {}
        self.stopping = False

    def run(self, runs: Sequence[Run]) -> None:
        """Train in all directories."""
        waiting = deque(runs)
        with StopSignals() as signals, Overview(runs, self.total) as self.overview:
            while waiting or self.running:
                while waiting and len(self.running) < self.n_jobs:
                    self.start(waiting.popleft())
                statuses = self.reap(TICK_SECONDS)
                if signals.received is not None:
                    self.stop(signals.received)
                    sys.exit(128 + signals.received)
                if "failed" in statuses and self.on_error == "stop":
                    self.stop(signal.SIGTERM)
                    self.overview.say("stopped after a failure: sweep.on_error=stop")
                    sys.exit(FAILED)

    def start(self, run: Run) -> None:
        """Fork a job."""
        sys.stdout.flush()
        process = self.processes.Process(target=child, args=(run, self.threads, os.getpid()))
        process.start()
        self.running[process] = run
        self.overview.started(run)

    def reap(self, seconds: float) -> list[str]:
        """Wait a little for jobs to end; tell how those did that ended, and return their statuses."""
        wait([process.sentinel for process in self.running], timeout=seconds)
        statuses = []
        for process in [process for process in self.running if process.exitcode is not None]:
            run = self.running.pop(process)
            statuses.append(record_exit(run, process.exitcode or 0, self.stopping))
            self.overview.ended(run, statuses[-1])
            process.close()
        self.overview.draw()
        return statuses

    def stop(self, number: int) -> None:
        """Hand a signal on, give the jobs a little time to save their states, and kill what is left."""
        self.stopping = True
        for process in self.running:
            os.kill(process.pid, number)  # type: ignore[arg-type]
        end = time.monotonic() + GRACE_SECONDS
        while self.running and time.monotonic() < end:
            self.reap(TICK_SECONDS)
        for process in self.running:
            process.kill()
        while self.running:
            self.reap(TICK_SECONDS)


def record_exit(run: Run, exit_code: int, stopping: bool) -> str:
    """Return how a job's run stands after its process ended; if that died without a word, write down why.

    Args:
        run: of the run.
        exit_code: of its process, negative for a signal.
        stopping: the sweep itself ends its jobs.
    """
    try:
        with run.locked():
            status = run.result().get("status")
            if status in (*FINISHED, "failed") and exit_code in (0, BUSY):  # or another process has trained it
                return str(status)
            if stopping:
                unsaved = ", killed before it could save" if exit_code == -signal.SIGKILL else ""
                record_end(run, "interrupted", f"stopped with the sweep{unsaved}")
                return "interrupted"
            if status == "interrupted" and exit_code in STOPPED:
                return "interrupted"
            record_end(run, "failed", reason_of_death(exit_code))
    except Busy:
        return "busy"
    except OSError as error:  # the disk is full: it cannot be written down
        print(f"{run.path.name}: {error}", file=sys.stderr, flush=True)
    return "failed"


def reason_of_death(exit_code: int) -> str:
    """Return in words how a process ended; multiprocessing makes signals negative."""
    if exit_code >= 0:
        return f"its process left with exit code {exit_code} in the midst of training"
    name = signal.Signals(-exit_code).name
    memory = " (by somebody, or by the system for lack of memory)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{memory}"
