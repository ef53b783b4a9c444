"""How a run ends: exit codes and one sentence for a person, a number to minimise for a sweeper."""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runner.config.check import ConfigError, exit_with_problems
from runner.config.text import near
from runner.console import summary_lines
from runner.signals import Interrupted
from runner.storage.atomic import free_space
from runner.storage.directory import Run
from runner.storage.lock import Busy
from runner.storage.status import Status
from runner.training.faults import is_lack_of_memory, place_of

if TYPE_CHECKING:
    from runner.training.term import Term  # torch, which comes late

FAILED, BAD_CONFIG, BUSY = 1, 2, 3  # exit codes; after a signal it is 128 + the signal's number


@contextmanager
def exit_on_error(run: Run) -> Iterator[None]:
    """Report an error that ends the run as one sentence, and exit with its code."""
    try:
        yield
    except (ConfigError, Busy, Interrupted, Exception) as error:
        sentences, code = failure_message(error, run)
        print("\n".join(sentences), file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:  # while torch is imported and the components are built; later the run itself handles it
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
    return [f"failed: {reason_of(error, run)}" + (f"; log in {run.log}" if run.log.exists() else "")], FAILED


def resume_command() -> str:
    """Return the command that goes on with what this process was doing, as it can be typed."""
    words = (word for word in sys.argv if not re.match(r"\+*force=", word))
    return shlex.join([*(uv_prefix() or ["python"]), *words])


def uv_prefix() -> list[str]:
    """Return the words `uv run` where they have started this process, else none."""
    return ["uv", "run"] if "UV" in os.environ else []


def reason_of(error: Exception | SystemExit, run: Run) -> str:
    """Return an error in one line, with its place in a user's own code; for a lack of memory or disk, with a remedy."""
    text, advice = next(iter(str(error).splitlines()), ""), place_of(error, run.config["allow_targets"])
    if is_lack_of_memory(error):
        advice += f" (out of memory with batch_size={run.config['batch_size']}: lower it)"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        advice += f" ({free_space(run.path)})"
    return f"{type(error).__name__}: {text}{advice}"


def remedy_of(config: Mapping[str, Any], terms: Sequence[Term], has_moved: bool) -> str:
    """Return which options may keep a run from diverging, each with the value that is too large or missing.

    Args:
        config: of the run.
        terms: its penalties; a proximal step only makes parameters smaller, so those are never the cause.
        has_moved: whether the optimizer had made a step with a finite objective.
    """
    acting = [term for term in terms if term.weight and not term.is_proximal]
    smaller = [f"penalty.{term.name}.weight below {term.weight:g}" for term in acting]
    if not has_moved:
        weights = [f"penalty.{term.name}.weight={term.weight:g}" for term in acting]
        return f"no step was made before, so look for huge numbers in {' or '.join(['data', 'init', *weights])}"
    growing = [f"penalty.{term.name}.warmup above {term.warmup:g}" for term in acting]
    *others, last = [*_calmer_optimizer(config), *smaller, *growing]
    return f"try {', '.join(others)}{' or ' if others else ''}{last}"


def _calmer_optimizer(config: Mapping[str, Any]) -> list[str]:
    optimizer, values = config["optimizer"], config["scheduler"].get("values")
    lr = f"scheduler.values below {values[0]:g}" if values else f"optimizer.lr below {optimizer['lr']:g}"
    if "line_search_fn" in optimizer:
        return [lr] if optimizer["line_search_fn"] else ["optimizer.line_search_fn=strong_wolfe", lr]
    clip = optimizer["clip"]
    return [f"optimizer.clip below {clip:g}" if clip else "optimizer.clip=5", lr]


def report_stored_result(run: Run, trained: bool) -> int:
    """Print the stored result if nothing was trained; return the exit code, 1 if the run failed."""
    result = run.result()
    is_done = result["status"] == Status.DONE
    if not trained:
        lines = summary_lines(result, run.path, uv_prefix()) if is_done else [result["reason"]]
        print("\n".join([f"trained before{device_of(result, run)}; force=true trains again", *lines]))
    if not is_done:
        return FAILED
    check_objectives([run])
    return 0


def check_objectives(runs: Sequence[Run]) -> None:
    """Exit with code 2 if a run that is done lacks what is minimised: it was trained before, with other probes."""
    for run in runs:
        objective(run)


def device_of(result: Mapping[str, Any], run: Run) -> str:
    """Return where a stored result was computed, in words; the device is no part of a run's identity."""
    found, wanted = result.get("device", "unknown"), run.config["device"]
    is_other = wanted != "auto" and (wanted == "cpu") != (found == "cpu")
    return f" on {found}, and not on {wanted}" if is_other else f" on {found}"


def objective(run: Run, metric: str | None = None) -> float:
    """Return what a sweeper minimises, from the stored result: infinite unless the run is done and has that number.

    Args:
        run: that has ended.
        metric: its name (null: as the run's config says).
    """
    result = run.result()
    if result.get("status") != Status.DONE:
        return math.inf
    metric = metric or run.config["objective_metric"] or result["best/by"]
    if metric not in result:  # it was trained before, with another metric or other probes
        known = [key for key, value in result.items() if isinstance(value, int | float)]
        exit_with_problems([f"objective_metric must be one of {near(metric, known)}, got {metric!r} of {run.title}"])
    found = float(result[metric])
    return math.inf if math.isnan(found) else found  # a search has no use for a NaN
