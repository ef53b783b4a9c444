"""Killed at random steps and resumed: every step's objective, the record and the final state are as if undisturbed."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.board import READERS, serving
from support.forked import Forks
from support.records import table, values
from support.states import assert_same, steps_of, timeless

from runner.storage import checkpoint

EPOCHS, STEPS = 5, 6  # of an epoch
MOMENTS = ("before", "within", "after", "saving")
MODELS = {
    "mlp": ("model=mlp", "model.widths=[8]", "data=npz", "data.path=small.npz"),
    "mnist_convnet": ("model=mnist_convnet", "model.width=0.25", "data=npz", "data.path=small.npz"),
    "cifar10_convnet": ("model=cifar10_convnet", "model.width=0.25", "data=npz", "data.path=colour.npz"),
}
OPTIMIZERS = {
    "momentum": ("optimizer=momentum",),
    "adam": ("optimizer=adam",),
    "lbfgs": ("optimizer=lbfgs", "optimizer.max_iter=3"),
    "sam": ("optimizer=sam", "optimizer.momentum=0.9"),
}
PENALTIES = {
    "none": (),
    "jacobian": ("penalty=[jacobian,large_margin]", "penalty.jacobian.weight=0.1", "penalty.large_margin.weight=1e-5"),
}
WHOLE = list(itertools.product(MODELS, OPTIMIZERS, PENALTIES))
SAMPLE = [
    ("mlp", "adam", "jacobian"),
    ("mnist_convnet", "momentum", "jacobian"),
    ("cifar10_convnet", "lbfgs", "none"),
    ("mlp", "sam", "jacobian"),
]


@pytest.fixture
def forks(forks: Forks) -> Forks:
    """Runs in a folder that holds small data sets of random images."""
    draw = np.random.RandomState(0)
    for name, shape in (("small", (1, 28, 28)), ("colour", (3, 32, 32))):
        arrays: dict[str, Any] = {}
        for part, count in (("train", 60), ("test", 20)):
            arrays[f"{part}_images"] = draw.randint(0, 256, (count, *shape), dtype=np.uint8)
            arrays[f"{part}_labels"] = np.arange(count) % 10
        np.savez(forks.folder / f"{name}.npz", **arrays)
    return forks


def line(model: str, optimizer: str, penalty: str, runs: str) -> tuple[str, ...]:
    """Return the arguments of a run of EPOCHS times STEPS steps."""
    common = (f"runs_dir={runs}", f"epochs={EPOCHS}", "batch_size=9", "data.validation_size=6", "scheduler=cosine")
    quiet = ("threads=1", "device=cpu", "histograms=false", "pictures=false")
    return (*MODELS[model], *common, *quiet, *OPTIMIZERS[optimizer], *PENALTIES[penalty])


def directory_of(forks: Forks, runs: str) -> Path:
    (directory,) = (forks.folder / runs / "train").iterdir()
    return directory


def killed_and_resumed(forks: Forks, arguments: tuple[str, ...], kills: int, seed: int, **faults: Any) -> None:
    """Kill a run at random steps, at random moments of them, with frequent saves or few; then let it end."""
    print(f"{seed=}")  # seen when a test fails
    draw = random.Random(seed)
    for kill in range(kills):
        often = kill == 0 or draw.random() < 0.5  # the first kill leaves a checkpoint in the midst of an epoch
        fault = {"after": draw.randrange(2, STEPS), "moment": draw.choice(MOMENTS)}
        print(fault, f"{often=}")
        code = forks.run(*arguments, f"checkpoint_seconds={1e-6 if often else 0.03}", **fault, **faults)
        assert code == -9, forks.said()
    assert forks.run(*arguments, **faults) == 0, forks.said()


def assert_as_undisturbed(forks: Forks) -> None:
    """Compare the runs `perturbed` and `whole`: steps, final states, tables."""
    whole = steps_of(forks.folder / "whole.notes")
    assert set(whole) == set(range(EPOCHS * STEPS))
    assert len(set.union(*whole.values())) > STEPS  # it does train
    assert steps_of(forks.folder / "perturbed.notes") == whole
    one, other = (checkpoint.load(directory_of(forks, runs)) for runs in ("perturbed", "whole"))
    assert one
    assert other
    assert_same(one["loop"], other["loop"])
    assert_same(*(checkpoint.load(directory_of(forks, runs), "best") for runs in ("perturbed", "whole")))
    assert_same(*(timeless(state["history"]) for state in (one, other)))
    assert_same(*(timeless(table(directory_of(forks, runs))) for runs in ("perturbed", "whole")))


def disturb(forks: Forks, model: str, optimizer: str, penalty: str, *, kills: int, **faults: Any) -> None:
    """Make the runs `whole` and `perturbed`, each with notes of its steps."""
    arguments = [line(model, optimizer, penalty, runs) for runs in ("whole", "perturbed")]
    assert forks.run(*arguments[0], notes="whole.notes") == 0, forks.said()
    killed_and_resumed(forks, arguments[1], kills, time.time_ns(), notes="perturbed.notes", **faults)
    log = (directory_of(forks, "perturbed") / "train.log").read_text()
    resumed = re.findall(r"resumed at epoch (\d+), step (\d+) of it", log)
    assert any(step != "0" for _, step in resumed), log  # else it has tested less than it says


@pytest.mark.parametrize(("model", "optimizer", "penalty"), SAMPLE)
def test_killed_run_ends_as_an_undisturbed_one(forks: Forks, model: str, optimizer: str, penalty: str) -> None:
    disturb(forks, model, optimizer, penalty, kills=3)
    assert_as_undisturbed(forks)


def test_killed_between_two_epochs(forks: Forks) -> None:
    """A state saved after an epoch's last step and before its evaluation would lack what is recorded of the epoch."""
    arguments = [line("mlp", "adam", "jacobian", runs) for runs in ("whole", "perturbed")]
    assert forks.run(*arguments[0], notes="whole.notes") == 0, forks.said()
    for moment in MOMENTS:
        fault = {"after": STEPS, "moment": moment, "notes": "perturbed.notes"}
        assert forks.run(*arguments[1], "checkpoint_seconds=1e-6", **fault) == -9, forks.said()
    assert forks.run(*arguments[1], notes="perturbed.notes") == 0, forks.said()
    assert "resumed at epoch 1, step 0 of it" in (directory_of(forks, "perturbed") / "train.log").read_text()
    assert_as_undisturbed(forks)


def test_seconds_of_earlier_sittings_count(forks: Forks) -> None:
    arguments = line("mlp", "adam", "none", "runs")
    assert forks.run(*arguments, "checkpoint_seconds=1e-6", after=4) == -9
    state = checkpoint.load(directory_of(forks, "runs"))
    assert state
    checkpoint.save(directory_of(forks, "runs"), {**state, "seconds": 7e6, "training_seconds": 5e6}, step=4)
    assert forks.run(*arguments) == 0, forks.said()
    result = json.loads((directory_of(forks, "runs") / "result.json").read_text())
    assert 7e6 < result["seconds"] < 7e6 + 600
    assert result["examples_per_second"] == pytest.approx(EPOCHS * 54 / 5e6, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "optimizer", "penalty"), WHOLE)
def test_killed_run_ends_as_an_undisturbed_one_whole(forks: Forks, model: str, optimizer: str, penalty: str) -> None:
    disturb(forks, model, optimizer, penalty, kills=5)
    assert_as_undisturbed(forks)


@pytest.mark.parametrize("forgotten", ["generator", "optimizer", "model", "means"])
def test_state_that_is_not_restored_shows(forks: Forks, forgotten: str) -> None:
    """The means are a record alone; all else changes the steps themselves."""
    disturb(forks, "mlp", "adam", "jacobian", kills=1, forget=forgotten)
    whole, perturbed = (steps_of(forks.folder / f"{name}.notes") for name in ("whole", "perturbed"))
    assert (perturbed == whole) == (forgotten == "means")
    with pytest.raises(AssertionError):
        assert_as_undisturbed(forks)


def test_dropout_goes_on_where_it_was(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    (forks.folder / "mine.py").write_text(
        "import torch\n"
        "class Dropping(torch.nn.Sequential):\n"
        "    def __init__(self, *, input_shape, outputs):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Dropout(), torch.nn.Linear(784, outputs))\n"
    )
    (forks.folder / "own" / "model").mkdir(parents=True)
    (forks.folder / "own" / "model" / "mine.yaml").write_text("_target_: mine.Dropping\n")
    own = ("--config-dir=own", "allow_targets=[mine]", "model=mine", *MODELS["mlp"][2:])
    monkeypatch.setitem(MODELS, "dropping", own)
    disturb(forks, "dropping", "momentum", "none", kills=3)
    assert_as_undisturbed(forks)
    forgetful = line("dropping", "momentum", "none", "forgetful")
    assert forks.run(*forgetful, "checkpoint_seconds=1e-6", after=4) == -9
    assert forks.run(*forgetful, notes="forgetful.notes", forget="torch_generator") == 0
    found, whole = (steps_of(forks.folder / f"{name}.notes") for name in ("forgetful", "whole"))
    assert any(whole[step] != objectives for step, objectives in found.items())  # else nothing was dropped


def test_tensorboard_after_kills_has_increasing_steps(forks: Forks) -> None:
    disturb(forks, "mlp", "momentum", "none", kills=3)
    for found in (values(directory_of(forks, runs)) for runs in ("whole", "perturbed")):
        for tag, points in found.items():
            steps = [step for step, _ in points]
            assert steps == sorted(set(steps)), tag
        assert [step for step, _ in found["Train/loss"]] == list(range(EPOCHS + 1))
    assert found["Train/loss"] == values(directory_of(forks, "whole"))["Train/loss"]
    run = str(directory_of(forks, "perturbed").relative_to(forks.folder / "perturbed"))
    for reader in READERS:
        with serving(forks.folder / "perturbed", reader) as board:
            for tag in ("Train/loss", "Train/objective", "Test/error"):
                points = board.wait_for(run, tag, EPOCHS)
                first = int(tag == "Train/objective")  # which is measured in training alone
                assert [step for _, step, _ in points] == list(range(first, EPOCHS + 1)), reader


def test_one_bit_shows(forks: Forks) -> None:
    """The negative control of the comparison itself."""
    disturb(forks, "mlp", "momentum", "none", kills=1)
    directory = directory_of(forks, "perturbed")
    state = checkpoint.load(directory)
    assert state
    weight = state["loop"]["model"]["fc1.weight"]
    weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))
    checkpoint.save(directory, state, step=EPOCHS * STEPS)
    with pytest.raises(AssertionError):
        assert_as_undisturbed(forks)
