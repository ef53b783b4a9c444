"""Models: the sources' shapes, names, options, and what they refuse."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
CONVNETS = [
    (models.MNISTConvnet, MNIST, {}),
    (models.CIFAR10Convnet, CIFAR, {"shape": "question"}),
    (models.CIFAR10Convnet, CIFAR, {"shape": "lecture"}),
    (models.LargeMarginConvnet, MNIST, {"batch_norm": True}),
    (models.LargeMarginConvnet, MNIST, {"batch_norm": False}),
]
SMOOTH = ["tanh", "softplus", "gelu", "elu", "silu"]


def names(model):
    return [name for name, _ in model.named_children()]


def shapes(model):
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def test_mnist_convnet_is_the_lectures():
    torch.manual_seed(0)
    model = models.MNISTConvnet(input_shape=MNIST, outputs=10).double()
    weight = dict(model.named_parameters())
    assert {name: s for name, s in shapes(model).items() if name.endswith("weight")} == {
        "conv1.weight": (32, 1, 5, 5),
        "conv2.weight": (64, 32, 5, 5),
        "fc1.weight": (200, 256),
        "fc2.weight": (10, 200),
    }
    inputs = torch.randn(3, *MNIST, dtype=torch.float64)
    x = F.relu(F.max_pool2d(F.conv2d(inputs, weight["conv1.weight"], weight["conv1.bias"]), 3))
    x = F.relu(F.max_pool2d(F.conv2d(x, weight["conv2.weight"], weight["conv2.bias"]), 2))
    x = F.relu(F.linear(x.reshape(3, 256), weight["fc1.weight"], weight["fc1.bias"]))
    torch.testing.assert_close(model(inputs), F.linear(x, weight["fc2.weight"], weight["fc2.bias"]))


def test_cifar10_convnet_has_both_published_shapes():
    question, features = models.CIFAR10Convnet(input_shape=CIFAR, outputs=10), []
    assert names(question) == ["conv1", "pool1", "relu1", "conv2", "pool2", "relu2", "flatten", "fc1"]
    assert shapes(question)["fc1.weight"] == (10, 1600)
    question.flatten.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].shape))
    question(torch.zeros(1, *CIFAR))
    assert features == [(1, 64, 5, 5)]
    lecture = models.CIFAR10Convnet(input_shape=CIFAR, outputs=10, shape="lecture")
    mnist = models.MNISTConvnet(input_shape=MNIST, outputs=10)
    assert names(lecture) == names(mnist)
    assert shapes(lecture) == shapes(mnist) | {"conv1.weight": (32, 3, 5, 5)}


def test_large_margin_convnet_is_the_references():
    model = models.LargeMarginConvnet(input_shape=MNIST, outputs=10)
    blocks = ["conv1", "relu1", "pool1", "norm1", "conv2", "relu2", "pool2", "norm2"]
    assert names(model) == [*blocks, "flatten", "fc1", "relu3", "fc2"]
    assert shapes(model)["fc1.weight"] == (512, 64 * 7 * 7)
    assert model.conv1.bias is None
    plain = models.LargeMarginConvnet(input_shape=MNIST, outputs=10, batch_norm=False)
    assert names(plain) == [name for name in names(model) if not name.startswith("norm")]
    assert plain.conv1.bias is not None


@pytest.mark.parametrize("activation", ["relu", *SMOOTH])
def test_mlp_is_its_formula(activation):
    model = models.MLP(input_shape=(2, 3), outputs=4, widths=[5, 7], activation=activation).double()
    assert names(model) == ["flatten", "fc1", f"{activation}1", "fc2", f"{activation}2", "fc3"]
    inputs = torch.randn(6, 2, 3, dtype=torch.float64)
    act = getattr(torch, activation, None) or getattr(F, activation)
    w = dict(model.named_parameters())
    hidden = act(inputs.reshape(6, 6) @ w["fc1.weight"].T + w["fc1.bias"])
    hidden = act(hidden @ w["fc2.weight"].T + w["fc2.bias"])
    torch.testing.assert_close(model(inputs), hidden @ w["fc3.weight"].T + w["fc3.bias"])


def test_an_mlp_without_hidden_layers_is_linear():
    model = models.MLP(input_shape=(3,), outputs=2, widths=[])
    assert shapes(model) == {"fc1.weight": (2, 3), "fc1.bias": (2,)}


@pytest.mark.parametrize(("model", "shape", "options"), [*CONVNETS, (models.MLP, CIFAR, {})])
def test_every_model_trains_names_its_layers_and_keeps_activations(model, shape, options):
    model = model(input_shape=shape, outputs=7, **options)
    recorded = {}
    for name, layer in model.named_children():
        assert getattr(model, name) is layer
        layer.register_forward_hook(
            lambda _, __, output, name=name: recorded.update({name: (output, output.detach().clone())})
        )
    outputs = model(torch.randn(2, *shape))
    assert outputs.shape == (2, 7)
    for output, then in recorded.values():
        torch.testing.assert_close(output, then, rtol=0, atol=0)
    outputs.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("model", "shape", "options"), CONVNETS)
def test_channels_last_changes_nothing_but_the_layout(model, shape, options):
    torch.manual_seed(0)
    model = model(input_shape=shape, outputs=10, **options).double()
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    expected = model(inputs)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(inputs.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize(("model", "shape", "options"), [c for c in CONVNETS if not c[2].get("batch_norm")])
def test_one_example_without_a_batch_dimension(model, shape, options):
    model = model(input_shape=shape, outputs=10, **options).double()
    inputs = torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(model(inputs[0]), model(inputs)[0])


@pytest.mark.parametrize(("model", "shape", "options"), [*CONVNETS, (models.MLP, MNIST, {})])
def test_log_softmax_gives_log_probabilities(model, shape, options):
    torch.manual_seed(0)
    logits = model(input_shape=shape, outputs=10, **options)
    torch.manual_seed(0)
    model = model(input_shape=shape, outputs=10, log_softmax=True, **options)
    inputs = torch.randn(3, *shape)
    assert names(model) == [*names(logits), "log_softmax"]
    assert model.log_probabilities
    assert not logits.log_probabilities
    torch.testing.assert_close(model(inputs).exp(), logits(inputs).softmax(1))


@pytest.mark.parametrize(
    ("model", "shape", "options", "width", "sizes"),
    [
        (models.MNISTConvnet, MNIST, {}, 0.5, {"conv1": 16, "conv2": 32, "fc1": 100, "fc2": 10}),
        (models.CIFAR10Convnet, CIFAR, {}, 2, {"conv1": 64, "conv2": 128, "fc1": 10}),
        (models.LargeMarginConvnet, MNIST, {}, 0.25, {"conv1": 8, "conv2": 16, "fc1": 128, "fc2": 10}),
        (models.MLP, MNIST, {"widths": [9, 20]}, 0.1, {"fc1": 1, "fc2": 2, "fc3": 10}),
    ],
)
def test_width_multiplies_the_hidden_sizes(model, shape, options, width, sizes):
    model = model(input_shape=shape, outputs=10, width=width, **options)
    kinds = (nn.Conv2d, nn.Linear)
    assert {n: len(m.weight) for n, m in model.named_children() if isinstance(m, kinds)} == sizes
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(("model", "shape", "options"), [*CONVNETS, (models.MLP, MNIST, {})])
def test_relu_networks_are_piecewise_linear(model, shape, options):
    assert model(input_shape=shape, outputs=10, **options).piecewise_linear
    assert not model(input_shape=shape, outputs=10, log_softmax=True, **options).piecewise_linear


@pytest.mark.parametrize("activation", SMOOTH)
def test_smooth_networks_are_not(activation):
    assert not models.MLP(input_shape=(1,), outputs=1, activation=activation).piecewise_linear


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            models.MNISTConvnet,
            {"input_shape": CIFAR},
            "MNISTConvnet takes 1x28x28 inputs, got 3x32x32: choose model=cifar10_convnet or model=mlp",
        ),
        (
            models.CIFAR10Convnet,
            {"input_shape": MNIST},
            "CIFAR10Convnet takes 3x32x32 inputs, got 1x28x28: choose model=mnist_convnet or model=mlp",
        ),
        (
            models.LargeMarginConvnet,
            {"input_shape": (1,)},
            "LargeMarginConvnet takes 1x28x28 inputs, got 1: choose model=mlp",
        ),
        (models.CIFAR10Convnet, {"shape": "x"}, "shape must be question or lecture, got x"),
        (models.MNISTConvnet, {"outputs": 0}, "outputs must be at least 1, got 0"),
        (models.MNISTConvnet, {"width": 0.0}, "width must be positive and finite, got 0.0"),
        (models.MLP, {"width": float("nan")}, "width must be positive and finite, got nan"),
        (models.MLP, {"input_shape": ()}, "MLP takes inputs of at least one dimension and element, got ()"),
        (models.MLP, {"widths": [10, 0]}, "widths must each be at least 1, got [10, 0]"),
        (
            models.MLP,
            {"activation": "rleu"},
            "activation must be one of relu, tanh, softplus, gelu, elu, silu, got rleu",
        ),
    ],
)
def test_bad_arguments_get_one_sentence(model, options, message):
    shape = CIFAR if model is models.CIFAR10Convnet else MNIST
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole message is compared)
        model(**{"input_shape": shape, "outputs": 10} | options)
    assert str(error.value) == message
