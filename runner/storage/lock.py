"""One process at a time in a run's directory: the system's lock, and a second guard where machines share files.

The system's lock (flock) ends with its process, however that ends. Some shared file systems refuse it, which is told;
some grant it on each machine by itself (Lustre mounted with localflock, NFS with local_lock). So whoever has the lock
also writes who it is into the file `.holder`, and touches it every few seconds. If that file names another machine and
is still being touched, the directory is busy; if it is not, its process has died.
"""

import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from runner.config.check import ConfigError
from runner.storage.atomic import read_json

HEARTBEAT_SECONDS = 5.0  # between touches of the holder's file
SILENCE_SECONDS = 20.0  # after which a holder on another machine counts as dead


class Busy(RuntimeError):
    """Another process works in the run's directory."""


def make_folder(path: Path) -> None:
    """Make a folder for a run or a sweep, unless it exists.

    Raises:
        ConfigError: if that cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = f"a folder that can be written, got {path} ({error.strerror})"
        raise ConfigError([f"runs_dir and name must lead to {where}"]) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a run's directory; the lock is released when its process ends, however it ends.

    Raises:
        Busy: if another process holds it.
        ConfigError: if there can be no such directory, or no lock in it.
    """
    make_folder(path)
    with open(path / ".lock", "w") as file:
        _lock(file, path)
        with _held(path):
            yield


def is_held(path: Path) -> bool:
    """Tell whether a process works in a run's directory, which may not exist."""
    if not path.exists():
        return False
    try:
        with locked(path):
            return False
    except Busy:
        return True


def require_locks(folder: Path) -> None:
    """Raise ConfigError, before anything is trained, if the file system of a folder grants no locks."""
    with tempfile.TemporaryFile(dir=folder) as file:
        _lock(file, folder)


def _lock(file: IO[Any], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(_busy(path)) from error
    except OSError as error:
        where = f"on a file system that grants locks (flock), got {path} ({error.strerror})"
        raise ConfigError([f"runs_dir must lie {where}: choose a folder on another one"]) from error


def _busy(path: Path, host: str = "") -> str:
    return f"another process{host and f' on {host}'} is training in {path}: wait for it, or stop it first"


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Be the holder that other machines see."""
    holder, ended = path / ".holder", threading.Event()
    while not _claimed(holder):
        _await_silence(holder)
        holder.unlink(missing_ok=True)

    def touch() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):
                os.utime(holder)

    heartbeat = threading.Thread(target=touch, daemon=True)
    heartbeat.start()
    try:
        yield
    finally:
        ended.set()
        heartbeat.join()
        holder.unlink(missing_ok=True)


def _claimed(holder: Path) -> bool:
    """Write who we are, unless somebody stands there: on any file system one of several processes succeeds."""
    try:
        with open(holder, "x") as file, suppress(OSError):  # on a full disk it stays empty
            file.write(json.dumps({"machine": machine(), "host": socket.gethostname(), "pid": os.getpid()}))
    except FileExistsError:
        return False
    return True


def _await_silence(holder: Path) -> None:
    """Return once the holder is known to be dead; one of this machine is, since we have the lock."""
    try:
        found = read_json(holder)
    except (OSError, ValueError):  # it has just been made, or there was no room for what it says
        found = {}
    if found.get("machine") == machine():
        return
    first, end = _touched(holder), time.monotonic() + SILENCE_SECONDS
    while time.monotonic() < end:
        time.sleep(SILENCE_SECONDS / 20)
        if _touched(holder) not in (first, None):
            raise Busy(_busy(holder.parent, found.get("host", "another machine")))


def _touched(holder: Path) -> int | None:
    """Return when the file was last touched; it is opened, since shared file systems remember an older answer."""
    try:
        with open(holder) as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None


def machine() -> str:
    """Return what tells this machine from all others; containers on it share it, as they share its locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()
