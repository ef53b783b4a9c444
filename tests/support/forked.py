"""Runs of train.py in processes that may be killed, forked from one that has imported all: a start costs 0.3 s, not 10.

As a script it is that process: it forks one for each line `{"arguments": [...], ...}` of its input (`Forks.start`),
and tells how each ended. To fork the tests' own process is not safe once torch's threads have run; that of all forks
never runs an operation of torch's.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300  # then a run that does not end is killed


class Forks:
    """Starts runs in a folder, one after the other or some at once."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder

    def start(self, *arguments: str, **options: Any) -> int:
        """Start `train.py ARGUMENTS` with options of `begin` and faults for `instrument`; return its process id."""
        return self.ask({"arguments": arguments, "folder": str(self.folder), **options})

    def python(self, code: str, *arguments: str) -> int:
        """Start Python code with arguments, and return its process id."""
        return self.start(*arguments, code=code)

    def is_running(self, process: int) -> bool:
        """Tell whether a run has not ended yet."""
        return bool(self.ask({"running": process}))

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
            process.kill()


def wait_until(ready: Callable[[], Any], is_running: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for what a process does, as long as it lives."""
    end = time.monotonic() + seconds
    while not ready():
        assert is_running() or ready()
        assert time.monotonic() < end
        time.sleep(0.02)


def serve() -> None:
    """Fork a run for each request, until the input ends."""
    sys.path[0] = str(ROOT)  # as for train.py
    import hydra  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import torch._dynamo  # noqa: F401 (the first optimizer of a process imports it)

    import runner.config.command_line
    import runner.run  # noqa: F401
    from runner.sweep.job import die_with

    answers = os.fdopen(os.dup(1), "w")
    gc.freeze()  # what is shared with the forks stays shared
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = ended(request["wait"])
        elif "running" in request:
            answer = int(os.waitid(os.P_PID, request["running"], os.WEXITED | os.WNOHANG | os.WNOWAIT) is None)
        elif (answer := os.fork()) == 0:
            die_with(os.getppid())  # what a failed test has left
            leave(begin(**request))
        print(answer, file=answers, flush=True)


def ended(process: int) -> int:
    """Return the exit code of a process, which is killed if it does not end."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.005)


def begin(
    *,
    arguments: list[str],
    folder: str,
    said: str = "said",
    session: bool = False,
    environment: dict[str, str] | None = None,
    code: str | None = None,
    **faults: Any,
) -> int:
    """Be `train.py` in this process, and return its exit code.

    Args:
        arguments: of its command line.
        folder: to run in.
        said: a file there, to which standard output and error are appended.
        session: whether it gets a session of its own, with all processes that it starts.
        environment: variables to set.
        code: Python to run in place of `train.py`.
        faults: for `instrument`.
    """
    status = 1
    try:
        if session:
            os.setsid()
        os.environ.update(environment or {})
        os.chdir(folder)
        said_to = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said_to, 1)
        os.dup2(said_to, 2)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        sys.argv = [str(ROOT / "train.py"), *arguments]
        if code is not None:
            exec(code, {"__name__": "__main__"})
        else:
            instrument(**faults)
            runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except BaseException:
        traceback.print_exc()
    return status


def leave(status: int) -> NoReturn:
    """End this process at once, which saves two seconds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
    from runner.training.build import build
    from runner.training.loop import Loop

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
        objectives = self.unchecked[-1].flatten().tolist()  # of a stack there are several
        os.write(file, f"{self.steps_done} {' '.join(map(float.hex, objectives))}\n".encode())
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

    def struck_build(*given: Any) -> Any:
        os.kill(os.getpid(), signals[0])
        return build(*given)

    if moment == "build":
        runner.run.build = struck_build
    Loop.step, Loop.objective, Loop.load_state_dict = noted_step, noted_objective, forgetful_load  # type: ignore
    os.replace = noted_replace


if __name__ == "__main__":
    serve()
