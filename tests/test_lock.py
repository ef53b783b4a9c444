"""A run's directory is held by one process, also where the system's locks are refused or are of one machine only."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runner.config.check import ConfigError
from runner.storage import lock
from runner.storage.lock import Busy, locked, require_locks


@pytest.fixture
def local_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that another machine does not see, and a heartbeat that tests can wait for."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 2.0)


def hold(path: Path, machine: str, entered: Any, leave: Any, outcomes: Any) -> None:
    """Hold a directory in this process, as if it were on another machine."""
    lock.machine = lambda: machine  # type: ignore[assignment]
    try:
        with locked(path):
            outcomes.put("held")
            entered.set()
            leave.wait(60)
    except Busy:
        outcomes.put("busy")


def started(path: Path, *machines: str) -> tuple[list[Any], Any, Any, Any]:
    """Start a process for each machine, which holds the directory if it can."""
    fork = multiprocessing.get_context("fork")
    entered, leave, outcomes = fork.Event(), fork.Event(), fork.Queue()
    processes = [fork.Process(target=hold, args=(path, name, entered, leave, outcomes)) for name in machines]
    for process in processes:
        process.start()
    return processes, entered, leave, outcomes


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_sentence(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    require_locks(tmp_path)
    monkeypatch.setattr(fcntl, "flock", refuse)
    for attempt in (lambda: require_locks(tmp_path), lambda: locked(tmp_path / "run").__enter__()):
        with pytest.raises(ConfigError, match=f"runs_dir must lie on a file system that grants locks .*{tmp_path}"):
            attempt()


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_holder_on_another_machine_is_seen_until_it_dies(local_locks: None, tmp_path: Path) -> None:
    (process,), entered, _, _ = started(tmp_path, "there")
    assert entered.wait(60)
    with pytest.raises(Busy, match=r"another process on .* is training in"):
        locked(tmp_path).__enter__()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert json.loads((tmp_path / ".holder").read_text())["machine"] == "there"  # it could not take its name away
    with locked(tmp_path):
        assert json.loads((tmp_path / ".holder").read_text())["machine"] == lock.machine()
    assert not (tmp_path / ".holder").exists()


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_of_several_machines_at_once_one_gets_in(local_locks: None, tmp_path: Path) -> None:
    processes, _, leave, outcomes = started(tmp_path, *(f"machine {number}" for number in range(5)))
    found = [outcomes.get(timeout=60) for _ in processes]
    leave.set()
    for process in processes:
        process.join()
    assert sorted(found) == ["busy"] * 4 + ["held"]


def test_the_dead_of_this_machine_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(seconds: float) -> None:
        raise AssertionError("waited")

    (tmp_path / ".holder").write_text(json.dumps({"machine": lock.machine(), "host": "here", "pid": 1}))
    monkeypatch.setattr(time, "sleep", never)
    with locked(tmp_path):
        assert json.loads((tmp_path / ".holder").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{"])
def test_a_holder_that_has_not_written_its_name_is_waited_for(content: str, local_locks: None, tmp_path: Path) -> None:
    (tmp_path / ".holder").write_text(content)
    name = threading.Timer(0.3, lambda: (tmp_path / ".holder").write_text("{}"))
    name.start()
    with pytest.raises(Busy):
        locked(tmp_path).__enter__()
    with locked(tmp_path):  # it was never touched again
        assert (tmp_path / ".holder").exists()


def test_a_holder_that_leaves_in_time_is_followed(local_locks: None, tmp_path: Path) -> None:
    (tmp_path / ".holder").write_text(json.dumps({"machine": "there", "host": "there", "pid": 1}))
    threading.Timer(0.3, (tmp_path / ".holder").unlink).start()
    with locked(tmp_path):
        assert (tmp_path / ".holder").exists()
