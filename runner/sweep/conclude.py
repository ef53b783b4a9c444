"""The start and the end of a sweep, under any launcher: all configs checked; what became of the jobs, and the table."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from runner.config.allowlist import CONF
from runner.config.check import exit_with_problems, problems_of_config
from runner.config.compose import Composer, allowed_packages, resolved
from runner.config.hydra_node import problems_of_hydra
from runner.outcome import BAD_CONFIG, BUSY, FAILED, resume_command
from runner.storage.atomic import read_json, write_json
from runner.storage.directory import Busy, Run, locked

STOPPED = (130, 143)  # exit codes: 128 + SIGINT, 128 + SIGTERM
DIED = "its process died in the midst of training (killed, or a crash in native code)"


def in_sweep() -> bool:
    """Tell whether this is one job of a multirun."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def checked_runs(loader: ConfigLoader, config: DictConfig, batch: Sequence[Sequence[str]]) -> list[Run]:
    """Return the directories of the jobs of a sweep; leave with exit code 2 and all that is wrong if any config is bad.

    Args:
        loader: Hydra's.
        config: of the sweep.
        batch: the overrides of each job.
    """
    composer = Composer(loader, config.hydra.overrides.hydra)
    facts, problems = [], []
    for lines in batch:
        job = composer.compose(lines)
        plain, choices = resolved(job), {**job.hydra.runtime.choices}
        hydra: Any = OmegaConf.to_container(job.hydra, resolve=False)
        problems += problems_of_config(plain, allowed_packages(lines))
        problems += problems_of_hydra(hydra)  # a file may have chosen further files
        facts.append((plain, choices, list(lines)))
    if problems:
        exit_with_problems(problems)
    return [Run(*fact) for fact in facts]


@contextmanager
def sweep_report(folder: Path) -> Iterator[None]:
    """Run a sweep, then print the table of its runs, however it ended, and leave with its exit code.

    That is 1 if a job failed or diverged (now, or earlier and left as it was), 3 if one is busy in another process,
    and 128 + its number after a signal.

    Args:
        folder: of all runs of the sweep.
    """
    # Processes that a launcher starts find our packages, wherever the command was given.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CONF.parent), os.environ.get("PYTHONPATH")]))
    # Numpy starts threads as soon as it is imported, and no job is to be forked beside threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    mark = folder / ".sweep"  # what the sweep looks at becomes newer than this file, by the clock of that disk
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        exit_with_problems(
            [f"runs_dir and name must lead to a folder that can be written, got {folder} ({error.strerror})"]
        )
    code: int | str | None = 0
    try:
        yield
    except KeyboardInterrupt:
        code = 130
    except SystemExit as leaving:
        code = leaving.code
    if code == BAD_CONFIG:  # nothing has been started
        sys.exit(code)
    statuses = [final_status(path) for path in folder.glob("*/result.json") if newer(path, mark)]
    files = [path for name in ("result.json", "config.yaml") for path in folder.glob(f"*/{name}")]
    show_table(sorted({path.parent for path in files if newer(path, mark)}), folder)
    if code in STOPPED:
        print(f"stopped; go on with: {resume_command()}", file=sys.stderr)
    sys.exit(code or exit_code_of(statuses))


def newer(path: Path, mark: Path) -> bool:
    """Tell whether a file was written or touched after another."""
    return path.stat().st_mtime_ns >= mark.stat().st_mtime_ns


def final_status(path: Path) -> str:
    """Return the status in a result.json; a run whose process died without a word is written down as failed."""
    result = read_json(path)
    if result["status"] != "running":
        return str(result["status"])
    try:
        with locked(path.parent):
            result = read_json(path)  # the other process may have ended just now
            if result["status"] != "running":
                return str(result["status"])
            write_json(path, {**result, "status": "failed", "reason": DIED})
            return "failed"
    except Busy:
        return "busy"
    except OSError:  # no room to write it down
        return "failed"


def exit_code_of(statuses: list[str]) -> int:
    """Return the exit code of a sweep whose runs ended like this."""
    if set(statuses) - {"done", "busy"}:
        return FAILED
    return BUSY if "busy" in statuses else 0


def show_table(runs: Sequence[Path], folder: Path) -> None:
    """Print the table of some runs and write its files into a folder; a sweep does not fail for it."""
    from runner.summary import report

    try:
        report(runs or [folder], out=folder)
    except (ValueError, OSError) as error:
        print(f"no table: {error}", file=sys.stderr)
