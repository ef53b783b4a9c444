"""The process of one job, forked from the sweep (`runner.sweep.pool`)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from runner.outcome import BUSY
from runner.signals import Interrupted
from runner.storage.directory import Busy, Run
from runner.sweep.job import train_job

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def child(run: Run, threads: int, parent: int) -> None:
    """Train in this process, which is all its own."""
    os.setpgid(0, 0)  # a Ctrl-C reaches the sweep alone, which hands it on
    die_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        log = os.open(run.path / "train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        sys.exit(f"{run.path} cannot be written ({error.strerror})")
    os.dup2(log, 1)  # what a user's own code prints, and the last words of native code
    os.dup2(log, 2)
    try:
        train_job(run)
    except Busy:
        sys.exit(BUSY)
    except Interrupted as interruption:
        sys.exit(interruption.exit_code)


def die_with(parent: int) -> None:
    """Have the system kill this process as soon as its parent is gone, so that its lock is free again."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before the line above
            os.kill(os.getpid(), signal.SIGKILL)
