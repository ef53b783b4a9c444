"""What a user sees of a sweep: a live overview on a terminal, a line for each end of a job elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from runner.config.text import shortened, wrapped
from runner.console import Terminal
from runner.storage.directory import Run
from runner.storage.status import Status

DRAW_SECONDS = 0.5  # between two drawings on a terminal
LINE_SECONDS = 60.0  # between two plain lines about what is running
SHOWN = 4  # running jobs that are named
TITLE = 60  # characters of a job's title in a line


class Overview:
    """Show how many jobs are done, running, failed and waiting, and the time left.

    Args:
        runs: to train.
        total: jobs of the sweep, those that ended before included.
    """

    def __init__(self, runs: Sequence[Run], total: int) -> None:
        self.jobs, self.total = len(runs), total
        self.terminal = Terminal(file=sys.stdout, highlight=False, soft_wrap=True, markup=False)
        # No thread of rich's draws it: a fork beside a thread may copy a lock that nobody will open.
        self.live = Live(console=self.terminal, auto_refresh=False, transient=True)
        self.running: list[Sequence[Run]] = []  # jobs, or stacks of jobs
        self.ends: dict[str, int] = {}
        self.epochs = sum(run.config["epochs"] for run in runs)
        self.epochs_before = sum(_epoch_of(run) for run in runs)
        self.epochs_ended = 0
        self.began = self.drawn = time.monotonic()

    def __enter__(self) -> Overview:
        if self.terminal.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        """Print a line, above the overview if there is one."""
        self.terminal.print(wrapped(line))

    def started(self, runs: Sequence[Run]) -> None:
        """Show a job, or a stack of jobs, as running."""
        self.running.append(runs)

    def left(self, runs: Sequence[Run]) -> None:
        """Show runs as running no more; a job of a cluster may end before it is seen to run."""
        self.running = [left for some in self.running if (left := [run for run in some if run not in runs])]

    def ended(self, runs: Sequence[Run], status: str) -> None:
        """Print how a job ended, or the jobs of a stack that ended alike."""
        self.left(runs)
        self.ends[status] = self.ends.get(status, 0) + len(runs)
        self.epochs_ended += sum(run.config["epochs"] for run in runs)
        results = [run.result() for run in runs]
        facts = {
            Status.DONE: _numbers_of(results),
            Status.BUSY: "another process is training it",
        }.get(Status(status), f"{results[0].get('reason', 'the reason could not be written')}; log in {runs[0].log}")
        warned = [result["warning"] for result in results if "warning" in result]
        warning = f"; warning{f' of {len(warned)}' if len(runs) > 1 else ''}: {warned[0]}" if warned else ""
        self.say(f"[{sum(self.ends.values())}/{self.jobs}] {status}: {name_of(runs)}  {facts}{warning}")

    def draw(self) -> None:
        """Redraw the overview, or print a line about what is running, each now and then."""
        now = time.monotonic()
        if now - self.drawn < (DRAW_SECONDS if self.terminal.is_terminal else LINE_SECONDS):
            return
        self.drawn = now
        epochs = [list(map(_epoch_of, runs)) for runs in self.running]
        jobs = zip(self.running, epochs, strict=True)
        lines = [f"{name_of(runs)}  epoch {max(reached)}/{runs[0].config['epochs']}" for runs, reached in jobs]
        if len(lines) > SHOWN:
            lines = [*lines[: SHOWN - 1], f"and {len(lines) - SHOWN + 1} more"]
        head = self.head(sum(map(sum, epochs)), now - self.began)
        if self.terminal.is_terminal:
            self.live.update(Group(Text(head), *(Text("  " + line) for line in lines)), refresh=True)
        else:
            self.say(": ".join(filter(None, (head, "; ".join(lines)))))

    def head(self, epochs_running: int, seconds: float) -> str:
        """Return the line of numbers."""
        ended = sum(self.ends.values())
        numbers = {"ended before": self.total - self.jobs}  # done, or diverged, or failed and not tried again
        running = sum(map(len, self.running))
        numbers |= {"done": self.ends.get(Status.DONE, 0), "running": running}
        numbers |= {status: number for status, number in self.ends.items() if status != Status.DONE}
        numbers["waiting"] = self.jobs - ended - running
        trained = self.epochs_ended + epochs_running - self.epochs_before
        left = seconds / trained * (self.epochs - self.epochs_ended - epochs_running) if trained > 0 else None
        counts = [f"{number} {name}" for name, number in numbers.items() if number]
        return ", ".join(counts) + (f", about {_clock(left)} left" if left is not None else "")


def name_of(runs: Sequence[Run]) -> str:
    """Return a job's title, cut to a length that leaves room in a line; of a stack how many jobs it trains."""
    title = shortened(runs[0].title, TITLE)
    return title if len(runs) == 1 else f"stack of {len(runs)} jobs, {title} and others"


def _numbers_of(results: Sequence[Mapping[str, Any]]) -> str:
    monitor = results[0].get("best/by", "")
    values = [result.get(monitor, math.nan) for result in results]
    ends = dict.fromkeys(f"{value:.4g}" for value in (min(values), max(values)))
    return f"{monitor} {' to '.join(ends)}  {max(result.get('seconds', 0) for result in results):.1f} s"


def _epoch_of(run: Run) -> int:
    result = run.result()
    return 0 if run.config["force"] and result.get("status") != Status.RUNNING else result.get("epoch", 0)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
