"""One job of a sweep, any launcher: whatever ends it in Python is recorded in its directory, and ends it alone."""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from contextlib import suppress

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from runner.outcome import objective, reason_of
from runner.signals import Interrupted
from runner.storage.directory import Busy, Run


def train_job(run: Run) -> None:
    """Train, with all that is said in the job's log alone; an error, or a call of sys.exit, becomes a status there.

    Raises:
        Busy: if another process works in the directory.
        Interrupted: after a signal, with the state saved.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    with open(run.path / "train.log", "a") as log, open(os.devnull, "w") as nowhere:
        faulthandler.enable(log)
        try:
            from runner.run import train_run

            train_run(run, nowhere)
        except (Busy, Interrupted):
            raise
        except (Exception, SystemExit) as error:
            if run.result().get("status") == "interrupted":
                raise  # a launcher's own signal handler leaves like this, to have the job started again
            if not is_recorded(run, error):
                with suppress(OSError):
                    traceback.print_exc(file=log)
                record_end(run, "failed", reason_of(error, run))
        finally:
            faulthandler.disable()


def train_one_of_many(config: DictConfig) -> float:
    """Train a job in a launcher's process, unless that is settled already, and return what a sweeper minimises."""
    os.chdir(HydraConfig.get().runtime.cwd)  # of the sweep: Ray's processes start elsewhere
    run = Run.of(config)
    if not run.needs_no_training:
        try:
            train_job(run)
        except Busy as busy:
            print(busy, file=sys.stderr, flush=True)
        except Interrupted as interruption:
            sys.exit(interruption.exit_code)
        print(f"{run.result().get('status')}: {run.path.name}", flush=True)
    run.mark_seen()
    return objective(run)


def is_recorded(run: Run, error: Exception | SystemExit) -> bool:
    """Tell whether the run itself has written down what ended it."""
    result = run.result()
    return result.get("status") == "failed" and result.get("reason") == reason_of(error, run)


def record_end(run: Run, status: str, reason: str) -> None:
    """Write down how a run ended, beside what is known of it."""
    if not (run.path / "config.yaml").exists():
        run.write_config()
    run.write_result({**run.result(), "status": status, "reason": reason})
