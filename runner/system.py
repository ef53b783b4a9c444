"""The machine as this process may use it: cores, GPUs, memory, the search for garbage. Never imports torch."""

import atexit
import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
LARGEST, KEPT = 256 << 20, 512 << 20  # bytes


def cores() -> int:
    """Return the number of CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpus() -> list[str]:
    """Return the GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes.

    Torch is not asked: what it learns of CUDA cannot be handed on to forked processes.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        except (OSError, subprocess.SubprocessError):  # none there, or it cannot talk to the driver
            return []
        given = ",".join(answer.split())
    return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]


def birth_of(process: int) -> str | None:
    """Return what tells a process from an earlier one of the same number; None if there is no such process alive."""
    try:
        facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return None if facts[0] in "ZX" else facts[19]
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
    try:  # on macOS
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def keep_freed_memory() -> None:
    """Have the C library keep freed memory for the next step, instead of returning it to the system.

    By default glibc returns large blocks with each `free`, so that every step faults all their pages in again: with
    batches of 1,000 images an epoch of the lecture's network takes 1.6 times as long, with batches of 100 the same.
    Blocks of up to 256 MiB and 512 MiB in all are kept; results do not change. Other C libraries are left alone.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)


def share_with_forks() -> None:
    """Leave what there is out of all searches for garbage: they would give each forked process a copy of it.

    But for the last one, at the exit, which native modules expect.
    """
    if not gc.get_freeze_count():  # a search of a sweep comes here for each batch of trials
        gc.freeze()
        atexit.register(gc.unfreeze)


@contextmanager
def importing_much(module: str) -> Iterator[None]:
    """Import a large module, unless that has been done, without searches for garbage.

    Torch makes a million objects that stay, and a search through them takes a fifth of a second. Afterwards they count
    as old ones, which are rarely searched.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():  # else what is shared with forks would be searched again
            gc.freeze()
            gc.unfreeze()
        gc.enable()
