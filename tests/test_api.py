"""`train` and `sweep` from Python: the runs, ids and bits of the command line, after torch has run in the caller."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT
from support.forked import Forks, wait_until

from runner.api import TrainedRun, sweep, train
from runner.storage.atomic import read_json

QUIET = ("data=line", "model=mlp", "loss=mse", "histograms=false", "pictures=false", "threads=1", "device=cpu")
pytestmark = pytest.mark.process


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_that_of_the_command_line(forks: Forks, capsys: pytest.CaptureFixture[str]) -> None:
    torch.randn(300, 300) @ torch.randn(300, 300)  # threads that a fork would not have
    line = (*QUIET, "epochs=3", "penalty=l2")
    assert forks.run(*line) == 0
    (typed,) = Path("runs/train").glob("*/result.json")
    run = train(*line, "name=python")
    ours, theirs = run.result, read_json(typed)
    assert ours["weights_sha256"] == theirs["weights_sha256"]
    assert (run.path.name, ours["run_id"]) == (typed.parent.name, theirs["run_id"])
    assert "epoch 3/3" in capsys.readouterr().out
    assert list(run.metrics["epoch"])[-1] == 3
    assert run.metrics["train/loss"].iloc[-1] == ours["train/loss"]
    assert run.model()(torch.zeros(2, 1)).shape == (2, 1)
    assert train(*line, "name=python").result == ours
    assert "trained before" in capsys.readouterr().out


def test_a_sweep_gives_its_runs_and_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    study = sweep(*QUIET, "epochs=2", "penalty=l2", "penalty.l2.weight=0,0.1", "seed=range(3)")
    assert sorted(study.runs["penalty.l2.weight"]) == [0, 0, 0, 0.1, 0.1, 0.1]
    assert study.answer.splitlines()[0].startswith("Difference to l2.weight=0 in test/loss, paired by seed")
    assert study.answer.splitlines()[0] in capsys.readouterr().out
    assert {"summary", "differences"} <= study.figures.keys()
    sweep(*QUIET, "epochs=2", "seed=7")  # another one in the same folder
    assert len(study.runs) == 6


@pytest.mark.parametrize(
    ("call", "overrides", "sentence"),
    [
        (
            train,
            ["epohs=3", "optimizer=adm"],
            r"(?s)did you mean epochs.*adam|adam.*did you mean epochs",
        ),
        (train, ["seed=0,1"], "seed has several values, 0,1: call sweep"),
        (train, ["sweep=initialisations"], "these overrides are a sweep: call sweep"),
        (sweep, ["penalty.l2.weight=0,1"], "add penalty=l2"),
        (train, [*QUIET, "optimizer=adam", "+optimizer.eta=1"], "eta"),
    ],
)
def test_a_mistake_is_a_value_error(call: Any, overrides: list[str], sentence: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        call(*overrides)
    assert not (folder / "runs").exists()


def test_a_run_that_does_not_end_well_says_so() -> None:
    run = train(*QUIET, "epochs=2", "optimizer.lr=1e9")
    assert run.result["status"] == "diverged"
    assert repr(run) == f"TrainedRun({str(run.path)!r}, status='diverged')"


def test_after_a_ctrl_c_the_same_call_goes_on(folder: Path) -> None:
    """The caller alone gets the signal, as a notebook's kernel does."""
    line = [*QUIET, "epochs=400", "checkpoint_seconds=1e-6"]
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom runner.api import train\ntrain(*{line!r})"
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, start_new_session=True) as caller:
        wait_until(lambda: list(folder.glob("runs/*/*/metrics.csv")), lambda: caller.poll() is None)
        os.kill(caller.pid, signal.SIGINT)
        said = caller.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said[1]
    (path,) = folder.glob("runs/*/*/result.json")
    assert read_json(path)["status"] == "interrupted"
    stopped = TrainedRun(path.parent).result["epoch"]
    assert 0 < stopped < 400
    assert train(*line).result["weights_sha256"] == train(*line, "name=whole").result["weights_sha256"]
    assert "interrupted" not in read_json(path)["status"]
