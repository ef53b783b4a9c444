"""Runs of train.py in processes that may be killed, forked from one that has imported all: a start costs 0.3 s, not 6.

As a script it is that process: it forks one for each line `{"arguments": [...], ...}` of its input (`Forks.start`),
and tells how each ended. To fork the tests' own process is not safe once torch's threads have run.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent


class Forks:
    """Starts runs in a folder, one after the other or some at once."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder, self.codes = process, folder, dict[int, int]()

    def start(self, *arguments: str, **faults: Any) -> int:
        """Start `train.py ARGUMENTS` with faults for `instrument`, and return its process id."""
        return self.ask({"arguments": arguments, "folder": str(self.folder), **faults})

    def wait(self, process: int) -> int:
        """Return the exit code of a run, negative for a signal."""
        return self.ask({"wait": process})

    def run(self, *arguments: str, **faults: Any) -> int:
        """Return the exit code of a run."""
        return self.wait(self.start(*arguments, **faults))

    def said(self) -> str:
        """Return what all runs in the folder have printed so far."""
        return (self.folder / "said").read_text()

    def ask(self, request: dict[str, Any]) -> int:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())


@contextmanager
def forking(**environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process that forks."""
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "250", **environment},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with what a failed test may have left


def serve() -> None:
    """Fork a run for each request, until the input ends."""
    sys.path.insert(0, str(ROOT))
    import hydra  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch._dynamo  # noqa: F401 (the first optimizer of a process imports it)

    import runner.config.command_line
    import runner.run  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif (answer := os.fork()) == 0:
            train(request)
        print(answer, file=answers, flush=True)


def train(request: dict[str, Any]) -> NoReturn:
    """Be `train.py` in this process."""
    code = 1
    try:
        os.chdir(request["folder"])
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        sys.argv = [str(ROOT / "train.py"), *request["arguments"]]
        instrument(**{key: value for key, value in request.items() if key not in ("arguments", "folder")})
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def instrument(
    *,
    notes: str | None = None,
    after: int | None = None,
    moment: str = "after",
    signals: tuple[int, ...] = (signal.SIGKILL,),
    forget: str | None = None,
    spoil: bool = False,
) -> None:
    """Have the loop write down each objective, and send this process signals after so many steps.

    Args:
        notes: a file that gets a line `<step> <objective in hexadecimal>` for each step.
        after: steps of this process after which the signals come (null: they never do).
        moment: at which they come: between two steps (before, after), within the next, within the next save (saving);
            or before all steps (build).
        signals: their numbers.
        forget: key of the loop's state that is not restored.
        spoil: have the last objective before the signals be NaN.
    """
    import torch

    import runner.run
    from runner.build import build
    from runner.loop import Loop

    made, file = 0, os.open(notes or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    step, objective, load, replace = Loop.step, Loop.objective, Loop.load_state_dict, os.replace

    def strike(now: str) -> None:
        if made == after and moment == now:
            for number in signals:
                os.kill(os.getpid(), number)

    def noted_step(self: Loop, batches: Any) -> None:
        nonlocal made
        strike("before")
        step(self, batches)
        number = self.epoch * self.steps_per_epoch + self.batch
        os.write(file, f"{number} {self.objectives[self.batch].item().hex()}\n".encode())
        made += 1
        strike("after")

    def noted_objective(self: Loop, *terms: Any) -> torch.Tensor:
        value = objective(self, *terms)
        strike("within")
        return value * float("nan") if spoil and made == after else value

    def noted_replace(*paths: Any) -> None:
        if after is not None and made >= after and moment == "saving" and "checkpoint" in str(paths[0]):
            os.kill(os.getpid(), signals[0])
        replace(*paths)

    def forgetful_load(self: Loop, state: dict[str, Any]) -> None:
        load(self, {**state, **({forget: self.state_dict()[forget]} if forget else {})})

    def struck_build(config: dict[str, Any]) -> Any:
        os.kill(os.getpid(), signals[0])
        return build(config)

    if moment == "build":
        runner.run.build = struck_build
    Loop.step, Loop.objective, Loop.load_state_dict = noted_step, noted_objective, forgetful_load  # type: ignore
    os.replace = noted_replace


if __name__ == "__main__":
    serve()
