"""SIGTERM, Ctrl-C and divergence: the step ends, the state is saved, one sentence says how to go on; two at once."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.forked import Forks, wait_until
from support.skips import small_disk
from support.states import steps_of

from runner.outcome import objective, resume_command
from runner.signals import StopSignals
from runner.storage import checkpoint

QUIET = ("threads=1", "device=cpu", "histograms=false", "pictures=false")
SHORT = ("data=line", "model=mlp", "loss=mse", "batch_size=2", *QUIET)  # three steps an epoch
NUMBERS = (signal.SIGTERM, signal.SIGINT)
MOMENTS = ("before", "within", "after")


def result_of(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("runs/train/*/result.json")
    return json.loads(path.read_text())


def state_of(folder: Path) -> dict[str, Any] | None:
    (path,) = folder.glob("runs/train/*/result.json")
    return checkpoint.load(path.parent)


def command_in(said: str) -> tuple[str, ...]:
    """Return the arguments of the one command that is said to go on."""
    (command,) = re.findall(r"^stopped by SIG\w+; go on with: (?:python|uv run) (.+)$", said, re.M)
    script, *arguments = shlex.split(command)
    assert Path(script).name == "train.py"
    return tuple(arguments)


WHOLE = [(after, moment, number) for after in (1, 3, 8, 10) for moment in MOMENTS for number in NUMBERS]
SAMPLE = [(4, "within", 15), (4, "within", 2), (6, "after", 15), (5, "before", 2)]  # 6: at the end of an epoch


@pytest.mark.parametrize(
    ("after", "moment", "number"), [*SAMPLE, *(pytest.param(*case, marks=pytest.mark.slow) for case in WHOLE)]
)
def test_signal_ends_the_step_and_saves(forks: Forks, after: int, moment: str, number: int) -> None:
    arguments = (*SHORT, "epochs=4")
    code = forks.run(*arguments, notes="notes", after=after, moment=moment, signals=[number])
    assert code == 128 + number
    made = len(steps_of(forks.folder / "notes"))
    assert made == after + (moment != "after")
    state = state_of(forks.folder)
    assert state
    assert state["loop"]["epoch"] * 3 + state["loop"]["batch"] == made
    assert "Traceback" not in forks.said()
    result = result_of(forks.folder)
    assert (result["status"], result["reason"]) == ("interrupted", f"stopped by {signal.Signals(number).name}")
    assert forks.run(*command_in(forks.said()), notes="notes") == 0
    assert result_of(forks.folder)["status"] == "done"
    assert forks.run(*arguments, "name=whole", notes="whole") == 0
    assert steps_of(forks.folder / "notes") == steps_of(forks.folder / "whole")


@pytest.mark.parametrize("number", NUMBERS)
def test_signal_in_the_last_step_finds_the_run_done(forks: Forks, number: int) -> None:
    assert forks.run(*SHORT, "epochs=4", after=12, signals=[number]) == 0
    assert result_of(forks.folder)["status"] == "done"


@pytest.mark.parametrize("signals", [[2, 2], [15, 2, 2]])
def test_a_second_ctrl_c_exits_at_once(forks: Forks, signals: list[int]) -> None:
    code = forks.run(*SHORT, "epochs=4", notes="notes", after=4, moment="within", signals=signals)
    assert code == 130
    assert len(steps_of(forks.folder / "notes")) == 4  # the fifth step was not finished
    assert state_of(forks.folder) is None
    assert "go on with" not in forks.said()


@pytest.mark.parametrize("signals", [[15, 15], [2, 15], [15, 2]])
def test_other_pairs_of_signals_save(forks: Forks, signals: list[int]) -> None:
    code = forks.run(*SHORT, "epochs=4", notes="notes", after=4, moment="within", signals=signals)
    assert code == 128 + signals[1]
    assert len(steps_of(forks.folder / "notes")) == 5
    assert state_of(forks.folder)


@pytest.mark.parametrize("pair", [(signal.SIGTERM, signal.SIGUSR2), (signal.SIGUSR2, signal.SIGTERM)])
def test_the_launchers_signal_goes_before_sigterm(pair: tuple[int, int]) -> None:
    """As Slurm and submitit send them: SIGTERM, for which submitit has a handler that does nothing, and USR2."""
    done: list[object] = []
    before = {number: signal.signal(number, lambda number, _: done.append(number)) for number in pair}
    try:
        with StopSignals() as signals:
            for number in pair:
                signal.raise_signal(number)
            signals.check(lambda: done.append("saved"))
            assert signals.received is None  # the handler has not left: training goes on
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done == ["saved", signal.SIGUSR2]


def test_signal_to_a_run_of_full_gradients(forks: Forks) -> None:
    code = forks.run(*SHORT, "epochs=9", "optimizer.gradient=full", notes="notes", after=4, signals=[15])
    assert code == 143
    assert len(steps_of(forks.folder / "notes")) == 4


def test_divergence_goes_before_a_signal(forks: Forks) -> None:
    assert forks.run(*SHORT, "epochs=4", after=4, moment="within", signals=[15], spoil=True) == 1
    result = result_of(forks.folder)
    assert (result["status"], result["diverged_at_step"]) == ("diverged", 5)
    assert "Traceback" not in forks.said()


def test_ctrl_c_in_a_terminal(forks: Forks, tmp_path: Path) -> None:
    """A real process, stopped by a signal to its group while it trains, goes on by the command that it prints."""
    arguments = [*SHORT, "epochs=100000", "checkpoint_seconds=1e-6"]
    line = [sys.executable, str(ROOT / "train.py"), *arguments]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, cwd=tmp_path, start_new_session=True, **streams) as process:
        wait_until(lambda: list(tmp_path.glob("runs/train/*/checkpoint-*")), lambda: process.poll() is None)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.count("\n") == 1
    assert command_in(said) == tuple(arguments)
    (log,) = tmp_path.glob("runs/train/*/train.log")
    again = forks.start(*command_in(said), session=True)
    wait_until(lambda: "resumed at epoch" in log.read_text(), lambda: forks.is_running(again))
    os.killpg(again, signal.SIGTERM)
    assert forks.wait(again) == 143


@pytest.mark.parametrize(("uv", "start"), [("/bin/uv", "uv run"), (None, "python")])
def test_the_command_is_told_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, uv: str | None, start: str) -> None:
    monkeypatch.delenv("UV", raising=False)
    if uv:
        monkeypatch.setenv("UV", uv)
    monkeypatch.setattr(sys, "argv", ["train.py", "force=true", "penalty=[l2,l1]", "++force=true", "name=a b"])
    assert resume_command() == f"{start} train.py 'penalty=[l2,l1]' 'name=a b'"


def test_a_forced_run_that_was_interrupted_goes_on(forks: Forks) -> None:
    """Under a launcher that starts a job again as it was, and by the command that is printed."""
    line = (*SHORT, "epochs=4", "checkpoint_seconds=1e-6")
    assert forks.run(*line) == 0
    forced = (*line, "force=true")
    assert forks.run(*forced, after=3) == -9
    (log,) = forks.folder.glob("runs/train/*/train.log")
    assert "resumed" not in log.read_text()  # it began anew
    assert forks.run(*forced, after=2, signals=[15]) == 143
    assert log.read_text().count("resumed at epoch") == 1
    assert command_in(forks.said()) == line
    assert forks.run(*line) == 0
    assert log.read_text().count("resumed at epoch") == 2
    assert log.read_text().count("error, last") + log.read_text().count("loss, last") == 2


def test_ctrl_c_while_parts_are_built_is_one_sentence(forks: Forks) -> None:
    assert forks.run(*SHORT, "epochs=4", moment="build", signals=[2]) == 130
    _, said = forks.said().splitlines()  # behind the line that tells of torch's import
    assert said == "stopped by SIGINT before training began: nothing is lost"
    assert not (forks.folder / "runs").exists()


# ---- Two at once


def test_two_at_once_one_works_and_the_other_leaves(forks: Forks) -> None:
    arguments = (*SHORT, "epochs=100000")
    first = forks.start(*arguments, notes="notes")
    notes = forks.folder / "notes"
    wait_until(lambda: notes.exists() and len(steps_of(notes)) >= 5, lambda: forks.is_running(first))
    before = len(forks.said().splitlines())
    assert forks.run(*arguments) == 3
    said = forks.said().splitlines()[before:]
    own = [line for line in said if not line.startswith(("epoch ", "("))]  # which the first may say meanwhile
    line = own[-1]
    assert own[:-1] == ["importing torch, then reading the data"]
    assert "another process is training in" in line
    os.kill(first, signal.SIGKILL)
    assert forks.wait(first) == -9
    third = forks.start(*arguments, notes="third")  # the lock died with its process
    notes = forks.folder / "third"
    wait_until(lambda: notes.exists() and steps_of(notes), lambda: forks.is_running(third))
    os.kill(third, signal.SIGTERM)
    assert forks.wait(third) == 143


def test_many_starts_at_once_let_one_through(forks: Forks) -> None:
    arguments = (*SHORT, "epochs=2")
    processes = [forks.start(*arguments, f"checkpoint_seconds={number + 1}", notes=f"{number}") for number in range(4)]
    codes = sorted(forks.wait(process) for process in processes)
    assert codes[0] == 0
    assert set(codes) <= {0, 3}  # a late one may find the run done
    assert result_of(forks.folder)["status"] == "done"
    trained = [number for number in range(4) if steps_of(forks.folder / f"{number}")]
    assert len(trained) == 1


def test_lock_is_held_by_the_system_not_by_a_file(forks: Forks) -> None:
    assert forks.run(*SHORT, "epochs=4", after=4) == -9
    (lock,) = forks.folder.glob("runs/train/*/.lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # there, and free


# ---- Divergence


def test_divergence_from_the_command_line(forks: Forks) -> None:
    digits = ("data.train_size=100", "batch_size=10", "epochs=3", *QUIET[:2])
    assert forks.run(*digits, "optimizer.lr=1e20", notes="notes") == 1
    result = result_of(forks.folder)
    losses = [float.fromhex(next(iter(value))) for _, value in sorted(steps_of(forks.folder / "notes").items())]
    first = next(number for number, loss in enumerate(losses) if not math.isfinite(loss))
    assert result["status"] == "diverged"
    assert result["diverged_at_step"] == first + 1
    assert result["last_finite_objective"] == losses[first - 1]
    sentence = f"diverged: the objective is not finite at step {first + 1}; it was {losses[first - 1]:.6g} before"
    assert sentence in forks.said()
    assert "Traceback" not in forks.said()
    assert forks.run(*digits, "optimizer.lr=1e20") == 1  # a result: not trained again
    assert "trained before" in forks.said()


def test_divergence_in_the_last_step_of_all(composed: Callable[..., Any]) -> None:
    """Its objective is that of the weights before it, and finite; those it leaves behind are not."""
    from runner.run import train_run

    once = ("data.train_size=50", "data.validation_size=0", "epochs=1", "optimizer.lr=1e30", "histograms=true")
    directory = composed(*once)
    assert train_run(directory)["status"] == "diverged"
    assert objective(directory) == math.inf
    went_on = train_run(composed(*once, "on_nan=continue"))
    assert went_on["status"] == "done"
    assert not math.isfinite(went_on["train/loss"])


@pytest.mark.parametrize("penalty", ["[]", "[l2,jacobian]", "[large_margin]"])
def test_no_histogram_and_no_picture_of_nan_raises(composed: Callable[..., Any], penalty: str) -> None:
    from runner.run import train_run

    overrides = ("data.train_size=50", "epochs=2", "optimizer.lr=1e20", "on_nan=continue", f"penalty={penalty}")
    assert train_run(composed(*overrides, "histograms=true", "pictures=true"))["status"] == "done"
    curve = ("data=line", "model=mlp", "loss=mse", "epochs=9", "optimizer.lr=1e20", "on_nan=continue")
    assert train_run(composed(*curve, "histograms=true", "pictures=true"))["status"] == "done"


# ---- A full disk


@pytest.mark.needs("mount")
@pytest.mark.parametrize("size", ["28k", "60k", "100k"])
def test_a_disk_that_is_really_full_is_one_sentence(forks: Forks, size: str) -> None:
    """Whatever is written first when no room is left: record, log, result or checkpoint."""
    with small_disk(forks.folder / "runs", size):
        assert forks.run(*SHORT, "epochs=3000", "evaluate_every=1", "checkpoint_seconds=0.05", "histograms=true") == 1
    said = forks.said()
    assert re.search(r"^failed: .*No space left on device.*bytes free in ", said, re.M), said
    assert "Traceback" not in said


@pytest.mark.needs("mount")
def test_a_sweep_goes_on_when_the_disk_is_full(forks: Forks) -> None:
    with small_disk(forks.folder / "runs", "60k"):
        line = ("-m", *SHORT, "epochs=3000", "evaluate_every=1", "histograms=true", "seed=range(3)", "sweep.n_jobs=1")
        assert forks.run(*line) == 1
    said = forks.said()
    assert "[3/3] failed: " in said
    assert "Traceback" not in said


def test_full_disk_ends_the_run_in_one_sentence_and_leaves_what_was_saved(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from runner.outcome import failure_message
    from runner.run import train_run
    from runner.storage import atomic as files

    directory = composed(*SHORT, "epochs=4", "checkpoint_seconds=1e-6")
    replace, saved = files.replace, []

    def refused(path: Path, data: bytes | memoryview) -> None:
        saved.extend([path] if path.name.startswith("checkpoint") else [])
        if len(saved) > 5 and path.suffix == ".pt":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(path, data)

    with monkeypatch.context() as full:
        full.setattr(files, "replace", refused)
        with pytest.raises(files.WriteError) as caught:
            train_run(directory)
    (sentence,), code = failure_message(caught.value, directory)
    expected = rf"cannot write {re.escape(str(saved[5]))} \(.* bytes, No space left on device\): [\d,]+ bytes free in "
    assert re.search(expected, sentence)
    assert code == 1
    assert directory.result()["status"] == "failed"
    assert "No space left on device" in directory.result()["reason"]
    assert checkpoint.load(directory.path)["loop"]["batch"] == 1  # type: ignore[index]  # of the fifth save
    assert train_run(directory)["status"] == "done"
    assert "resumed at epoch 1, step 1" in (directory.path / "train.log").read_text()
