"""`model=module`: a network that knows nothing of this library, and nothing beyond the packages that are allowed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from runner.config.check import ConfigError

Command = Callable[..., CompletedProcess[str]]

PACKAGE = """
from os import system

from torch import nn


class Net(nn.Module):
    def __init__(self, hidden: int):
        super().__init__()
        self.first, self.bend, self.last = nn.Linear(784, hidden), nn.Tanh(), nn.Linear(hidden, 10)

    def forward(self, images):
        return self.last(self.bend(self.first(images.flatten(1))))


class Pair(Net):
    def forward(self, images):
        return super().forward(images), None


class Broken(Net):
    def forward(self, images):
        return self.second(images)


class Halving(Net):
    def forward(self, images):
        images /= 2
        return super().forward(images)
"""
SMALL = ("epochs=1", "data.train_size=40", "data.validation_size=0", "histograms=false", "pictures=false", "device=cpu")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "__init__.py").write_text(PACKAGE)
    return path


def test_a_network_of_ones_own_trains_with_a_penalty_on_its_layers(
    command: Command, package: Path, tmp_path: Path
) -> None:
    penalty = ("penalty=[jacobian,activation_gradient]", "penalty.activation_gradient.layers=[bend]")
    network = "model.network={_target_: mine.Net, hidden: 7}"
    done = command(*SMALL, "allow_targets=[mine]", "model=module", network, *penalty)
    assert done.returncode == 0, done.stderr
    (result,) = (tmp_path / "runs").rglob("result.json")
    assert json.loads(result.read_text())["train/penalty/activation_gradient"] > 0


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("{_target_: mine.Net, hidden: 7, deep: 1}", "model.network.deep is not an option of model.network: it takes"),
        ("{_target_: mine.Net, hidden: wide}", "model.network.hidden must be a whole number, got 'wide'"),
        ("{_target_: mine.Net}", "model.network.hidden is missing"),
        ("{_target_: mine.Pair, hidden: 7}", "model: its outputs for 2 examples are a tuple instead of a tensor of"),
        ("{_target_: mine.Broken, hidden: 7}", "model: it does not take 1x28x28 inputs: AttributeError: 'Broken' obj"),
        (
            "{_target_: mine.Halving, hidden: 7}",
            "model: it must leave its inputs as they are, and changes",
        ),
        ("{_target_: mine.system, command: touch touched}", "'mine.system' must be a class or function defined in m"),
        ("null", "model: network must be {_target_: package.Class, and its arguments}, got None"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    composed: Callable, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, network: str, sentence: str
) -> None:
    from runner.training.build import build

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    run = composed(*SMALL, "allow_targets=[mine]", "model=module", f"model.network={network}")
    with pytest.raises(ConfigError) as refusal:
        build(run.config)
    (line,) = str(refusal.value).splitlines()
    assert sentence in line
    assert not (tmp_path / "touched").exists()
    sys.modules.pop("mine", None)


def test_a_class_of_another_package_is_refused(command: Command, package: Path, tmp_path: Path) -> None:
    network = "model.network={_target_: os.system, command: touch touched}"
    done = command(*SMALL, "allow_targets=[mine]", "model=module", network)
    assert done.returncode == 2
    assert "model.network._target_ must be one of the classes that conf/ names, got 'os.system'" in done.stderr
    assert not (tmp_path / "touched").exists()


def test_without_allow_targets_the_package_is_not_even_imported(
    command: Command, package: Path, tmp_path: Path
) -> None:
    (package / "__init__.py").write_text("open('touched', 'w')")
    done = command(*SMALL, "model=module", "model.network={_target_: mine.Net, hidden: 7}")
    assert done.returncode == 2
    assert "model.network._target_ must be one of the classes that conf/ names, got 'mine.Net'" in done.stderr
    assert not (tmp_path / "touched").exists()
