"""What docs/results.md must show of Tangent Prop, and the closed forms behind it."""

from __future__ import annotations

import math
import sys

import pandas as pd
import pytest
import torch
from support import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
from studies import tangent_curves
from studies.tables import paired

from data import Plateaus
from losses import MSE, EagerForward, TangentProp


def recorded(name: str) -> pd.DataFrame:
    return pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv")


def test_distorted_points_are_tangent_prop_with_a_small_weight() -> None:
    """Exactly so for a straight line: three shifted points have the mean square s^2 * 2 / 3 of the slope."""
    shift, model = 0.3, torch.nn.Linear(1, 1)
    three, nine = (Plateaus(distorted=distorted, shift=shift).load().train for distorted in (False, True))
    penalty = TangentProp(tangents=lambda inputs: torch.ones_like(inputs)[None])
    forward = EagerForward(model, MSE(), three.inputs, three.targets, [penalty])
    objective = forward.losses.mean() + 2 / 3 * shift**2 * penalty(forward).mean()
    torch.testing.assert_close(MSE()(model(nine.inputs), nine.targets).mean(), objective)


def test_the_speed_up_of_tangents_over_distorted_points() -> None:
    numbers = recorded("tangents_plateaus")
    runs = numbers[numbers["stage"] == "comparison"]
    assert math.exp(tangent_curves.ratios(runs, 0.01).low) > 1
    alike = runs.groupby("arm")["sweeps to 0.01"].median()
    assert alike["small_weight"] == pytest.approx(alike["distorted_points"], rel=0.1)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([3, 1, 2, 5, 4], "3"),
        ([1050, 1200, 1300, math.nan, math.nan], "1300 (3 of 5 reached it)"),
        ([1050, 1200, math.nan, math.nan, math.nan], "most never (2 of 5 reached it)"),
        ([math.nan] * 5, "never (0 of 5)"),
    ],
)
def test_a_median_counts_the_runs_that_never_got_there(steps: list[float], said: str) -> None:
    assert tangent_curves.median(pd.Series(steps)) == said


def test_relu_stays_the_line_of_ridge_regression() -> None:
    runs = recorded("tangents_line")
    relu = runs[runs["model.activation"] == "relu"]
    assert set(relu["penalty"]) == {"tangent_prop", "jacobian"}
    for metric in ("probe/slope/at_points", "probe/slope/between"):
        assert relu[metric].to_numpy() == pytest.approx(tangent_curves.ridge_slope(0.1), abs=0.002)
    assert tangent_curves.ridge_slope(0.1) == pytest.approx(0.625 / 1.125)


def test_derivatives_improve_the_fit() -> None:
    runs = recorded("tangents_fit")
    weight = runs["penalty.tangent_prop.weight"]
    assert paired(runs, "test/loss", weight == 0.1, weight == 0).high < 0


def test_seven_tangents_lower_the_error_of_few_digits() -> None:
    numbers = recorded("tangents_digits")
    runs = numbers[(numbers["stage"] == "comparison") & (numbers["per_class"] <= 100)]
    assert runs["per_class"].nunique() == 7
    for _, own in runs.groupby("per_class"):
        assert paired(own, "test/error", own["arm"] == "seven_tangents", own["arm"] == "none").high < 0
