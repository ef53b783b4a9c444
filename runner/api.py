"""Training from Python, by the same road as from the command line.

    from runner.api import sweep, train

    run = train("penalty=l2", "penalty.l2.weight=0.01", "epochs=5")
    run.result["test/error"], run.metrics, run.model()
    study = sweep("penalty=l2", "penalty.l2.weight=0,0.01", "seed=range(5)")
    study.runs, study.answer, study.figures

Each call is `train.py` in a fresh process, so that its bits are those of the command line whatever this process has
done with torch, and nothing is forked beside torch's threads. It prints what the command prints. After Ctrl-C the same
call goes on, and what is trained is not trained again.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from runner.config.command_line import Command, read_command
from runner.config.conf_files import CONF
from runner.outcome import BAD_CONFIG, BUSY
from runner.results import load_epochs, load_model, load_runs
from runner.storage.directory import Run
from runner.storage.members import SweepIndex
from runner.summary.answer import answer_of
from runner.summary.compare import differences_of
from runner.summary.groups import summarize
from runner.summary.runs import read_run

if TYPE_CHECKING:
    import pandas

    from runner.evaluation.predictor import Predictor


class TrainedRun:
    """A run that has ended, well or not.

    Args:
        path: of its directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def result(self) -> dict[str, Any]:
        """What result.json holds: status, reason, metrics of the last and the best epoch."""
        return dict(read_run(self.path).result)

    @property
    def metrics(self) -> pandas.DataFrame:
        """A row for each evaluated epoch, a column for each metric."""
        epochs = load_epochs(self.path)
        return epochs[[column for column in epochs if column == "epoch" or "/" in column]]

    def model(self, epoch: Any = "last", *, allow_targets: Sequence[str] = (), device: str = "cpu") -> Predictor:
        """Return the trained network for raw inputs, as `runner.results.load_model` does."""
        return load_model(self.path, epoch, allow_targets=allow_targets, device=device)

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.path)!r}, status={self.result.get('status')!r})"


class Study:
    """The runs of a sweep, and what they say.

    Args:
        folder: of the runs.
        index: the list of those that belong to the sweep.
    """

    def __init__(self, folder: Path, index: SweepIndex) -> None:
        self.folder, self.index = folder, index

    @property
    def runs(self) -> pandas.DataFrame:
        """A row for each run, trials included, as `runner.results.load_runs` has it."""
        return load_runs(*(member.path for member in self.index.members() if member.path.exists()), trials=True)

    @property
    def answer(self) -> str:
        """What differs from the baseline, by how much, with 95 % intervals; "" if nothing can be compared."""
        members = self.index.members()
        summary = summarize(*(member.path for member in members if member.path.exists()), members=members)
        return "\n".join(answer_of(summary, differences_of(summary, summary.metric), str(summary.metric)))

    @property
    def figures(self) -> dict[str, Path]:
        """The pictures by name: summary, differences, trials, curves, those that there are."""
        return {path.stem: path for path in sorted(self.folder.glob("*.png"))}

    def __repr__(self) -> str:
        return f"Study({str(self.folder)!r}, {len(self.index.members())} runs)"


def train(*overrides: str, config_dir: str | Path | None = None) -> TrainedRun:
    """Train one model, unless that is done, and return its run, however it ended.

    Args:
        overrides: as behind `train.py`, such as "penalty=l2".
        config_dir: a folder of configs of your own.

    Raises:
        ValueError: for a mistake in the overrides, a sentence for each, before anything is written.
        RuntimeError: if another process trains the run.
        KeyboardInterrupt: after Ctrl-C, or a signal to the process that trains; its state is saved.
    """
    command = _checked(overrides, config_dir, [])
    if command.is_sweep:
        raise ValueError("train makes one run, and these overrides are a sweep: call sweep")
    run = Run(command.config.values)
    _in_own_process(command.arguments)
    return TrainedRun(run.path.absolute())


def sweep(*overrides: str, config_dir: str | Path | None = None) -> Study:
    """Train what a grid, arms or a search say, as `train.py -m` does, and return all of it, however the runs ended.

    Args, Raises: as `train`.
    """
    command = _checked(overrides, config_dir, ["-m"])
    _in_own_process(command.arguments)
    return Study(command.folder.absolute(), SweepIndex(command.folder, command.arguments))


def _checked(overrides: Sequence[str], config_dir: str | Path | None, flags: Sequence[str]) -> Command:
    folder = [] if config_dir is None else ["--config-dir", str(config_dir)]
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return read_command([*flags, *folder, *overrides])
    except SystemExit:
        raise ValueError(said.getvalue().strip().replace("add -m for a sweep", "call sweep")) from None


def _in_own_process(arguments: Sequence[str]) -> None:
    """Do what `train.py` does, and print what it prints; a Ctrl-C of this process is handed on."""
    words = [sys.executable, str(CONF.parent / "train.py"), *arguments]
    is_terminal = sys.stdout is sys.__stdout__ and os.isatty(1)  # in a notebook it is not, and no pipe either
    pipe = None if is_terminal else subprocess.PIPE
    # A session of its own: else the terminal would send it the Ctrl-C as well, and a second one ends it at once.
    with subprocess.Popen(words, stdout=pipe, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        told: list[str] = []
        readers = [Thread(target=_hand_on, args=(process.stderr, "stderr", told))]
        readers += [Thread(target=_hand_on, args=(process.stdout, "stdout", []))] if pipe else []
        for reader in readers:
            reader.start()
        while process.poll() is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                os.kill(process.pid, signal.SIGINT)
        for reader in readers:
            reader.join()
    if process.returncode == BAD_CONFIG:
        raise ValueError("".join(told).strip())
    if process.returncode == BUSY:
        raise RuntimeError("".join(told).strip() or "another process trains some of these runs")
    if process.returncode < 0 or process.returncode > 128:
        raise KeyboardInterrupt


def _hand_on(lines: Any, name: str, told: list[str]) -> None:
    for line in lines:
        told.append(line)
        print(line, end="", file=getattr(sys, name), flush=True)
