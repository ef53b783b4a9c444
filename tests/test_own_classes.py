"""A user's own classes: the page about them, word by word, and what is said when one of them fails."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.forked import Forks
from support.markdown import blocks

from runner.config.check import ConfigError

PAGE = (ROOT / "docs" / "own_classes.md").read_text()
COMMANDS = re.findall(r"^    uv run train\.py (.*)$", PAGE, re.M)
SHORT = ("epochs=1", "data.train_size=40", "data.validation_size=10", "histograms=false", "threads=1", "device=cpu")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    for block in blocks(PAGE, language="python|yaml"):
        path = tmp_path / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block)
    return tmp_path


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_of_the_page_trains(forks: Forks, page: Path, line: str) -> None:
    assert forks.run(*shlex.split(line), *SHORT) == 0, forks.said()
    results = [json.loads(path.read_text()) for path in page.glob("runs/train/*/result.json")]
    assert [result["status"] for result in results] == ["done"] * (2 if "-m" in line else 1)
    assert ("train/penalty/sensitivity" in results[-1]) == ("penalty=[sensitivity" in line) or "-m" in line
    assert all(("probe/calibration/excess" in result) == ("calibration" in line) for result in results)


def test_the_page_has_an_example_of_each(page: Path) -> None:
    groups = {path.parent.name for path in (page / "myconf").rglob("*.yaml")}
    assert groups == {"model", "data", "loss", "penalty", "probe", "optimizer"}
    options = {path.stem for path in (page / "myconf").rglob("*.yaml")}
    assert all(any(option in line for line in COMMANDS) for option in options)


def test_they_must_be_allowed(forks: Forks, page: Path) -> None:
    (line,) = [line for line in COMMANDS if line.startswith("-m")]
    assert forks.run(*(word for word in shlex.split(line) if word != "allow_targets=[mine]")) == 2
    assert forks.said().count("add allow_targets=[its_package]") == 6
    assert not (page / "runs").exists()


FAILING = """
import torch
from torch import nn

import data
from losses import Criterion, Penalty
from runner.training.schedule import Schedule


class Misbuilt(nn.Linear):
    def __init__(self, *, input_shape, outputs):
        super().__init__(input_shape[0], outputs)
        self.wieght.zero_()  # built


class Crashing(nn.Linear):
    def __init__(self, *, input_shape, outputs):
        super().__init__(input_shape[0], outputs)

    def forward(self, inputs):
        return {}["bend"](inputs)  # called


class Picky(nn.Linear):
    def __init__(self, *, outputs):
        super().__init__(1, outputs)


class Absent:
    def load(self):
        return open("absent.csv")  # loaded


class Mean(Criterion):
    targets = "values"
    def losses(self, outputs, targets):
        return (outputs - targets).square().mean()


class Crooked(Criterion):
    targets = "values"
    def losses(self, outputs, targets):
        return self.squares(outputs, targets).sum(1)

    def squares(self, outputs, targets):
        return (outputs - targts).square()  # lost


class Narrow(Penalty):
    def __call__(self, forward):
        return forward.outputs[:, 0] + torch.ones(3)  # penalised


class Strict(Penalty):
    def __init__(self, *, power: int = 0):
        raise ValueError(f"power must be positive, got {power}")  # refused

    def __call__(self, forward):
        return forward.losses


class Plan:  # declared
    def __call__(self, epoch, epochs, step):
        return 1.0


class Wordy(Schedule):
    def __call__(self, epoch, epochs, step):
        return "slow"


class Zero(Schedule):
    def __call__(self, epoch, epochs, step):
        return 1 / epoch  # scheduled


class Untold(Criterion):  # aimless
    def losses(self, outputs, targets):
        return (outputs - targets).square().sum(1)


class Late(Criterion):
    targets = "values"
    calls = 0

    def losses(self, outputs, targets):
        self.calls += 1
        return (outputs - targets).square().sum(1) / [1, 1][self.calls > 2 and 2]  # trained
"""
LINE = ("data=line", "model=mlp", "loss=mse")


def with_place(sentence: str) -> str:
    """Return a sentence with the file and the line in the place of the comment that stands there, in parentheses."""
    for number, line in enumerate(FAILING.splitlines(), 1):
        if "  # " in line:
            sentence = sentence.replace(f"({line.rpartition('# ')[2]})", f"(failing/__init__.py, line {number})")
    return sentence


@pytest.fixture
def run_with(composed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function of a group and of a class in the package `failing` that returns the run with this class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "failing", raising=False)
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing" / "__init__.py").write_text(FAILING)

    def run(group: str, name: str) -> Any:
        path = tmp_path / "conf" / group / "mine.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(f"mine: {{_target_: failing.{name}}}" if group == "penalty" else f"_target_: failing.{name}")
        others = [line for line in LINE if not line.startswith(group)]
        return composed(*others, f"{group}=mine", "allow_targets=[failing]", "epochs=1", folder=str(tmp_path / "conf"))

    return run


@pytest.mark.parametrize(
    ("group", "name", "sentence"),
    [
        ("model", "Misbuilt", "model: AttributeError: 'Misbuilt' object has no attribute 'wieght' (built)"),
        ("model", "Crashing", "model: it does not take 1 inputs: KeyError: 'bend' (called)"),
        ("model", "Picky", "model must take input_shape, which the runner gives it: add arguments of that name to its "
         "constructor, or use model=module"),
        ("data", "Absent", "data: FileNotFoundError: [Errno 2] No such file or directory: 'absent.csv' (loaded)"),
        ("loss", "Mean", "loss: its value for 2 examples is of shape (): return the loss of each example, (2,)"),
        ("loss", "Crooked", "loss: NameError: name 'targts' is not defined (lost)"),
        ("penalty", "Narrow", "penalty.mine: RuntimeError: The size of tensor a (2) must match the size of tensor b "
         "(3) at non-singleton dimension 0 (penalised)"),
        ("scheduler", "Plan", "scheduler: AttributeError: 'Plan' object has no attribute 'initial' (declared)"),
        ("scheduler", "Wordy", "scheduler: its factor must be a number, got 'slow'"),
        ("scheduler", "Zero", "scheduler: ZeroDivisionError: division by zero (scheduled)"),
        ("loss", "Untold", "loss: AttributeError: 'Untold' object has no attribute 'targets' (aimless)"),
        ("penalty", "Strict", "penalty.mine: ValueError: power must be positive, got 0 (refused)"),
    ],
)  # fmt: skip
def test_a_class_that_fails_before_training(
    run_with: Callable[..., Any], group: str, name: str, sentence: str, tmp_path: Path
) -> None:
    from runner.training.build import build

    with pytest.raises(ConfigError) as refusal:
        build(run_with(group, name).config)
    assert str(refusal.value) == with_place(sentence)
    assert not (tmp_path / "runs").exists()


def test_a_class_that_fails_in_training(run_with: Callable[..., Any]) -> None:
    from runner.run import train_run

    run = run_with("loss", "Late")
    with pytest.raises(IndexError):
        train_run(run)
    assert run.result()["reason"] == with_place("IndexError: list index out of range (trained)")


def test_a_package_that_fails_as_it_is_imported(run_with: Callable[..., Any], tmp_path: Path) -> None:
    from runner.training.build import build

    (tmp_path / "failing" / "__init__.py").write_text("import math\n\nmath.tua\n")
    with pytest.raises(ConfigError) as refusal:
        build(run_with("loss", "Mean").config)
    expected = "loss: _target_ 'failing.Mean' cannot be imported: module 'math' has no attribute 'tua' "
    assert str(refusal.value) == expected + "(failing/__init__.py, line 3)"
