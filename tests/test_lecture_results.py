"""What the recorded numbers of the lecture's studies must show: closed forms, and who is slower, larger or stuck."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from support import ROOT
from torch import nn

sys.path.insert(0, str(ROOT / "scripts"))
from studies import lecture_optimizers
from studies.lecture_signals import FORMS, deviations

from data import Split
from losses import CrossEntropy


def numbers(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv")


def test_a_confident_right_output_has_a_larger_squared_error_than_a_wrong_one() -> None:
    losses = numbers("lecture_surfaces").set_index(["right", "wrong"])
    right, wrong = losses.loc[(4, -4)], losses.loc[(0.4, 0.6)]
    assert right["mse_one_hot"] == pytest.approx((3**2 + 4**2) / 2)
    assert right["mse_one_hot"] > 30 * wrong["mse_one_hot"]
    assert right["cross_entropy"] < 0.001 * wrong["cross_entropy"]
    assert losses.loc[(0, 0), "cross_entropy"] == pytest.approx(np.log(2), abs=1e-6)


def test_sgd_diverges_in_the_valley_above_two_over_the_greatest_curvature() -> None:
    valley = numbers("lecture_valley")
    last = valley[(valley["kind"] == "valley") & (valley["optimizer"] == "sgd")].groupby("lr")["f"].last()
    assert {0.066, 0.068} < set(last.index)  # on both sides of 2 / 30
    for lr, height in last.items():
        assert height > 1e6 if lr > 2 / 30 else height < lecture_optimizers.BOUND


def test_the_lectures_momentum_is_torchs_while_the_learning_rate_is_constant() -> None:
    kinds = {kind: own.set_index("step")[["x", "y"]] for kind, own in numbers("lecture_valley").groupby("kind")}
    assert -kinds["ramp"].diff().iloc[-1]["x"] == pytest.approx(0.02 / (1 - 0.9))
    assert (kinds["torch"] == kinds["slide"]).all(axis=None)
    difference = (kinds["drop"] - kinds["drop_slide"]).abs().max(axis=1)
    assert (difference.loc[: lecture_optimizers.DROP] == 0).all()
    assert difference[lecture_optimizers.DROP + 1] > 0.1


def test_the_variance_of_a_batch_is_the_closed_form() -> None:
    batches = numbers("lecture_batches")
    ratio = (batches["variance"] / batches["closed_form"]).groupby([batches["epoch"], batches["size"]]).mean()
    assert (ratio[0] - 1).abs().max() < 0.05
    assert (ratio - 1).abs().max() < 0.15  # after training few examples have most of the gradient
    variance = batches.groupby(["epoch", "size"])["variance"].mean().unstack()
    assert (variance[10] / variance[100]).tolist() == pytest.approx([10, 10], rel=0.25)


def test_noise_of_a_linear_model_by_hand() -> None:
    """The gradient of outputs' sum is the input: the variance of batches is that of means of inputs."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 2, bias=False), torch.randn(400, 3)
    found = lecture_optimizers.noise(model, CrossEntropy(), Split(inputs, torch.zeros(400, dtype=torch.long)), 0)
    probabilities = model(inputs).detach().softmax(1) - torch.tensor([1.0, 0.0])
    gradients = (probabilities[:, :, None] * inputs[:, None]).flatten(1)
    single = (gradients - gradients.mean(0)).square().sum(1).mean().item()
    found = found.set_index("size")
    assert found.loc[1, "closed_form"] == pytest.approx(single, rel=1e-4)
    assert found.loc[10, "closed_form"] == pytest.approx(single / 10 * 390 / 399, rel=1e-4)
    assert found["variance"].tolist() == pytest.approx(found["closed_form"].tolist(), rel=0.25)
    assert found["squared_gradient"].iloc[0] == pytest.approx(gradients.mean(0).square().sum().item(), rel=1e-4)


def test_one_step_per_epoch_is_slower_than_mini_batches() -> None:
    epochs = numbers("lecture_optimizers")
    loss = epochs.groupby(["optimizer", "epoch"])["train/loss"].agg(["min", "max"])
    trained = loss.index.levels[1][1:]
    assert (loss["min"]["full gradient"][trained] > 1.5 * loss["max"]["sgd"][trained]).all()


def test_the_signal_grows_by_its_closed_form_within_two_percent() -> None:
    ratios = numbers("lecture_ratios")
    assert deviations(ratios).abs().max().max() < 0.02
    assert set(FORMS) <= set(ratios[["activation", "init"]].itertuples(index=False, name=None))
    published = ratios.groupby(["activation", "init"])["closed_form"].first()
    assert published["identity"].tolist() == pytest.approx([0.01, 1 / 3, 1 / 3, 1], rel=1e-5)
    assert published["relu"].tolist() == pytest.approx([1, 1 / 6, 1 / 6, 1 / 2], rel=1e-5)


def test_ten_layers_of_small_normal_weights_have_learned_nothing_after_two_epochs() -> None:
    signals = numbers("lecture_signals")
    trained = signals[signals["epoch"] == 2].dropna(subset=["test/error"])
    assert trained.groupby(["activation", "init"])["seed"].nunique().min() >= 5
    is_small = trained["init"] == "normal(.01)"
    assert trained.loc[is_small, "test/error"].between(0.88, 0.91).all()
    assert (trained.loc[~is_small, "test/error"] < 0.2).all()
