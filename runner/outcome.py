"""How a run ends, for a person (one sentence and an exit code) and for a sweeper (a number to minimise)."""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from runner.config.check import ConfigError
from runner.signals import Interrupted
from runner.storage.atomic import free_space
from runner.storage.directory import Busy, Run

FAILED, BAD_CONFIG, BUSY = 1, 2, 3


@contextmanager
def exit_on_error(run: Run) -> Iterator[None]:
    """Turn what can end a run early into sentences and an exit code."""
    try:
        yield
    except (ConfigError, Busy, Interrupted, Exception) as error:
        sentences, code = failure_message(error, run)
        print("\n".join(sentences), file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:  # while torch is imported and the parts are built; later the run itself heeds it
        print("stopped by SIGINT before training began: nothing is lost", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def failure_message(error: Exception, run: Run) -> tuple[list[str], int]:
    """Return the sentences and the exit code for what ended a run."""
    if isinstance(error, ConfigError):
        return str(error).splitlines(), BAD_CONFIG
    if isinstance(error, Busy):
        return [str(error)], BUSY
    if isinstance(error, Interrupted):
        return [f"{error}; go on with: {resume_command()}"], error.exit_code
    return [f"failed: {reason_of(error, run)}; log in {run.path / 'train.log'}"], FAILED


def resume_command() -> str:
    """Return the command that goes on with what this process was doing, as it can be typed."""
    return shlex.join([*uv_prefix("python"), *(word for word in sys.argv if not re.match(r"\+*force=", word))])


def uv_prefix(otherwise: str = "") -> list[str]:
    """Return what finds the programs of this environment: `uv run` where that has started this process."""
    return ["uv", "run"] if "UV" in os.environ else [otherwise] * bool(otherwise)


def reason_of(error: Exception | SystemExit, run: Run) -> str:
    """Return an error in one line; for a lack of memory, with what would help."""
    text = next(iter(str(error).splitlines()), "")
    memory = isinstance(error, MemoryError) or "alloc" in text.lower() or "out of memory" in text.lower()
    advice = f" (out of memory with batch_size={run.config['batch_size']}: lower it)" if memory else ""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        advice = f" ({free_space(run.path)})"
    return f"{type(error).__name__}: {text}{advice}"


def report_stored_result(run: Run, trained: bool) -> float:
    """Tell a stored result that was not trained anew, and return its objective; with none, leave with exit code 1."""
    result = run.result()
    if not trained:
        from runner.console import summary_lines

        lines = summary_lines(result, run.path) if result["status"] == "done" else [result["reason"]]
        print("\n".join(["trained before; force=true trains again", *lines]))
    if result["status"] != "done":
        sys.exit(FAILED)
    return objective(run)


def objective(run: Run) -> float:
    """Return what a sweeper minimises, from the stored result: infinite unless the run is done and has that number."""
    result = run.result()
    if result.get("status") != "done":
        return math.inf
    metric = run.config["objective_metric"] or result["best/by"]
    if metric not in result:  # the check before the run knows the probes but not their numbers
        group = metric.rpartition("/")[0]
        known = ", ".join(key for key in result if key.startswith(group))
        print(f"objective_metric must be one of {known}, got {metric!r}: a sweeper would see infinity", file=sys.stderr)
    found = float(result.get(metric, math.inf))
    return math.inf if math.isnan(found) else found  # optuna's search ends at a NaN
