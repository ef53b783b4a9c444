"""Initialisations: the distribution of the weights, biases, gains, and what is left alone."""

import math
from typing import get_args

import pytest
import torch
from torch import nn

import models
from models.init import GAINS, gain_of
from models.layers import Activation

ALL = [
    models.Normal(),
    models.XavierNormal(),
    models.XavierUniform(),
    models.KaimingNormal(),
    models.KaimingUniform(),
    models.Orthogonal(),
]
FAN_IN, FAN_OUT = 32 * 25, 64 * 25  # of conv2 of the lecture's network


def convnet():
    torch.manual_seed(0)
    return models.MNISTConvnet(input_shape=(1, 28, 28), outputs=10)


def drawn(initialise):
    model = convnet()
    initialise(model)
    return model.conv2.weight.detach()


@pytest.mark.parametrize(
    ("initialise", "std"),
    [
        (models.Normal(std=0.3), 0.3),
        (models.XavierNormal(), math.sqrt(2 / (FAN_IN + FAN_OUT))),
        (models.XavierNormal(gain=3.0), 3 * math.sqrt(2 / (FAN_IN + FAN_OUT))),
        (models.XavierNormal(gain=None), math.sqrt(2) * math.sqrt(2 / (FAN_IN + FAN_OUT))),
        (models.KaimingNormal(), math.sqrt(2 / FAN_IN)),
        (models.KaimingNormal(gain=1.0), math.sqrt(1 / FAN_IN)),
    ],
)
def test_normal_weights_have_their_standard_deviation(initialise, std):
    weight = drawn(initialise)  # 51,200 numbers: the relative error of their std is 1/sqrt(2n) = .3 %
    assert weight.std().item() == pytest.approx(std, rel=0.015)
    assert weight.mean().item() == pytest.approx(0, abs=4 * std / math.sqrt(weight.numel()))
    assert weight.abs().max() > 3 * std  # no uniform distribution reaches beyond 1.73


@pytest.mark.parametrize(
    ("initialise", "bound"),
    [
        (models.XavierUniform(), math.sqrt(6 / (FAN_IN + FAN_OUT))),
        (models.KaimingUniform(), math.sqrt(6 / FAN_IN)),
        (models.KaimingUniform(gain=1.0), math.sqrt(3 / FAN_IN)),
        (models.TorchDefault(), 1 / math.sqrt(FAN_IN)),
    ],
)
def test_uniform_weights_fill_their_interval(initialise, bound):
    weight = drawn(initialise)
    assert bound * 0.999 < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.015)


def test_orthogonal_weights_are_orthogonal_matrices():
    model = convnet()
    models.Orthogonal(gain=3.0)(model)
    rows = model.conv2.weight.reshape(64, -1)
    torch.testing.assert_close(rows @ rows.T, 9 * torch.eye(64), atol=1e-4, rtol=0)


@pytest.mark.parametrize("initialise", ALL, ids=repr)
def test_biases_are_zero_and_every_weight_is_new(initialise):
    model, before = convnet(), convnet()
    initialise(model)
    for name in ("conv1", "conv2", "fc1", "fc2"):
        assert not getattr(model, name).bias.any()
        assert (getattr(model, name).weight != getattr(before, name).weight).all()


def test_torch_default_changes_nothing_and_draws_nothing():
    model, before = convnet(), convnet()
    state = torch.get_rng_state()
    models.TorchDefault()(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("initialise", ALL, ids=repr)
def test_batch_norm_is_untouched_and_missing_biases_are_fine(initialise):
    model = models.LargeMarginConvnet(input_shape=(1, 28, 28), outputs=10)
    model.norm1.weight.data.fill_(2.0)
    model.norm1.bias.data.fill_(3.0)
    initialise(model)
    assert (model.norm1.weight == 2).all()
    assert (model.norm1.bias == 3).all()


@pytest.mark.parametrize("initialise", [models.TorchDefault(), *ALL], ids=lambda rule: type(rule).__name__)
def test_the_same_seed_gives_the_same_weights(initialise):
    first, second = drawn(initialise), drawn(initialise)
    assert torch.equal(first, second)


def test_gains_keep_the_mean_square_of_a_standard_normal():
    z = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    density /= density.sum()
    for activation, gain in GAINS.items():
        mean_square = (density * activation()(z).square()).sum().item()
        expected = nn.init.calculate_gain("tanh") if activation is nn.Tanh else mean_square**-0.5
        assert gain == pytest.approx(expected, abs=1e-4), activation


@pytest.mark.parametrize("activation", get_args(Activation))
def test_the_gain_follows_the_models_activation(activation):
    model = models.MLP(input_shape=(4,), outputs=1, activation=activation)
    assert gain_of(model) == GAINS[type(getattr(model, f"{activation}1"))]


def test_a_placeholder_is_no_activation():
    model = nn.Sequential(nn.Identity(), nn.Linear(2, 2), nn.ReLU(), nn.Tanh())
    assert gain_of(model) == GAINS[nn.ReLU]


@pytest.mark.parametrize("initialise", [models.KaimingNormal(), models.Orthogonal()], ids=repr)
def test_a_null_gain_needs_an_activation(initialise):
    with pytest.raises(ValueError, match=r"gain must be a number for a model without .*ReLU.*, got null"):
        initialise(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", [models.XavierNormal, models.XavierUniform, models.KaimingNormal])
@pytest.mark.parametrize("gain", [0.0, -1.0, math.nan, math.inf])
def test_bad_gains_are_refused(kind, gain):
    with pytest.raises(ValueError, match=f"^gain must be positive and finite, got {gain}$"):
        kind(gain=gain)


def test_a_bad_std_is_refused():
    with pytest.raises(ValueError, match=r"^std must be positive and finite, got 0$"):
        models.Normal(std=0)
