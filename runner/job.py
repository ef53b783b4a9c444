"""One job of a sweep, any launcher: whatever ends it in Python is recorded in its directory, and ends it alone."""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from contextlib import suppress

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from runner.directory import Busy, RunDirectory
from runner.outcome import objective, reason_of
from runner.signals import Interrupted


def train_job(directory: RunDirectory) -> None:
    """Train, with all that is said in the job's log alone; an error, or a call of sys.exit, becomes a status there.

    Raises:
        Busy: if another process works in the directory.
        Interrupted: after a signal, with the state saved.
    """
    directory.path.mkdir(parents=True, exist_ok=True)
    with open(directory.path / "train.log", "a") as log, open(os.devnull, "w") as nowhere:
        faulthandler.enable(log)
        try:
            from runner.run import run

            run(directory, nowhere)
        except (Busy, Interrupted):
            raise
        except (Exception, SystemExit) as error:
            if directory.result().get("status") == "interrupted":
                raise  # a launcher's own signal handler leaves like this, to have the job started again
            if not is_recorded(directory, error):
                with suppress(OSError):
                    traceback.print_exc(file=log)
                record_end(directory, "failed", reason_of(error, directory))
        finally:
            faulthandler.disable()


def train_one_of_many(config: DictConfig) -> float:
    """Train a job in a launcher's process, unless that is settled already, and return what a sweeper minimises."""
    os.chdir(HydraConfig.get().runtime.cwd)  # of the sweep: Ray's processes start elsewhere
    directory = RunDirectory.of(config)
    if not directory.is_settled:
        try:
            train_job(directory)
        except Busy as busy:
            print(busy, file=sys.stderr, flush=True)
        except Interrupted as interruption:
            sys.exit(interruption.exit_code)
        print(f"{directory.result().get('status')}: {directory.path.name}", flush=True)
    directory.mark_seen()
    return objective(directory)


def is_recorded(directory: RunDirectory, error: Exception | SystemExit) -> bool:
    """Tell whether the run itself has written down what ended it."""
    result = directory.result()
    return result.get("status") == "failed" and result.get("reason") == reason_of(error, directory)


def record_end(directory: RunDirectory, status: str, reason: str) -> None:
    """Write down how a run ended, beside what is known of it."""
    if not (directory.path / "config.yaml").exists():
        directory.write_config()
    directory.write_result({**directory.result(), "status": status, "reason": reason})
