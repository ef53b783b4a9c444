"""What a user sees: a bar and an overview that are redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runner import console
from runner.console import MEANS, Console, board_lines
from runner.sweep import overview
from runner.sweep.overview import Overview

ROW = {"train/objective": 0.5, "train/loss": 0.4, "train/error": 0.25, "test/loss": 0.6, "test/error": 0.125}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """All that was ever drawn, without the control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue()).replace("\r", "\n").splitlines()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw each time, on a terminal that can."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    for module, name in ((console, "BAR_SECONDS"), (overview, "DRAW_SECONDS"), (overview, "LINE_SECONDS")):
        monkeypatch.setattr(module, name, -1.0)


def test_bar_on_a_terminal(tmp_path: Path) -> None:
    stream = Terminal()
    shown = Console(stream)
    shown.open_log(tmp_path / "log")
    shown.progress(0.5, 3, {})
    shown.progress(1.5, 3, ROW)
    shown.epoch(2, 3, ROW)  # for the log: the bar shows it
    shown.say("a warning")
    shown.close()
    drawn = "\n".join(stream.lines)
    assert "epoch 0.5/3" in drawn
    assert re.search(r"epoch 1\.5/3.*objective 0\.5  train/error 0\.25  test/error 0\.125", drawn)
    assert "epoch 2/3" not in drawn
    assert "a warning" in drawn
    log = (tmp_path / "log").read_text()
    assert "epoch 2/3  objective 0.5  train/error 0.25  test/error 0.125" in log
    assert "epoch 1.5/3" not in log


def test_plain_lines_elsewhere() -> None:
    stream = io.StringIO()
    shown = Console(stream)
    shown.progress(1.5, 3, ROW)
    for epoch in (1, 2, 3, 4):
        shown.epoch(epoch, 4, {"train/objective": 2.0, "validation/loss": 1.5, "test/loss": 1.25})
    numbers = "objective 2  validation/loss 1.5  test/loss 1.25"
    told = "(at most one line a second is shown; metrics.csv has all)"  # once
    assert stream.getvalue() == f"epoch 1/4  {numbers}\n{told}\nepoch 4/4  {numbers}\n"


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "file"])
def test_overview_counts_jobs_and_estimates_the_time_left(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, stream: io.StringIO
) -> None:
    jobs = [composed("epochs=10", f"seed={seed}") for seed in range(4)]
    for job in jobs:
        job.path.mkdir(parents=True)
    jobs[0].write_result({"status": "running", "epoch": 4})  # of an earlier sitting: it took no time now
    now = [100.0]
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr(overview.time, "monotonic", lambda: now[0])
    with Overview(jobs, total=6) as view:
        view.draw()
        view.started([jobs[0]])
        view.started([jobs[1]])
        result = {"epoch": 10, "best/by": "test/loss", "test/loss": 0.5, "seconds": 2, "warning": "nothing was learned"}
        jobs[0].write_result({"status": "done", **result})
        view.ended([jobs[0]], "done")
        jobs[1].write_result({"status": "running", "epoch": 4})
        now[0] += 20
        view.draw()  # 10 of 36 epochs in 20 s
        jobs[1].write_result({"status": "failed", "epoch": 4, "reason": "ValueError: no"})
        view.ended([jobs[1]], "failed")
    text = "\n".join(stream.lines if isinstance(stream, Terminal) else stream.getvalue().splitlines())
    assert max(len(line) for line in text.splitlines() if str(jobs[1].path) not in line) <= 120
    text = text.replace("\n    ", " ")  # wrapped
    assert re.search("^2 ended before, 4 waiting *$", text, re.MULTILINE)  # no colon, where nothing follows
    assert "2 ended before, 1 done, 1 running, 2 waiting, about 0:00:52 left" in text
    assert re.search(rf"{jobs[1].path.name}  epoch 4/10", text)
    assert f"[1/4] done: {jobs[0].path.name}  test/loss 0.5  2.0 s; warning: nothing was learned" in text
    assert f"[2/4] failed: {jobs[1].path.name}  ValueError: no; log in {jobs[1].path / 'train.log'}" in text


@pytest.mark.parametrize(
    ("prefix", "path", "program"),
    [
        (["uv", "run"], "", "uv run tensorboard"),
        ([], "activated", "tensorboard"),
        ([], "", str(Path(sys.executable).parent / "tensorboard")),
    ],
)
def test_the_command_for_tensorboard_is_found_where_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: list[str], path: str, program: str
) -> None:
    if path:
        (tmp_path / path).mkdir()
        (tmp_path / path / "tensorboard").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / path))
    command, address = board_lines(tmp_path / "my runs", "l2=0.5,seed=1_1a2b3c4d", prefix)
    assert command == f"look at it    {program} --logdir '{tmp_path}/my runs'"
    assert address == "in a browser  http://localhost:6006/?smoothing=0&runFilter=1a2b3c4d"


@pytest.mark.parametrize(
    ("runs", "means", "is_alone"), [(500, 0, False), (490, 9, False), (501, 0, True), (300, 250, True)]
)
def test_of_more_runs_than_tensorboard_selects_it_reads_those_that_are_shown(
    tmp_path: Path, runs: int, means: int, is_alone: bool
) -> None:
    for number in range(runs):
        (tmp_path / str(number)).mkdir()
    for number in range(means):
        (tmp_path / "mean" / str(number)).mkdir(parents=True)
    command, address = board_lines(tmp_path, MEANS, ["uv", "run"])
    assert command.endswith(f"--logdir {tmp_path}/mean" if is_alone else f"--logdir {tmp_path}")
    assert address.endswith("/?smoothing=0" if is_alone else "/?smoothing=0&runFilter=mean/")
    assert board_lines(tmp_path, "", ["uv", "run"])[1].endswith("/?smoothing=0"), "all runs"


def test_many_jobs_and_stacks_are_shown_in_a_few_short_lines(
    composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    title = "penalty.l2.weight=0.0123456789 model.widths=[100,100,100] optimizer=rmsprop_tensorflow init=kaiming seed="
    jobs = [composed("epochs=10", f"seed={seed}") for seed in range(45)]
    for seed, job in enumerate(jobs):
        job.path.mkdir(parents=True)
        job.title = f"{title}{seed}" if seed < 40 else f"{title}{seed} {title}"  # cut, some are alike
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr(overview.time, "monotonic", lambda: now[0])
    with Overview(jobs, total=45) as view:
        view.started(jobs[:16])
        for job in jobs[16:]:
            view.started([job])
        now[0] += 100
        view.draw()
        for seed, job in enumerate(jobs[:16]):
            job.write_result({"status": "done", "best/by": "test/loss", "test/loss": float(seed), "seconds": seed})
        view.ended(jobs[:16], "done")
        view.ended(jobs[16:17], "done")
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 120
    assert len(lines) <= 9
    text = " ".join(" ".join(lines).split())
    assert "45 running: stack of 16 jobs, penalty.l2.weight=" in text
    assert "and 27 more" in text
    assert re.search(
        r"\[16/45\] done: stack of 16 jobs, penalty.+… ?\S+ init=kaiming seed=0 and others test/loss 0 to 15 15.0 s",
        text,
    )
