"""Jobs on a cluster: each is submitted, waited for by itself, and its end recorded; a bad job ends alone.

What differs from cluster to cluster is an `Engine` and its `Job`s. How a run stands, its own directory says.
"""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from runner.config.check import exit_with_problems
from runner.outcome import FAILED, check_objectives
from runner.signals import StopSignals
from runner.storage.directory import Run
from runner.storage.status import Status
from runner.sweep.job import record_exit
from runner.sweep.overview import Overview, name_of

TICK_SECONDS = 0.2  # between looks at signals and redrawings
STARTS_SECONDS = 5.0  # between looks for runs that have begun
GRACE_SECONDS = 60.0  # for stopped jobs to save; then they are killed
LAG_SECONDS = 10.0  # until a shared file system shows what a job on another machine has written
RECORDERS = 16  # ends recorded at a time: one may wait for the silence of a dead machine (`runner.storage.lock`)


Jobs = Sequence[Sequence[str]]  # the overrides of each job
StopCheck = Callable[[Run], str | None]  # why to stop a run; None if it may go on


class Submitted(Exception):
    """Jobs are left in the queue of a cluster, which does not need this process any more.

    Args:
        number: of the jobs.
        code: exit code of the command.
    """

    def __init__(self, number: int, code: int) -> None:
        super().__init__(number)
        self.number, self.code = number, code


class Refused(RuntimeError):
    """The engine does not take a job; the text is one sentence."""


class End(NamedTuple):
    """How a job ended, as its engine knows it.

    Attributes:
        code: its exit code, 0 if all was in order.
        reason: why, in words, for a run that has recorded no reason itself.
    """

    code: int
    reason: str


class Job(Protocol):
    """A job that is queued, running or ended.

    Attributes:
        id: by which the engine knows it.
        log: what its process prints.
    """

    id: str
    log: Path

    def ended(self) -> End | None:
        """Return how the job ended, None while it is queued or running. It is asked often, and answers at once."""


class Engine(ABC):
    """What starts jobs on a cluster."""

    def run_all(self, runs: Sequence[Run], stop_check: StopCheck | None = None) -> None:
        """Train all runs that need it.

        Args:
            runs: of checked configs; one that occurs twice is trained once.
            stop_check: not used: jobs here cannot be stopped one by one.

        Raises:
            Submitted: if jobs are queued or running and are not waited for.
        """
        jobs = {run.path: run for run in runs}
        waiting = [run for run in jobs.values() if not run.needs_no_training]
        try:
            attached = self.attached(waiting)
        except Refused as refusal:
            exit_with_problems([str(refusal)])
        print(
            f"sweep of {len(jobs)} job{'s' * (len(jobs) != 1)}, {len(jobs) - len(waiting)} of them ended before, "
            f"{len(attached)} queued or running already",
            flush=True,
        )
        if waiting:
            _Watch(self, waiting, attached, len(jobs)).run(waiting[0].config["sweep"]["wait"])
        check_objectives(runs)

    @abstractmethod
    def attached(self, runs: Sequence[Run]) -> Mapping[Path, Job]:
        """Return the jobs of an earlier command that are still queued or running, by the directory of their run.

        Raises:
            Refused: if the engine does not answer.
        """

    @abstractmethod
    def submit(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Job]]:
        """Submit a job for each run, which calls `runner.sweep.job.train_in_engines_process`.

        Raises:
            Refused: if the engine does not take the jobs that are left.
        """

    @abstractmethod
    def cancel(self, jobs: Sequence[Any], at_once: bool) -> None:
        """End jobs: those that run save their states first, unless it is to be at once."""


class _Watch:
    """Submit jobs, and wait until all have ended, or a signal comes, or one fails and sweep.on_error is stop.

    Args:
        engine: that runs them.
        runs: to train.
        attached: jobs that an earlier command has submitted.
        total: jobs of the sweep, those that ended before included; for the overview.
    """

    def __init__(self, engine: Engine, runs: Sequence[Run], attached: Mapping[Path, Job], total: int) -> None:
        self.engine, self.runs, self.attached, self.total = engine, runs, attached, total
        self.on_error = runs[0].config["sweep"]["on_error"]
        self.jobs: dict[Path, tuple[Run, Job]] = {}
        self.before: dict[Path, int] = {}  # when the results from before the jobs were written
        self.begun: set[Path] = set()
        self.looked = 0.0
        self.stopping = False

    def run(self, wait: bool) -> None:
        """Train all runs, or leave their jobs alone once they are submitted."""
        with StopSignals() as signals, Overview(self.runs, self.total) as self.overview:
            all_submitted = self.submit()
            if not wait:
                raise Submitted(len(self.jobs), 0 if all_submitted else FAILED)
            while self.jobs:
                statuses = self.reap()
                if signals.received is not None:
                    self.stop()
                    sys.exit(128 + signals.received)
                if Status.FAILED in statuses and self.on_error == "stop":
                    self.stop()
                    self.overview.say("stopped after a failure: sweep.on_error=stop")
                    sys.exit(FAILED)
                time.sleep(TICK_SECONDS)

    def submit(self) -> bool:
        """Take up the jobs that there are, submit the others, and tell whether the engine took them all."""
        for run in self.runs:
            if run.path in self.attached:
                self.take_up("found", run, self.attached[run.path])
        left = {run.path: run for run in self.runs if run.path not in self.attached}
        self.before = {path: run.written_at for path, run in left.items()}  # a job may soon end
        try:
            for run, job in self.engine.submit(list(left.values())) if left else ():
                self.take_up("submitted", left.pop(run.path), job)
        except Refused as refusal:
            if not self.jobs:
                exit_with_problems([str(refusal)])
            for run in left.values():
                self.overview.ended([run], record_exit(run, FAILED, str(refusal)))
        return not left

    def take_up(self, verb: str, run: Run, job: Job) -> None:
        self.jobs[run.path] = run, job
        self.overview.say(f"{verb}: {name_of([run])}  job {job.id}, its output in {job.log}")

    def reap(self) -> list[str]:
        """Report the jobs that have ended, and return the statuses of their runs."""
        ended = [(run, job, end) for run, job in self.jobs.values() if (end := job.ended())]
        with ThreadPoolExecutor(RECORDERS) as recorders:
            statuses = list(recorders.map(lambda each: self.status_after(*each), ended))
        for (run, *_), status in zip(ended, statuses, strict=True):
            del self.jobs[run.path]
            self.overview.ended([run], status)
        self.look_for_starts()
        self.overview.draw()
        return statuses

    def look_for_starts(self) -> None:
        """Tell the overview which runs have begun; a queued job has written nothing."""
        if time.monotonic() - self.looked < STARTS_SECONDS:
            return
        for run, _ in self.jobs.values():
            if run.path not in self.begun and run.status == Status.RUNNING:
                self.begun.add(run.path)
                self.overview.started([run])
        self.looked = time.monotonic()

    def stop(self) -> None:
        """Have all jobs save and end, and kill what is left after a while."""
        self.stopping = True
        for at_once in (False, True):
            if self.jobs:
                self.engine.cancel([job for _, job in self.jobs.values()], at_once)
            end = time.monotonic() + GRACE_SECONDS
            while self.jobs and time.monotonic() < end:
                self.reap()
                time.sleep(TICK_SECONDS)
        if self.jobs:
            self.overview.say(f"{len(self.jobs)} jobs have not ended yet")

    def status_after(self, run: Run, job: Job, end: End) -> str:
        """Return how the run of a job that has ended stands, once that can be seen here.

        A result from before the job is none: the job died before it could write anything. But a run that was finished
        while its job was submitted, by a job of an earlier command, has nothing left to write.
        """

        def has_result() -> bool:
            return run.is_finished or (run.has_ended and run.written_at != self.before.get(run.path))

        seen = time.monotonic() + LAG_SECONDS
        while end.code == 0 and not has_result() and time.monotonic() < seen:
            time.sleep(TICK_SECONDS)
        code = end.code if end.code or has_result() else FAILED
        output = f"; its output is in {job.log}" if job.log != run.log else ""
        return record_exit(run, code, f"{end.reason}{output}", self.stopping)
