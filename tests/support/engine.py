"""An engine whose jobs are forked processes; it knows of their ends what clusters know, or nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runner.storage.directory import Run
from runner.sweep.cluster import End, Engine, Job, Refused
from runner.sweep.job import train_in_engines_process

# Run by `Forks.start`: train.py, with the local launcher's jobs on the fake engine.
CODE = """
import os, runpy, sys
from pathlib import Path
sys.path.insert(1, os.environ["TESTS"])
from support.engine import ForkEngine
from runner.sweep.pool import Local
Local.run_all = lambda self, runs, stop_check=None: ForkEngine().run_all(runs)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class ForkJob:
    """A forked process."""

    def __init__(self, run: Run, fault: str) -> None:
        self.fault, self.log = fault, Path(f"{run.path.name}.out").absolute()
        self.process = multiprocessing.get_context("fork").Process(target=self.train, args=(run,))
        self.process.start()
        self.id = str(self.process.pid)

    def train(self, run: Run) -> None:
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if self.fault == "early":
            os.kill(os.getpid(), signal.SIGKILL)
        train_in_engines_process(run, Path.cwd(), threads=1)

    def ended(self) -> End | None:
        code = self.process.exitcode
        if code is None:
            return None
        return End(code, "left the queue without a result" if self.fault == "early" else f"ended with code {code}")


class ForkEngine(Engine):
    """Starts all jobs at once; refuses what FAULTS, a file, says."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = json.loads(Path(os.environ["FAULTS"]).read_text())

    def attached(self, runs: Sequence[Run]) -> Mapping[Path, Job]:
        return {}

    def submit(self, runs: Sequence[Run]) -> Iterator[tuple[Run, Job]]:
        for run in runs:
            fault = self.faults.get(str(run.config["loss"].get("job")), "")
            if fault == "refuse":
                raise Refused("the engine takes no more jobs")
            yield run, ForkJob(run, fault)

    def cancel(self, jobs: Sequence[Job], at_once: bool) -> None:
        for job in jobs:
            os.kill(int(job.id), signal.SIGKILL if at_once else signal.SIGINT)
