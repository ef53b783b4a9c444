"""What is measured of a model in training: the gradient of a penalty against that of the loss, and a guess's error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.states import assert_same, timeless

from data import Raw, Split, prepare
from losses import Penalty
from runner.run import train_run
from runner.storage import checkpoint
from runner.storage.directory import Run
from runner.training.build import Components, build
from runner.training.metrics import Means, best_of, gradient_ratios, probed, warning_of_chance
from runner.training.term import Term

LINE = ("data=line", "model=mlp", "model.activation=tanh", "model.widths=[]", "loss=mse", "batch_size=5")
SMALL = ("epochs=2", "data.train_size=100", "model=convnet", "model.norm=batch", "model.dropout=0.5")


def test_means_have_the_same_bits_however_often_they_are_summed_up() -> None:
    """Of a stack the values are float64, whose sum depends on the order."""
    values = torch.randn(50, 3, dtype=torch.float64).exp() * 10 ** torch.arange(50).remainder(9).unsqueeze(1)
    rarely, often = Means(), Means()
    for number, value in enumerate(values):
        rarely.add("value", value)
        often.add("value", value)
        if number % 7 == 0:
            often.sum_up()
    assert rarely.compute() == often.compute()
    assert rarely.compute()["value"] == pytest.approx(values.mean(0).tolist())


class Noise(Penalty):
    """Draws from torch's own generator, as a user's penalty may."""

    def __call__(self, forward: Any) -> torch.Tensor:
        return torch.rand(()) * forward.outputs.square().sum(1)


def ratios(run: Run, epoch: float = 1, **changed: Any) -> dict[str, float]:
    return gradient_ratios(replace(build(run.config), **changed), run.config, epoch)


def test_the_ratio_is_the_one_computed_by_hand(composed: Callable[..., Run]) -> None:
    """With y = w x + b and squared errors: the gradients of the loss and of 0.3 (w² + b²), on all five points."""
    run = composed(*LINE, "penalty=l2", "penalty.l2.weight=0.3", "loss.weight=2")
    components = build(run.config)
    weight, bias = (param.item() for param in components.model.parameters())
    train = components.dataset.train
    x, y = train.inputs.numpy()[:, 0].astype(float), train.targets.numpy()[:, 0].astype(float)
    residuals = weight * x + bias - y
    loss = 2 * np.hypot(np.mean(2 * residuals * x), np.mean(2 * residuals))
    penalty = 0.3 * np.hypot(2 * weight, 2 * bias)
    found = gradient_ratios(components, run.config, 1)
    assert found == {"train/gradient_ratio/l2": pytest.approx(penalty / loss, rel=1e-5)}


def test_the_ratio_grows_with_the_weight_and_its_warmup(composed: Callable[..., Run]) -> None:
    def ratio(*options: str, epoch: float = 1) -> float:
        return ratios(composed(*LINE, "penalty=l2", *options), epoch)["train/gradient_ratio/l2"]

    once = ratio("penalty.l2.weight=0.3")
    assert ratio("penalty.l2.weight=0.6") == pytest.approx(2 * once)
    assert ratio("penalty.l2.weight=0.3", "loss.weight=2") == pytest.approx(once / 2)
    assert ratio("penalty.l2.weight=0.3", "penalty.l2.every=2") == pytest.approx(once)
    assert ratio("penalty.l2.weight=0.3", "penalty.l2.warmup=4") == pytest.approx(once / 4)


def test_there_is_a_ratio_for_each_penalty_in_the_objective_alone(composed: Callable[..., Run]) -> None:
    several = composed(
        *LINE, "model.widths=[4]", "penalty=[l2,jacobian,l1,weight_gradient]", "penalty.weight_gradient.weight=0"
    )
    assert sorted(ratios(several)) == ["train/gradient_ratio/jacobian", "train/gradient_ratio/l2"]
    assert ratios(composed(*LINE)) == {}
    assert ratios(composed(*LINE, "penalty=l2", "loss.weight=0")) == {}
    flat = Term("flat", type("Flat", (Penalty,), {"__call__": lambda self, forward: torch.ones(5)})())
    assert ratios(composed(*LINE), terms=[flat]) == {"train/gradient_ratio/flat": 0}


def test_the_ratio_touches_nothing_and_is_the_same_again(composed: Callable[..., Run]) -> None:
    run = composed(*SMALL, "penalty=l2")
    components = build(run.config)
    components.terms.append(Term("noise", Noise()))
    before = {name: value.clone() for name, value in components.model.state_dict().items()}
    state = torch.get_rng_state()
    found = [gradient_ratios(components, run.config, 1) for _ in range(2)]
    assert found[0] == found[1]
    assert_same(torch.get_rng_state(), state)
    assert_same(dict(components.model.state_dict()), before)
    assert all(param.grad is None for param in components.model.parameters())


@pytest.mark.parametrize("options", [(*SMALL, "penalty=[l2,weight_gradient]"), (*SMALL[:2], "penalty=jacobian")])
def test_training_has_the_same_bits_with_and_without_ratios(
    composed: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    def trained(name: str) -> tuple[list[dict[str, float]], Any]:
        run = composed(*options, f"name={name}", "evaluate_every=1", "histograms=false", "pictures=false")
        train_run(run)
        state = checkpoint.load(run.path)
        assert state is not None
        return timeless(state["history"]), state["loop"]

    def without(rows: list[dict[str, float]]) -> list[dict[str, float]]:
        return [{tag: value for tag, value in row.items() if "gradient_ratio" not in tag} for row in rows]

    rows, state = trained("with")
    assert all(any("gradient_ratio" in tag for tag in row) for row in rows)
    monkeypatch.setattr("runner.run.gradient_ratios", lambda *arguments: {})
    bare, bare_state = trained("without")
    assert_same(without(rows), bare)
    assert_same(state, bare_state)
    if "model.dropout=0.5" in options:  # the comparison would see a draw
        monkeypatch.setattr("runner.run.gradient_ratios", lambda *arguments: {"gradient_ratio": torch.rand(()).item()})
        assert without(trained("drawing")[0]) != bare


# ---- probes, and the best epoch


class Careless:
    """A user's probe, which notes the mode of the model and leaves it in another one."""

    def __init__(self) -> None:
        self.modes: list[bool] = []

    def __call__(self, subject: Any) -> dict[str, float]:
        self.modes.append(subject.model.training)
        subject.model.train()
        return {"number": 1.0}


def test_each_probe_finds_the_model_in_evaluation_mode(composed: Callable[..., Run]) -> None:
    components, probe = build(composed(*LINE).config), Careless()
    components.probes.update(one=probe, other=probe)
    assert probed(components, seed=0) == ({"probe/one/number": 1.0, "probe/other/number": 1.0}, {})
    assert probe.modes == [False, False]


@pytest.mark.parametrize("lost", [math.nan, math.inf, -math.inf])
def test_an_epoch_without_a_finite_number_is_the_best_of_none_else(lost: float) -> None:
    rows = [{"epoch": epoch, "test/loss": 0.0, "train/loss": loss} for epoch, loss in enumerate((lost, 3, 1, 1, lost))]
    assert best_of(rows, "train/loss")["epoch"] == 2
    assert best_of(rows[:1], "train/loss")["epoch"] == 0


def test_of_the_best_epoch_losses_and_errors_are_told() -> None:
    """The rest of its row is about training, or stands in the result already."""
    facts = {"epoch": 4, "validation/error": 0.1, "test/loss": 0.2}
    others = {"train/loss_right": 0.3, "probe/zeros/all": 0.4, "train/penalty/l2": 0.5, "optimizer/lr": 0.6}
    assert best_of([{**facts, **others}, {"epoch": 5}], "validation/error") == facts


# ---- no better than a guess


def classified(labels: list[int], composed: Callable[..., Run]) -> Components:
    train, test = (Split(torch.randn(len(each), 3), torch.tensor(each)) for each in (labels, [0, 1, 2]))
    dataset = prepare(Raw(train, test, classes=3), validation_size=0)
    return replace(build(composed(*LINE, "penalty=l2").config), dataset=dataset)


@pytest.mark.parametrize(
    ("labels", "error", "is_told"),
    [([0] * 9 + [1], 0.1, True), ([0] * 9 + [1], 0.09, False), ([0, 1, 2, 2], 0.49, True), ([0, 1, 2, 2], 0.4, False)],
)
def test_the_error_of_a_guess_depends_on_the_classes(
    composed: Callable[..., Run], labels: list[int], error: float, is_told: bool
) -> None:
    run = composed(*LINE, "penalty=l2")
    assert bool(warning_of_chance(classified(labels, composed), run.config, {"train/error": error})) == is_told
    assert warning_of_chance(classified(labels, composed), run.config, {"train/loss": 9.0}) is None


def test_a_run_that_has_learned_nothing_says_so(composed: Callable[..., Run], capsys: pytest.CaptureFixture) -> None:
    line = ["epochs=1", "data.train_size=200", "penalty=l2", "histograms=false", "pictures=false"]
    run = composed(*line, "optimizer.lr=1e-9")
    result = train_run(run)
    assert result["status"] == "done"
    sentence = result["warning"]
    assert "about that of guessing the most frequent class" in sentence
    assert "optimizer.lr=1e-09 is too large or too small, or penalty.l2.weight=0.001 is too large" in sentence
    assert f"warning: {sentence}" in run.log.read_text()
    assert f"warning: {sentence}" in capsys.readouterr().out
    assert "warning" not in train_run(composed(*line, "epochs=3", "batch_size=10"))
