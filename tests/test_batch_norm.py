"""Frozen batch norm: the statistics of all training examples, exactly, whatever the batches and the layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import models

COUNT = 501  # one more than a batch of the passes


class Residual(nn.Module):
    """Two batch norms in a row, one of them without running statistics, beside a third."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.BatchNorm2d(3)  # defined first, used last
        self.conv, self.side = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3)
        self.early, self.beside = nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3, eps=0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.early(self.conv(inputs))) + self.beside(self.side(inputs))
        return self.late(hidden).flatten(1)


def of_features() -> nn.Module:
    layers = [nn.Flatten(), nn.Linear(784, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 4), nn.BatchNorm1d(4)]
    return nn.Sequential(*layers)


def of_a_sequence() -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(1), nn.Conv1d(1, 3, 9), nn.ReLU(), nn.BatchNorm1d(3))


MODELS: list[Callable[[], nn.Module]] = [
    lambda: models.LargeMarginConvnet(input_shape=(1, 28, 28), outputs=10, width=0.1),
    of_features,
    of_a_sequence,
    Residual,
]


def draw(count: int = COUNT) -> Tensor:
    """Inputs whose spread grows, so that no batch stands for the rest."""
    noise = torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise * torch.linspace(0.1, 9, count).reshape(-1, 1, 1, 1) + 3


@pytest.mark.parametrize("make", MODELS)
def test_the_frozen_model_is_the_model_in_training_with_all_examples_in_one_batch(make: Callable) -> None:
    torch.manual_seed(0)
    model, inputs = make().double(), draw()
    expected = model.train()(inputs).detach()
    models.freeze_batch_norm(model, inputs)
    torch.testing.assert_close(model(inputs), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.train()(inputs[:3]), expected[:3], rtol=1e-9, atol=1e-9)  # each by itself


def test_statistics_are_mean_and_biased_variance() -> None:
    model, inputs = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784)), draw()
    models.freeze_batch_norm(model.double(), inputs)
    torch.testing.assert_close(model[1].running_mean, inputs.flatten(1).mean(0))
    torch.testing.assert_close(model[1].running_var, inputs.flatten(1).var(0, correction=0))


def test_the_layout_changes_nothing() -> None:
    torch.manual_seed(0)
    one = models.LargeMarginConvnet(input_shape=(1, 28, 28), outputs=10)
    other = models.LargeMarginConvnet(input_shape=(1, 28, 28), outputs=10)
    other.load_state_dict(one.state_dict())
    inputs = draw().float()
    models.freeze_batch_norm(one, inputs)
    layout = torch.channels_last
    models.freeze_batch_norm(other.to(memory_format=layout), inputs.contiguous(memory_format=layout))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-6, atol=1e-6)


def test_dropout_is_off_and_on_again() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(784))
    inputs = draw().float()
    models.freeze_batch_norm(model, inputs)
    torch.testing.assert_close(model[2].running_mean, inputs.flatten(1).mean(0))
    assert model[1].training
    assert not model[2].training


def test_a_batch_norm_used_twice_is_refused() -> None:
    norm = nn.BatchNorm1d(784)
    model = nn.Sequential(nn.Flatten(), norm, nn.ReLU(), norm)
    with pytest.raises(ValueError, match=r"^batch_norm must be batch for a model that uses 1 more than once, got fro"):
        models.freeze_batch_norm(model, draw().float())


def test_one_that_no_pass_meets_is_left_as_it_is() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    model = Idle()
    models.freeze_batch_norm(model, draw(4).float())
    assert model.norm.running_mean.eq(0).all()


def test_a_run_freezes_the_statistics_of_its_training_split(composed: Callable) -> None:
    from runner.training.build import build

    options = ("model=large_margin_convnet", "data.train_size=501", "batch_norm=frozen", "penalty=jacobian")
    components = build(composed(*options).config)
    inputs = components.dataset.train.inputs
    assert len(inputs) == 501
    given: list[Tensor] = []
    components.model.norm2.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0]))
    components.model(inputs)
    mean = given[0].double().mean((0, 2, 3)).float()
    torch.testing.assert_close(components.model.norm2.running_mean, mean, rtol=1e-5, atol=1e-6)
