"""Jobs in processes of their own, some at a time: a crash, a kill or a lack of memory ends one job and not the sweep.

The children are forked from a process that has imported torch but run nothing of it: a job then starts within a few
hundredths of a second instead of seconds. (After a torch operation the parent's threads would be missing in the
child, which would hang; so would a CUDA context.)
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from runner.config.check import ConfigError, exit_with_problems
from runner.config.text import wrapped
from runner.outcome import BAD_CONFIG, FAILED, check_objectives
from runner.signals import StopSignals
from runner.stack.grouping import lines_of, stacks_of
from runner.storage.directory import Run
from runner.storage.lock import is_held
from runner.storage.status import Status
from runner.sweep.cluster import StopCheck
from runner.sweep.job import record_exit, train_in_own_process
from runner.sweep.overview import Overview
from runner.system import cores, gpus, importing_much, share_with_forks

GRACE_SECONDS = 30.0  # for a stopped job to end its step and save, mostly a fraction of a second; then it is killed
TICK_SECONDS = 0.1  # between looks at signals and redrawings
POLL_SECONDS = 1.0  # between looks at the runs that other processes train


class Local:
    """Each job in a process of its own on this machine, some at a time; a bad job ends alone.

    Args:
        n_jobs: jobs at a time (>= 1; null: as many as cores).
    """

    largest = 1

    def __init__(self, n_jobs: int | None = None) -> None:
        self.n_jobs = n_jobs

    def run_all(self, runs: Sequence[Run], stop_check: StopCheck | None = None) -> None:
        """Train all runs that need it; one is stopped as soon as there is a reason to."""
        run_all(runs, self.n_jobs, self.largest, stop_check)


class Stacked(Local):
    """Trains jobs that differ in numbers alone as one stack of models in a process, and the others as `Local` does.

    Args:
        n_jobs: stacks, or single jobs, at a time (>= 1; null: as many as cores).
        largest: number of jobs in a stack (>= 2).
    """

    def __init__(self, n_jobs: int | None = None, largest: int = 64) -> None:
        super().__init__(n_jobs)
        self.largest = largest


def run_all(runs: Sequence[Run], n_jobs: int | None, largest: int = 1, reason: StopCheck | None = None) -> None:
    """Train all runs that need it.

    Args:
        runs: of checked configs; one that occurs twice is trained once.
        n_jobs: processes at a time (>= 1; null: as many as cores); each has its share of the cores as threads.
        largest: number of runs that one process trains as a stack, where they can be stacked (1: none).
        reason: to prune a run, if there is one.
    """
    jobs = {run.path: run for run in runs}
    waiting = [run for run in jobs.values() if not run.needs_no_training]
    n_jobs = n_jobs or cores()  # not fewer for fewer jobs: the bits of a result depend on the threads
    threads = max(1, cores() // n_jobs)
    devices = gpus() if any(_may_use_gpu(run) for run in waiting) else []
    print(
        f"sweep of {len(jobs)} job{'s' * (len(jobs) != 1)}, {len(jobs) - len(waiting)} of them ended before: "
        f"{n_jobs} at a time, {threads} thread{'s' * (threads > 1)} each"
        + (f", on {len(devices)} GPUs in turn" if len(devices) > 1 else ""),
        flush=True,
    )
    stacks, alone = stacks_of([*jobs.values()], n_jobs, largest) if largest > 1 else ([], {"": waiting})
    for line in lines_of(stacks, alone) if largest > 1 else ():
        print(wrapped(line), flush=True)
    if waiting:
        _import_all(waiting)
        _check_metric(waiting[0])
        from runner.training import compatibility

        share_with_forks()
        groups = [*stacks, *([run] for runs in alone.values() for run in runs)]
        pool = _Pool(n_jobs, threads, devices, waiting[0].config["sweep"]["on_error"], len(jobs), reason)
        with tempfile.TemporaryDirectory() as compatibility.VERIFIED:
            pool.run(groups, waiting)
    check_objectives(runs)


def _import_all(runs: Sequence[Run]) -> None:
    """Import here, once, what every job imports; then check all options against the signatures of their classes."""
    with importing_much("torch"):
        import torch._dynamo
        import torch.utils.serialization.config  # noqa: F401 (the first checkpoint does)

        import runner.stack.session

        if any(run.config["pictures"] for run in runs):
            import matplotlib.backends.backend_agg  # noqa: F401 (the first picture does)

            import runner.recording.pictures  # noqa: F401
    from runner.storage.provenance import commit
    from runner.training.instantiate import check_signatures

    commit()  # it is remembered
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


def _check_metric(run: Run) -> None:
    if run.config["objective_metric"] is not None:
        sys.stdout.flush()
        child = multiprocessing.get_context("fork").Process(target=_build, args=(run,))
        child.start()
        child.join()
        if child.exitcode == BAD_CONFIG:
            sys.exit(BAD_CONFIG)


def _build(run: Run) -> None:
    from runner.run import built

    try:
        built(run)
    except ConfigError as error:
        if problems := [line for line in str(error).splitlines() if line.startswith("objective_metric")]:
            exit_with_problems(problems)
    except Exception:
        return


class _Pool:
    """Run jobs until all have ended, or a signal comes, or one fails and on_error is stop.

    Args:
        n_jobs: processes at a time.
        threads: of each.
        devices: names of the GPUs; each job that may use one sees that with the fewest jobs.
        on_error: what a failure does to the other jobs (continue, stop).
        total: jobs of the sweep, those that ended before included; for the overview.
        reason: to prune a run, if there is one.
    """

    def __init__(
        self, n_jobs: int, threads: int, devices: Sequence[str], on_error: str, total: int, reason: StopCheck | None
    ) -> None:
        self.n_jobs, self.threads, self.on_error, self.total, self.reason = n_jobs, threads, on_error, total, reason
        self.devices = devices
        self.gpu_of: dict[BaseProcess, str | None] = {}  # of each running job
        self.pruned: dict[Path, str] = {}  # runs that have been told to end, and why
        self.processes = multiprocessing.get_context("fork")
        self.running: dict[BaseProcess, list[Run]] = {}  # what each trains
        self.busy: list[Sequence[Run]] = []  # jobs of which another process trains a run
        self.stacks: set[BaseProcess] = set()  # that train several runs, of which some may have ended
        self.stopping = self.is_waiting = False
        self.looked = 0.0  # when the runs of other processes were looked at

    def run(self, jobs: Sequence[Sequence[Run]], runs: Sequence[Run]) -> None:
        """Train all runs: each job is a stack of them, or a single one."""
        waiting, self.expected = deque(jobs), {run.path for run in runs}
        with StopSignals() as signals, Overview(runs, self.total) as self.overview:
            while waiting or self.running or self.busy:
                while waiting and len(self.running) < self.n_jobs:
                    self.start(waiting.popleft())
                statuses = self.reap(TICK_SECONDS)
                waiting += self.left_by_others(is_idle=not (waiting or self.running))
                self.prune()
                if signals.received is not None:
                    self.stop(signals.received)
                    sys.exit(128 + signals.received)
                if Status.FAILED in statuses and self.on_error == "stop":
                    self.stop(signal.SIGTERM)
                    self.overview.say("stopped after a failure: sweep.on_error=stop")
                    sys.exit(FAILED)

    def start(self, runs: Sequence[Run]) -> None:
        """Fork a job, unless another process has ended its runs meanwhile."""
        left = [run for run in runs if not run.needs_no_training]
        for run in (run for run in runs if run not in left and run.path in self.expected):
            self.expected.remove(run.path)
            self.overview.ended([run], str(run.status))
        if not left:
            return
        sys.stdout.flush()
        gpu = min(self.devices, key=[*self.gpu_of.values()].count, default=None) if _may_use_gpu(runs[0]) else None
        process = self.processes.Process(target=train_in_own_process, args=(runs, self.threads, gpu, os.getpid()))
        self.running[process] = left
        if len(runs) > 1:
            self.stacks.add(process)
        self.gpu_of[process] = gpu
        process.start()
        self.overview.started(left)

    def left_by_others(self, is_idle: bool) -> list[Sequence[Run]]:
        """Return the jobs that no other process holds any more: they have ended, or it was stopped.

        Args:
            is_idle: nothing else is to be done but to wait.
        """
        if not self.busy or time.monotonic() - self.looked < POLL_SECONDS:
            return []
        if is_idle and not self.is_waiting:
            self.is_waiting = True
            count = sum(not run.needs_no_training for runs in self.busy for run in runs)
            self.overview.say(f"another process trains {count} of these runs: waiting for it; Ctrl-C leaves it alone")
        self.looked = time.monotonic()
        free = [runs for runs in self.busy if not any(is_held(run.path) for run in runs)]
        self.busy = [runs for runs in self.busy if runs not in free]
        return free

    def reap(self, seconds: float) -> list[str]:
        """Wait a little for jobs to end; report those that did, and return their statuses."""
        wait([process.sentinel for process in self.running], timeout=seconds)
        statuses: list[str] = []
        for process in [process for process in self.running if process.exitcode is not None]:
            runs = self.running.pop(process)
            del self.gpu_of[process]
            in_stack, alike = process in self.stacks, dict[str, list[Run]]()
            for run in runs:
                alike.setdefault(self.status_after(run, process.exitcode or 0, in_stack), []).append(run)
            self.report(alike, in_stack)
            statuses += alike
            self.stacks.discard(process)
            process.close()
        self.overview.draw()
        return statuses

    def report(self, alike: Mapping[str, Sequence[Run]], in_stack: bool) -> None:
        """Report the runs of a process that have ended, by their statuses; those of a stack in one line, if done."""
        for status, runs in alike.items():
            if status == Status.BUSY and not self.stopping:  # another process was faster
                self.busy.append(runs)
                self.overview.left(runs)
                continue
            self.expected -= {run.path for run in runs}
            for some in [runs] if status == Status.DONE else [[run] for run in runs]:
                self.overview.ended(some, status)

    def prune(self) -> None:
        """Have the jobs save their states and end, for whose runs there is a reason."""
        for process, (run, *_) in self.running.items():  # no stacks
            if run.path not in self.pruned and self.reason and (reason := self.reason(run)):
                self.pruned[run.path] = reason
                os.kill(process.pid, signal.SIGTERM)  # type: ignore[arg-type]

    def status_after(self, run: Run, exit_code: int, in_stack: bool) -> str:
        """Return how a run stands after its process exited, maybe later than the run, which is one of a stack."""
        in_order = in_stack and run.has_ended
        reason = reason_of_death(exit_code)
        return record_exit(run, 0 if in_order else exit_code, reason, self.stopping, self.pruned.get(run.path))

    def stop(self, number: int) -> None:
        """Pass a signal on, give the jobs a little time to save their states, and kill what is left."""
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


def _may_use_gpu(run: Run) -> bool:
    return run.config["device"] != "cpu"


def reason_of_death(exit_code: int) -> str:
    """Return in words how a process ended; multiprocessing makes signals negative."""
    if exit_code >= 0:
        return f"its process exited with code {exit_code} during training"
    name = signal.Signals(-exit_code).name
    memory = " (by somebody, or by the system for lack of memory)" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{memory}"
