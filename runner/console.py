"""What a user sees of a run: a progress bar on a terminal, plain lines elsewhere, all lines in the run's log."""

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import rich.console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

BAR_SECONDS = 0.1  # between two drawings of the progress bar
LINE_SECONDS = 1.0  # between two plain lines about epochs
MEANS = "mean/"  # folder of a sweep's means beside the runs
SELECTED = 500  # runs; of more TensorBoard selects none, and all its charts are empty


class Terminal(rich.console.Console):
    """Where lines are printed. Once the reader is gone (`| head`) it is silent, where rich would exit the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Console:
    """Print lines, keep them in a log, and show how far training is."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.terminal = Terminal(file=stream or sys.stdout, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self.log: TextIO | None = None
        self.bar: Progress | None = None
        self.drawn = self.printed = 0.0
        self.told_of_pace = False

    def say(self, line: str) -> None:
        """Print a line, and keep it; a closed terminal or a full disk is no reason to stop."""
        self.show(line)
        self.note(line)

    def show(self, line: str) -> None:
        """Print a line that the log does not need."""
        with suppress(OSError):
            self.terminal.print(line)

    def note(self, text: str) -> None:
        """Keep a text in the log alone."""
        if self.log:
            with suppress(OSError):
                self.log.write(time.strftime("%Y-%m-%d %H:%M:%S ") + text + "\n")
                self.log.flush()

    def open_log(self, path: Path) -> None:
        """Keep lines in a file from now on, and print the warnings that the runner's modules log."""
        self.log = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.say(f"warning: {record.getMessage()}")  # type: ignore[method-assign]
        logging.getLogger("runner").addHandler(self.handler)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None
        if self.log:
            logging.getLogger("runner").removeHandler(self.handler)
            with suppress(OSError):
                self.log.close()
            self.log = None

    def progress(self, epochs_done: float, epochs: int, latest: Mapping[str, float]) -> None:
        """Show how far training is: the bar on a terminal, redrawn now and then."""
        now = time.monotonic()
        if not self.terminal.is_terminal or now - self.drawn < BAR_SECONDS:
            return
        self.drawn = now
        if self.bar is None:
            columns = (BarColumn(), TextColumn("epoch {task.completed:.1f}/{task.total:.0f}"), TimeRemainingColumn())
            self.bar = Progress(*columns, TextColumn("{task.fields[latest]}"), console=self.terminal, transient=True)
            self.bar.add_task("", total=epochs, latest="")
        self.bar.update(self.bar.task_ids[0], completed=epochs_done, latest=_brief(latest))
        self.bar.start()  # after the first update, or it would show epoch 0; it does nothing later

    def epoch(self, epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        """Print an epoch's numbers in a plain line, unless there is a bar; at most one line a second, and the last."""
        line = f"epoch {epoch}/{epochs}  {_brief(row)}"
        now = time.monotonic()
        if self.terminal.is_terminal or (now - self.printed < LINE_SECONDS and epoch < epochs):
            self.note(line)
            if not (self.terminal.is_terminal or self.told_of_pace):
                self.told_of_pace = True
                self.show("(at most one line a second is shown; metrics.csv has all)")
            return
        self.printed = now
        self.say(line)


def _brief(row: Mapping[str, float]) -> str:
    errors, losses = ("train/error", "validation/error", "test/error"), ("validation/loss", "test/loss")
    names = errors if any(name in row for name in errors) else losses
    numbers = {"objective": row.get("train/objective"), **{name: row.get(name) for name in names}}
    return "  ".join(f"{name} {number:.4g}" for name, number in numbers.items() if number is not None)


def summary_lines(result: Mapping[str, Any], directory: Path, prefix: Sequence[str] = ()) -> list[str]:
    """Return the seven lines at the end of a run.

    Args:
        result: of the run.
        directory: of the run.
        prefix: words that find the programs of this environment, such as `uv run`.
    """
    kind = "error" if "test/error" in result else "loss"
    parts = [part for part in ("train", "validation", "test") if f"{part}/{kind}" in result]

    def values(kept: str) -> str:
        return "  ".join(f"{part} {result[f'{kept}{part}/{kind}']:.4g}" for part in parts)

    last = f"{kind}, last   {values('')}  (epoch {result['epoch']})"
    best = f"{kind}, best   {values('best/')}  (epoch {result['best/epoch']}, by {result['best/by']})"
    return [
        last,
        best,
        f"seconds       {result['seconds']:.1f}",
        f"examples/s    {result['examples_per_second']:.0f}",
        f"directory     {directory}",
        *board_lines(directory.parent, directory.name, prefix),
    ]


def board_lines(folder: Path, name: str, prefix: Sequence[str] = ()) -> list[str]:
    """Return the command that starts TensorBoard, and the address whose first screen shows each number as it is.

    TensorBoard reads the whole folder, since of a run's own directory its table of hyperparameters stays empty, and
    shows the runs of the given name; where a folder has more runs than it selects by itself, it reads those alone.

    Args:
        folder: of runs.
        name: of a run in it, or `MEANS`, which is shown at first; "": all runs.
        prefix: words that find the programs of this environment, such as `uv run`.
    """
    is_alone = sum(1 for pattern in ("*", f"{MEANS}*") for _ in folder.glob(pattern)) > SELECTED
    is_known = prefix or shutil.which("tensorboard")
    program = "tensorboard" if is_known else str(Path(sys.executable).parent / "tensorboard")
    command = shlex.join([*prefix, program, "--logdir", str(folder / name if is_alone else folder)])
    shown = "" if is_alone or not name else f"&runFilter={name.rpartition('_')[2]}"  # of a run its id
    # By default curves are smoothed by .6: one of two points would not end at its last value.
    return [f"look at it    {command}", f"in a browser  http://localhost:6006/?smoothing=0{shown}"]
