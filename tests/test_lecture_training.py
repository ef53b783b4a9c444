"""Lecture 5.6: what the recorded numbers must show, and that they are read as they were recorded."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import ROOT

from runner.recording.recorder import Recorder

sys.path.insert(0, str(ROOT / "scripts"))
from studies.lecture_training import CONSTANT, FALLING, TURN, typical_losses
from studies.tables import paired

RESULTS = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def cifar() -> pd.DataFrame:
    return pd.read_csv(RESULTS / "lecture_cifar.csv")


def test_the_test_error_falls_while_the_test_loss_rises(cifar: pd.DataFrame) -> None:
    falling = cifar[cifar["schedule"] == FALLING]
    turn = falling["epoch"] == TURN
    seeds = falling.groupby("epoch")["seed"].nunique()
    assert seeds.loc[TURN : TURN + 10].min() >= 5
    for epoch in seeds.index[seeds.index > TURN]:
        later = falling["epoch"] == epoch
        assert paired(falling, "test/error", later, turn).high < 0
        assert paired(falling, "test/loss", later, turn).low > 0
        assert paired(falling, "test/loss_wrong", later, turn).low > 0


def test_the_loss_is_that_of_the_right_and_of_the_wrong_images(cifar: pd.DataFrame) -> None:
    for split in ("train", "test"):
        error, loss, right, wrong = (cifar[f"{split}/{kind}"] for kind in ("error", "loss", "loss_right", "loss_wrong"))
        assert ((1 - error) * right + (error * wrong).fillna(0)).tolist() == pytest.approx(loss.tolist(), rel=1e-4)


def test_until_the_learning_rate_falls_both_schedules_are_the_same_bits(cifar: pd.DataFrame) -> None:
    before = cifar[cifar["epoch"] <= TURN].drop(columns="seconds").set_index(["seed", "epoch"])
    constant = before[before["schedule"] == CONSTANT].drop(columns="schedule")
    falling = before[before["schedule"] == FALLING].drop(columns="schedule").loc[constant.index]
    pd.testing.assert_frame_equal(constant, falling)


def test_a_wide_network_learns_all_digits_and_a_narrow_one_does_not() -> None:
    runs = pd.read_csv(RESULTS / "lecture_capacity.csv")
    medians = runs.groupby("model.width").median(numeric_only=True)
    assert medians["parameters"].is_monotonic_increasing
    assert medians["train/error"].iloc[0] > 0.05
    assert medians["train/error"].iloc[-1] == 0
    widest = runs["model.width"] == runs["model.width"].max()
    for width in medians.index[medians["train/error"] == 0][:-1]:
        assert paired(runs, "test/error", widest, runs["model.width"] == width).mean < 0


def test_the_typical_loss_is_the_geometric_mean_by_epoch_and_split(tmp_path: Path) -> None:
    losses = {("train", 0): [1.0, 100.0], ("train", 5): [1e-4, 1e-2], ("test", 0): [3.0], ("test", 5): [0.1, 10.0, 1.0]}
    recorder = Recorder(tmp_path, hparams={}, group="group")
    for (split, epoch), values in losses.items():
        recorder.record_histogram(epoch, f"losses/{split}", torch.tensor(values))
        recorder.record_histogram(epoch, f"losses/{split}/log10", torch.tensor(values).log10())
    recorder.close()
    found = typical_losses(str(tmp_path)).set_index("epoch")
    assert found["train/typical"].to_dict() == pytest.approx({0: 10.0, 5: 1e-3})
    assert found["test/typical"].to_dict() == pytest.approx({0: 3.0, 5: 1.0})
