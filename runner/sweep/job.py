"""One job of a sweep, under any launcher. An exception is recorded in its directory and never stops other jobs."""

import ctypes
import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runner.config.check import ConfigError
from runner.outcome import BUSY, reason_of
from runner.signals import STOP_CODES, Interrupted
from runner.storage.directory import Run
from runner.storage.lock import Busy, locked
from runner.storage.status import ENDED, Status
from runner.system import importing_much

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def train_in_own_process(runs: Sequence[Run], threads: int, gpu: str | None, parent: int) -> None:
    """Train a job in this process, which the sweep (`runner.sweep.pool`) has forked for it.

    Args:
        runs: to train, a single one or a stack.
        threads: of the CPU.
        gpu: the only one that it is to see (null: as it is).
        parent: process id of the sweep.
    """
    os.setpgid(0, 0)  # a Ctrl-C reaches the sweep alone, which hands it on
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    run = next((run for run in runs if not run.needs_no_training), None)
    if run is None:  # another process was faster
        return
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        log = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        sys.exit(f"{run.path} cannot be written ({error.strerror})")
    os.dup2(log, 1)  # what a user's own code prints, and the last words of native code
    os.dup2(log, 2)
    try:
        if len(runs) > 1:
            _train_stacked_jobs(runs)
        else:
            train_job(run)
    except Busy:
        sys.exit(BUSY)
    except Interrupted as interruption:
        sys.exit(interruption.exit_code)


def train_in_engines_process(run: Run, folder: Path, threads: int) -> None:
    """Train a job in a process that the engine of a cluster has started for it.

    Args:
        run: to train.
        folder: in which the sweep was started.
        threads: of the CPU.
    """
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        train_job(run)
    except Busy as busy:
        print(busy, file=sys.stderr, flush=True)
    except Interrupted as interruption:
        sys.exit(interruption.exit_code)


def _train_stacked_jobs(runs: Sequence[Run]) -> None:
    from runner.stack.session import train_stack

    faulthandler.enable()
    with open(os.devnull, "w") as nowhere:
        train_stack(runs, nowhere)


def die_with(parent: int) -> None:
    """Have the system kill this process as soon as its parent is gone, so that its lock is released."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before the line above
            os.kill(os.getpid(), signal.SIGKILL)


def train_job(run: Run) -> None:
    """Train, with all lines in the job's log alone; an error, or a call of sys.exit, becomes a status there.

    Raises:
        Busy: if another process works in the directory.
        Interrupted: after a signal, with the state saved.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    before = run.written_at
    with open(run.log, "a") as log, open(os.devnull, "w") as nowhere:
        faulthandler.enable(log)
        try:
            with importing_much("torch"):
                from runner.run import train_run

            train_run(run, nowhere)
        except (Busy, Interrupted):
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and run.status == Status.INTERRUPTED:
                raise  # a launcher's own signal handler exits like this, to have the job started again
            if run.written_at == before or not _is_recorded(run, error):
                with suppress(OSError):
                    traceback.print_exc(file=log)
                with suppress(OSError, Busy), locked(run.path):
                    run.write_end(Status.FAILED, reason_of(error, run))
        finally:
            faulthandler.disable()


def record_exit(run: Run, exit_code: int, reason: str, stopping: bool = False, pruned: str | None = None) -> str:
    """Return the run's status after its process exited; if the process recorded none, record the cause of death.

    Args:
        run: that was trained.
        exit_code: of its process, 0 if that was in order, BUSY if another one worked in the directory, negative for a
            signal.
        reason: of its death, if it has died.
        stopping: the sweep itself ends its jobs.
        pruned: why a search has ended this one.
    """
    try:
        if exit_code == 0 and (status := run.status) in ENDED:  # most jobs; they need no lock
            return str(status)
        with locked(run.path):
            status = run.status
            if exit_code == BUSY and status in ENDED:  # another process has trained it
                return str(status)
            if pruned:
                run.write_end(Status.PRUNED, pruned)
                return Status.PRUNED
            if stopping:
                unsaved = ", killed before it could save" if exit_code == -signal.SIGKILL else ""
                run.write_end(Status.INTERRUPTED, f"stopped with the sweep{unsaved}")
                return Status.INTERRUPTED
            if status == Status.INTERRUPTED and exit_code in {*STOP_CODES, BUSY}:  # BUSY: another process was stopped
                return status
            run.write_end(Status.FAILED, reason)
    except Busy:
        return Status.BUSY
    except (OSError, ConfigError) as error:  # the disk is full, or a file stands there: it cannot be recorded
        print(f"{run.title}: {error}", file=sys.stderr, flush=True)
    return Status.FAILED


def _is_recorded(run: Run, error: Exception | SystemExit) -> bool:
    result = run.result()
    return result.get("status") == Status.FAILED and result.get("reason") == reason_of(error, run)
