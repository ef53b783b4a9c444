"""What a user sees of a sweep: a live overview on a terminal, a line for each end of a job elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Group
from rich.live import Live
from rich.text import Text

from runner.console import Terminal
from runner.storage.directory import Run
from runner.storage.status import Status

DRAW_SECONDS = 0.5  # between two drawings on a terminal
LINE_SECONDS = 60.0  # between two plain lines about what is running
SHOWN = 12  # running jobs on a terminal


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
        self.running: dict[str, Run] = {}
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
        self.terminal.print(line)

    def started(self, run: Run) -> None:
        self.running[run.title] = run

    def ended(self, run: Run, status: str) -> None:
        """Print how a job ended."""
        self.running.pop(run.title, None)  # a job of a cluster may end before it is seen to run
        self.ends[status] = self.ends.get(status, 0) + 1
        self.epochs_ended += run.config["epochs"]
        result, number = run.result(), sum(self.ends.values())
        monitor = result.get("best/by", "")
        facts = {
            Status.DONE: f"{monitor} {result.get(monitor, float('nan')):.4g}  {result.get('seconds', 0):.1f} s",
            Status.BUSY: "another process is training it",
        }.get(Status(status), f"{result.get('reason', 'the reason could not be written')}; log in {run.log}")
        warning = f"; warning: {result['warning']}" if "warning" in result else ""
        self.say(f"[{number}/{self.jobs}] {status}: {run.title}  {facts}{warning}")

    def draw(self) -> None:
        """Redraw the overview, or print a line about what is running, each now and then."""
        now = time.monotonic()
        if now - self.drawn < (DRAW_SECONDS if self.terminal.is_terminal else LINE_SECONDS):
            return
        self.drawn = now
        epochs = {name: _epoch_of(run) for name, run in self.running.items()}
        lines = [f"{name}  epoch {epoch}/{self.running[name].config['epochs']}" for name, epoch in epochs.items()]
        head = self.head(sum(epochs.values()), now - self.began)
        if self.terminal.is_terminal:
            self.live.update(Group(Text(head), *(Text("  " + line) for line in lines[:SHOWN])), refresh=True)
        else:
            self.say(": ".join(filter(None, (head, "; ".join(lines)))))

    def head(self, epochs_running: int, seconds: float) -> str:
        """Return the line of numbers."""
        ended = sum(self.ends.values())
        numbers = {"ended before": self.total - self.jobs}  # done, or diverged, or failed and not tried again
        numbers |= {"done": self.ends.get(Status.DONE, 0), "running": len(self.running)}
        numbers |= {status: number for status, number in self.ends.items() if status != Status.DONE}
        numbers["waiting"] = self.jobs - ended - len(self.running)
        trained = self.epochs_ended + epochs_running - self.epochs_before
        left = seconds / trained * (self.epochs - self.epochs_ended - epochs_running) if trained > 0 else None
        counts = [f"{number} {name}" for name, number in numbers.items() if number]
        return ", ".join(counts) + (f", about {_clock(left)} left" if left is not None else "")


def _epoch_of(run: Run) -> int:
    """Return the last epoch that a run has recorded, 0 before that."""
    result = run.result()
    return 0 if run.config["force"] and result.get("status") != Status.RUNNING else result.get("epoch", 0)


def _clock(seconds: float) -> str:
    """Return a duration as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
