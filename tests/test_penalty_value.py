"""probe=penalty_value: the value of any penalty on whole splits, without training on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from data import Dataset, Split
from losses import L2, CrossEntropy, InputGradient, Jacobian, WeightGradient
from runner.config.check import ConfigError, problems_of_config
from runner.evaluation import PenaltyValue, Subject
from runner.training.build import build

COUNTS = {"train": 1100, "test": 3}  # three batches, the last a small one


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed))


@pytest.fixture
def subject() -> Subject:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).eval()
    inputs = [draw(n, 4) * torch.linspace(0.1, 3, n)[:, None] for n in COUNTS.values()]  # no batch stands for the rest
    train, test = (Split(each, torch.arange(len(each)) % 3) for each in inputs)
    dataset = Dataset(train, None, test, 3, torch.tensor(0.0), torch.tensor(1.0))
    return Subject(model, CrossEntropy(), dataset, Generator().manual_seed(0))


def squared_jacobian(model: nn.Module, inputs: Tensor) -> float:
    return torch.func.vmap(torch.func.jacrev(model))(inputs).square().sum((1, 2)).mean().item()


def test_exact_jacobian_on_both_splits(subject: Subject) -> None:
    found = PenaltyValue(Jacobian(projections=None))(subject)
    expected = {name: squared_jacobian(subject.model, getattr(subject.dataset, name).inputs) for name in COUNTS}
    assert found == pytest.approx(expected, rel=1e-5)
    first = PenaltyValue(Jacobian(projections=None), examples=2)(subject)
    assert first["train"] == pytest.approx(squared_jacobian(subject.model, subject.dataset.train.inputs[:2]), rel=1e-5)
    assert all(param.grad is None for param in subject.model.parameters())


def test_random_directions_come_from_the_probes_generator(subject: Subject) -> None:
    probe, state = PenaltyValue(Jacobian()), torch.get_rng_state()
    first = probe(subject)
    subject.generator.manual_seed(0)
    assert probe(subject) == first
    assert probe(subject) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_penalty_on_the_weights_or_on_a_batch_is_one_number(subject: Subject) -> None:
    squares = sum(param.square().sum().item() for param in subject.model.parameters())
    assert PenaltyValue(L2())(subject) == pytest.approx({"train": squares, "test": squares}, rel=1e-5)
    test, params = subject.dataset.test, list(subject.model.parameters())
    loss = CrossEntropy()(subject.model(test.inputs), test.targets).mean()
    gradients = torch.autograd.grad(loss, params)
    expected = sum(gradient.square().sum().item() for gradient in gradients)
    assert PenaltyValue(WeightGradient())(subject)["test"] == pytest.approx(expected, rel=1e-5)


SMALL = ("epochs=1", "data.train_size=60", "batch_size=20", "data.validation_size=20", "probe=penalty_value")
MLP = (*SMALL, "model=mlp", "model.widths=[8]")


def test_a_run_without_the_penalty_is_measured_and_trains_as_if_it_were_not(train: Callable[..., Any]) -> None:
    plain = train(*MLP, "probe=[]")
    option = "probe.penalty_value.penalty={_target_: losses.ActivationGradient, layers: [relu1]}"
    measured = train(*MLP, option)
    assert measured["train/objective"] == plain["train/objective"]
    assert measured["test/loss"] == plain["test/loss"]
    values = [measured[f"probe/penalty_value/{split}"] for split in ("train", "test")]
    assert min(values) > 0
    assert values[0] != values[1]
    assert "train/penalty/penalty_value" not in measured


@pytest.mark.parametrize(
    ("penalty", "sentence"),
    [
        ("{_target_: losses.Jacobian, weight: 1}", "probe.penalty_value.penalty.weight is not an option of"),
        ("{_target_: losses.Jacobian, projections: 0}", "projections must be positive or null, got 0"),
        ("{_target_: losses.ActivationGradient, layers: [relu9]}", "probe.penalty_value.penalty: layers must be among"),
        ("{_target_: data.Tangents}", "probe.penalty_value: penalty must name a class of penalties"),
        ("{projections: 1}", "probe.penalty_value: penalty must name a class of penalties by _target_, got"),
        ("null", "probe.penalty_value: penalty must name a class of penalties by _target_, got None"),
    ],
)
def test_what_does_not_fit_is_told_before_training(composed: Callable[..., Any], penalty: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build(composed(*MLP, f"probe.penalty_value.penalty={penalty}").config)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("penalty", "os.system"),
        ("penalty", "runner.evaluation.Noise"),
        ("examples", "losses.Jacobian"),
        ("", "losses.Jacobian"),
    ],
)
def test_a_penalty_stands_in_its_place_alone(composed: Callable[..., Any], path: str, target: str) -> None:
    config = composed(*MLP, "probe.penalty_value.penalty={_target_: losses.Jacobian}").config
    node = config["probe"]["penalty_value"]
    if path:
        node[path] = {"_target_": target}
    else:
        node["_target_"] = target
    found = [sentence for sentence in problems_of_config(config) if "must be one of the classes" in sentence]
    assert len(found) == 1
    assert f"got '{target}'" in found[0]


def test_it_must_be_given(composed: Callable[..., Any]) -> None:
    with pytest.raises(AssertionError, match=r"probe\.penalty_value\.penalty must be given"):
        composed(*MLP)


def test_it_measures_in_evaluation_mode_with_batch_norm(composed: Callable[..., Any]) -> None:
    """Where the same penalty could not be trained on, since batch norm mixes the examples in training."""
    lines = (*SMALL, "model=convnet", "model.channels=[3]", "model.norm=batch")
    config = composed(*lines, "probe.penalty_value.penalty={_target_: losses.InputGradient}").config
    assert isinstance(build(config).probes["penalty_value"].penalty, InputGradient)  # type: ignore[attr-defined]
