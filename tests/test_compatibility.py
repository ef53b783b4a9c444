"""Warnings before training, where options that are fine by themselves mislead together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from runner.training.build import build

SMALL = ("data.train_size=40", "data.validation_size=10", "model=mlp", "epochs=4")
LINE = ("data=line", "model=mlp", "loss=mse", "batch_size=5")
SLOPES = ("tangent_prop", "jacobian", "jacobian_spectral", "input_gradient")
FALLING = {
    "cosine": ("scheduler=cosine",),
    "staircase": ("scheduler=staircase", "scheduler.steps=159", "batch_size=1"),  # falls at the last of 160 steps
    "geometric": ("scheduler=geometric",),
    "step": ("scheduler=step", "scheduler.milestones=[3]", "scheduler.values=[0.1,0.05]"),
}
NOT_FALLING = {
    "constant": (),
    "staircase beyond the end": ("scheduler=staircase", "scheduler.steps=160", "batch_size=1"),
    "staircase, a step an epoch": ("scheduler=staircase", "scheduler.steps=4", "optimizer.gradient=full"),
    "factor 1": ("scheduler=geometric", "scheduler.factor=1"),
    "step beyond the end": ("scheduler=step", "scheduler.milestones=[4]", "scheduler.values=[0.1,0.05]"),
}


@pytest.fixture
def warned(composed: Callable[..., Any]) -> Callable[..., list[str]]:
    """Return a function of overrides that builds a run and returns its warnings."""

    def sentences(*overrides: str) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            build(composed(*overrides).config)
        return [str(warning.message) for warning in caught]

    return sentences


@pytest.mark.parametrize("scheduler", FALLING)
@pytest.mark.parametrize(("penalty", "name"), [("l1", "L1"), ("elastic_net", "ElasticNet")])
def test_a_threshold_that_does_not_fall_with_the_learning_rate(
    warned: Callable[..., list[str]], penalty: str, name: str, scheduler: str
) -> None:
    options = (*SMALL, *FALLING[scheduler], f"penalty={penalty}")
    (sentence,) = warned(*options)
    assert sentence.startswith(f"{name}: the learning rate falls and the threshold does not")
    assert "scale_by_lr=true" in sentence
    assert not warned(*options, f"penalty.{penalty}.scale_by_lr=true")
    assert not warned(*options, f"penalty.{penalty}.weight=0")


@pytest.mark.parametrize("scheduler", NOT_FALLING)
def test_a_threshold_under_a_constant_learning_rate(warned: Callable[..., list[str]], scheduler: str) -> None:
    assert not warned(*SMALL, *NOT_FALLING[scheduler], "penalty=[l1,elastic_net]")


def test_a_subgradient_falls_with_the_learning_rate(warned: Callable[..., list[str]]) -> None:
    assert not warned(*SMALL, "scheduler=cosine", "penalty=[l1,l2]", "penalty.l1.method=subgradient")


@pytest.mark.parametrize("penalty", SLOPES)
def test_slopes_of_a_piecewise_linear_curve(warned: Callable[..., list[str]], penalty: str) -> None:
    (sentence,) = warned(*LINE, f"penalty={penalty}")
    assert sentence.endswith("a piecewise linear network cannot bend between the points: choose model.activation=tanh")
    assert not warned(*LINE, f"penalty={penalty}", "model.activation=tanh")
    assert not warned(*LINE, f"penalty={penalty}", f"penalty.{penalty}.weight=0")


def test_what_may_be_piecewise_linear(warned: Callable[..., list[str]]) -> None:
    """Decisions need not bend, and weights have no slope."""
    assert not warned(*SMALL, f"penalty=[{','.join(SLOPES)}]")
    assert not warned(*LINE, "penalty=[l2,weight_gradient]")
