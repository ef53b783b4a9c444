"""Sweeps in a folder of their own, some of whose jobs misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support import ROOT
from support.forked import Forks, wait_until

TINY = ("data=line", "model=mlp", "loss=mse", "histograms=false", "pictures=false", "evaluate_every=0", "device=cpu")
FAULTY = (*(line for line in TINY if line != "loss=mse"), "loss=faulty", "allow_targets=[faults]", "epochs=20")
LONG = (*TINY, "model.widths=[20]", "checkpoint_seconds=0.1", "seed=range(4)", "sweep.n_jobs=2")
TIMES = ("seconds", "examples_per_second", "time/examples_per_second")

FAULTS = '''"""A loss that misbehaves in the midst of training, in the jobs and in the way that a file says."""

import ctypes, json, os, signal, sys, time
from pathlib import Path

import torch
from losses import MSE

class Faulty(MSE):
    def __init__(self, job: int = 0) -> None:
        self.job, self.calls = job, 0

    def losses(self, outputs, targets):
        self.calls += 1
        fault = json.loads(Path(os.environ["FAULTS"]).read_text()).get(str(self.job)) if self.calls > 5 else None
        if fault == "raise":
            raise ArithmeticError("on purpose")
        if fault == "exit":
            sys.exit(3)
        if fault == "leave":
            os._exit(3)
        if fault == "crash":
            ctypes.string_at(0)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "slow":
            time.sleep(0.2)
        if fault == "memory":
            torch.empty(1 << 60)
        return super().losses(outputs, targets) * (float("inf") if fault == "diverge" else 1)
'''


def write_faults(folder: Path | str) -> None:
    """Write the loss, the option for it, and the file that says which jobs misbehave, so far none."""
    folder = Path(folder)
    (folder / "faults.json").write_text("{}")
    (folder / "faults.py").write_text(FAULTS)
    (folder / "own" / "loss").mkdir(parents=True)
    (folder / "own" / "loss" / "faulty.yaml").write_text("_target_: faults.Faulty\njob: 0\n")


# fault -> what the reason says
REASONS = {
    "raise": "ArithmeticError: on purpose",
    "exit": "SystemExit: 3",
    "leave": "code 3",
    "crash": "SIGSEGV",
    "kill": "SIGKILL",
    "memory": "out of memory",
    "diverge": "not finite",
}


class Sweeps:
    """Runs `train.py -m` in a folder of its own, with a loss that can misbehave and a file that says how.

    Args:
        forks: what starts them.
    """

    def __init__(self, forks: Forks) -> None:
        self.forks, self.folder, self.started = forks, forks.folder, list[int]()
        self.faults = self.folder / "faults.json"
        write_faults(self.folder)
        self.environment = {"PYTHONPATH": str(self.folder), "FAULTS": str(self.faults), "COLUMNS": "250"}

    def arguments(self, *arguments: str, name: str) -> list[str]:
        return ["-m", f"--config-dir={self.folder / 'own'}", f"name={name}", *arguments]

    def start(
        self, *arguments: str, name: str = "train", code: str | None = None, line: Sequence[str] | None = None
    ) -> int:
        """Start a sweep in a session of its own, and return its process id.

        Args:
            arguments: of the sweep.
            name: of its folder.
            code: Python to run in place of train.py.
            line: a whole command line, in place of a sweep's.
        """
        said = f"said.{len(self.started)}"
        line = self.arguments(*arguments, name=name) if line is None else line
        process = self.forks.start(*line, said=said, session=True, environment=self.environment, code=code)
        self.started.append(process)
        return process

    def wait(self, process: int) -> tuple[int, str]:
        """Return the exit code of a sweep, negative for a signal, and what it said."""
        code = self.forks.wait(process)
        return code, self.said(process)

    def wait_until(self, ready: Callable[[], Any], process: int) -> None:
        """Wait for what a sweep does, as long as it lives."""
        wait_until(ready, lambda: self.forks.is_running(process))

    def said(self, process: int) -> str:
        return (self.folder / f"said.{self.started.index(process)}").read_text()

    def run(self, *arguments: str, name: str = "train", code: int = 0) -> str:
        """Run a sweep to its end and return what it said."""
        found, said = self.wait(self.start(*arguments, name=name))
        assert found == code, said
        return said

    def run_without_torch(self, *arguments: str, name: str = "train") -> str:
        """Run a sweep that has nothing to train, in a process of its own that cannot import torch; return its words."""
        no_torch = self.folder / "torch.py"
        no_torch.write_text("raise SystemExit('torch is imported')")
        line = [sys.executable, str(ROOT / "train.py"), *self.arguments(*arguments, name=name)]
        done = subprocess.run(
            line, cwd=self.folder, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=300
        )
        no_torch.unlink()
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def results(self, name: str = "train") -> dict[str, dict[str, Any]]:
        """Return the result of each run, by the name of its directory."""
        return {path.parent.name: json.loads(path.read_text()) for path in self.paths(name, "result.json")}

    def paths(self, name: str, file: str) -> list[Path]:
        return sorted((self.folder / "runs" / name).glob(f"*/{file}"))

    def times_trained(self, name: str = "train") -> dict[str, int]:
        """Return how often each run came to its end, by its log."""
        return {path.parent.name: path.read_text().count("error, last") + path.read_text().count("loss, last")
                for path in self.paths(name, "train.log")}  # fmt: skip
