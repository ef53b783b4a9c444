"""Initialisations: the distribution of the weights, biases, gains, and what is left alone."""

import math
import re
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
IMAGES = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(1))
ALL.append(models.LSUV().fit(IMAGES))
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
        (models.KaimingNormal(mode="fan_out"), math.sqrt(2 / FAN_OUT)),
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
        (models.KaimingUniform(mode="fan_out"), math.sqrt(6 / FAN_OUT)),
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


def test_a_bad_mode_is_refused():
    with pytest.raises(ValueError, match=r"^mode must be fan_in or fan_out, got fan$"):
        models.KaimingUniform(mode="fan")


# ---------------------------------------------------------------- by the data


def variances(model, inputs):
    """The variance of what each linear and convolutional layer gives, the model in evaluation mode."""
    found = {}

    def measuring(name):
        return lambda _, __, outputs: found.update({name: outputs.var(correction=0).item()})

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(measuring(name))
    model.eval()(inputs)
    return found


@pytest.mark.parametrize(
    "model",
    [
        models.MLP(input_shape=(1, 28, 28), outputs=10, widths=[100] * 10, activation="sigmoid", dropout=0.5),
        models.MLP(input_shape=(1, 28, 28), outputs=10, widths=[50] * 5, activation="relu"),
        models.Convnet(input_shape=(1, 28, 28), outputs=10, norm="batch", activation="tanh"),
        models.MNISTConvnet(input_shape=(1, 28, 28), outputs=10, dropout=0.2),
    ],
    ids=lambda model: type(model).__name__,
)
def test_lsuv_gives_every_layer_unit_variance_on_its_examples(model):
    draws = torch.get_rng_state()
    models.Orthogonal(gain=1.0)(model)
    orthonormal = {name: param.clone() for name, param in model.named_parameters()}
    statistics = {name: buffer.clone() for name, buffer in model.named_buffers()}
    torch.set_rng_state(draws)
    models.LSUV(examples=30).fit(IMAGES)(model)
    assert model.training
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in model.named_buffers())
    for name, param in model.named_parameters():  # the direction is the orthonormal one
        torch.testing.assert_close(param / (param.norm() or 1), orthonormal[name] / (orthonormal[name].norm() or 1))
    found = variances(model, IMAGES[:30])
    assert len(found) >= 4
    assert found == pytest.approx(dict.fromkeys(found, 1.0), rel=1e-3)
    assert variances(model, IMAGES) != pytest.approx(dict.fromkeys(found, 1.0), rel=1e-6)


def test_lsuv_leaves_a_layer_whose_outputs_do_not_vary():
    model = models.MLP(input_shape=(3,), outputs=2)
    models.LSUV().fit(torch.zeros(5, 3))(model)
    torch.testing.assert_close(model.fc1.weight.T @ model.fc1.weight, torch.eye(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.LSUV(examples=1), "examples must be at least 2, got 1"),
        (lambda: models.LSUV()(convnet()), "LSUV must see training inputs before it is called: LSUV().fit(inputs)"),
        (
            lambda: models.LSUV().fit(torch.rand(4, 3))(nn.Linear(2, 2)),
            "it does not take the training inputs: addmm",
        ),
    ],
)
def test_lsuv_refuses(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call()
