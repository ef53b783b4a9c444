"""Models: the sources' shapes, names, options, and what they refuse."""

import inspect
import math

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
SEQUENCE = (3, 50)
OPTIONS = [
    (models.Convnet, (2, 13, 40), {"norm": "none"}),
    (models.Convnet, (2, 13, 40), {"norm": "batch", "channels": [4], "kernel": 1, "pool": 3}),
    (models.Convnet, MNIST, {"norm": "group", "channels": [6, 16], "grid": 1}),
    (models.Convnet, SEQUENCE, {"norm": "batch"}),
    (models.Convnet, SEQUENCE, {"norm": "group", "pool": 1}),
]
SMOOTH = ["tanh", "sigmoid", "softplus", "gelu", "elu", "silu"]


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


@pytest.mark.parametrize("activation", ["relu", "identity", *SMOOTH])
def test_mlp_is_its_formula(activation):
    model = models.MLP(input_shape=(2, 3), outputs=4, widths=[5, 7], activation=activation).double()
    assert names(model) == ["flatten", "fc1", f"{activation}1", "fc2", f"{activation}2", "fc3"]
    inputs = torch.randn(6, 2, 3, dtype=torch.float64)
    act = {"identity": lambda x: x}.get(activation) or getattr(torch, activation, None) or getattr(F, activation)
    w = dict(model.named_parameters())
    hidden = act(inputs.reshape(6, 6) @ w["fc1.weight"].T + w["fc1.bias"])
    hidden = act(hidden @ w["fc2.weight"].T + w["fc2.bias"])
    torch.testing.assert_close(model(inputs), hidden @ w["fc3.weight"].T + w["fc3.bias"])


def test_an_mlp_without_hidden_layers_is_linear():
    model = models.MLP(input_shape=(3,), outputs=2, widths=[])
    assert shapes(model) == {"fc1.weight": (2, 3), "fc1.bias": (2,)}


def test_convnet_is_its_formula():
    torch.manual_seed(0)
    model = models.Convnet(input_shape=(2, 13, 9), outputs=4, channels=[5, 6], norm="batch", activation="tanh", grid=2)
    blocks = ["conv1", "norm1", "tanh1", "pool1", "conv2", "norm2", "tanh2", "pool2"]
    assert names(model) == [*blocks, "average", "flatten", "fc1"]
    model.double()
    x = inputs = torch.randn(3, 2, 13, 9, dtype=torch.float64)
    for i in (1, 2):
        x = F.conv2d(x, model.get_parameter(f"conv{i}.weight"), padding=1)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        x = F.max_pool2d(x.tanh(), 2)
    assert x.shape[2:] == (3, 2)
    cells = torch.stack([x[:, :, :2].mean(2), x[:, :, 1:].mean(2)], 2)  # 3 pixels in 2 cells, which share the middle
    torch.testing.assert_close(model(inputs), model.fc1(cells.flatten(1)))


def test_convnet_of_a_sequence_is_its_formula():
    model = models.Convnet(input_shape=SEQUENCE, outputs=4, channels=[16], kernel=5, norm="group", grid=5).double()
    inputs = torch.randn(2, *SEQUENCE, dtype=torch.float64)
    x = F.conv1d(inputs, model.conv1.weight, padding=2)
    groups = x.reshape(2, 8, 100)
    x = ((groups - groups.mean(2, True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()).reshape(2, 16, 50)
    x = x.relu().reshape(2, 16, 25, 2).amax(3).reshape(2, 16, 5, 5).mean(3)
    torch.testing.assert_close(model(inputs), model.fc1(x.flatten(1)))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 5), (3, 7, 200), (1, 64, 64), (4, 1), (9, 333)])
@pytest.mark.parametrize("grid", [1, 3])
def test_convnet_takes_any_size(shape, grid):
    model = models.Convnet(input_shape=shape, outputs=5, grid=grid, channels=[4, 8])
    assert model(torch.randn(2, *shape)).shape == (2, 5)
    assert model.fc1.in_features <= 8 * grid ** (len(shape) - 1)


@pytest.mark.parametrize("size", [(8, 12), (4, 4), (20, 4)])
def test_average_is_torchs_adaptive_one_where_cells_divide_the_size(size):
    model = models.Convnet(input_shape=(3, *size), outputs=5, pool=1, grid=4)
    inputs = torch.randn(2, 64, *size)
    torch.testing.assert_close(model.average(inputs), nn.AdaptiveAvgPool2d(4)(inputs))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "googlenet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_classifier(name, channels):
    shape = (channels, 64, 48)
    torch.manual_seed(0)
    model = models.torchvision_classifier(input_shape=shape, outputs=7, name=name)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    assert first.in_channels == channels
    assert model.piecewise_linear
    outputs = model.train()(torch.randn(2, *shape))
    assert outputs.shape == (2, 7)
    outputs.square().sum().backward()
    assert first.weight.grad is not None


def test_torchvision_classifier_is_torchvisions():
    import torchvision

    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7)
    torch.manual_seed(0)
    ours = models.torchvision_classifier(input_shape=(3, 64, 64), outputs=7, name="resnet18")
    inputs = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.eval()(inputs), theirs.eval()(inputs))
    assert names(ours) == names(theirs)
    grey = models.torchvision_classifier(input_shape=(1, 64, 64), outputs=7, name="resnet18").conv1
    assert (grey.kernel_size, grey.stride, grey.padding, grey.bias) == ((7, 7), (2, 2), (3, 3), None)


@pytest.mark.parametrize(("name", "smooth"), [("efficientnet_b0", True), ("shufflenet_v2_x0_5", False)])
def test_a_classifier_of_torchvision_is_piecewise_linear_if_its_layers_are(name, smooth):
    model = models.torchvision_classifier(input_shape=(3, 32, 32), outputs=7, name=name)
    assert model.piecewise_linear is not smooth


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", r"name must be a convolutional classifier of torchvision, as resnet18, .*, got resnet81$"),
        ("vit_b_16", r"name must be a convolutional classifier of torchvision, as alexnet, .*vgg.*, got vit_b_16$"),
    ],
)
def test_another_name_is_answered_by_near_ones(name, message):
    with pytest.raises(ValueError, match=message):
        models.torchvision_classifier(input_shape=CIFAR, outputs=7, name=name)


def test_an_own_network_is_used_as_it_is():
    network = nn.Linear(3, 2)
    assert models.own_network(network, input_shape=(3,), outputs=2) is network
    with pytest.raises(ValueError, match=r"^network must be \{_target_: package.Class, and its arguments\}, got None$"):
        models.own_network(None, input_shape=(3,), outputs=2)


WITH_DROPOUT = [*CONVNETS, *OPTIONS, (models.MLP, CIFAR, {})]


@pytest.mark.parametrize(("model", "shape", "options"), WITH_DROPOUT)
def test_dropout_of_0_is_none_and_another_acts_in_training_alone(model, shape, options):
    assert inspect.signature(model).parameters["dropout"].default == 0
    torch.manual_seed(0)
    dropped = model(input_shape=shape, outputs=5, dropout=0.5, **options)
    plain = model(input_shape=shape, outputs=5, dropout=0.0, **options)
    assert [name for name in names(dropped) if not name.startswith("dropout")] == names(plain)
    assert shapes(dropped) == shapes(plain)
    plain.load_state_dict(dropped.state_dict())
    inputs = torch.randn(2, *shape)
    torch.testing.assert_close(dropped.eval()(inputs), plain.eval()(inputs), rtol=0, atol=0)
    dropped.train()
    assert not torch.equal(dropped(inputs), dropped(inputs))
    assert dropped.piecewise_linear == plain.piecewise_linear


def test_dropout_stands_behind_each_hidden_layer_and_before_the_last():
    mlp = models.MLP(input_shape=(3,), outputs=2, dropout=0.1)
    assert names(mlp) == ["flatten", "fc1", "relu1", "dropout1", "fc2", "relu2", "dropout2", "fc3"]
    assert mlp.dropout2.p == 0.1
    assert names(models.MNISTConvnet(input_shape=MNIST, outputs=2, dropout=0.1))[-3:] == ["relu3", "dropout", "fc2"]
    reference = names(models.LargeMarginConvnet(input_shape=MNIST, outputs=2, dropout=0.1))
    assert reference[2:5] == ["pool1", "dropout1", "norm1"]


@pytest.mark.parametrize(("model", "shape", "options"), [*CONVNETS, *OPTIONS, (models.MLP, CIFAR, {})])
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


@pytest.mark.parametrize(("model", "shape", "options"), [*CONVNETS, *OPTIONS[:3]])
def test_channels_last_changes_nothing_but_the_layout(model, shape, options):
    torch.manual_seed(0)
    model = model(input_shape=shape, outputs=10, **options).double()
    inputs = torch.randn(4, *shape, dtype=torch.float64)
    expected = model(inputs)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(inputs.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize(
    ("model", "shape", "options"), [c for c in CONVNETS if not c[2].get("batch_norm")] + OPTIONS[:1]
)
def test_one_example_without_a_batch_dimension(model, shape, options):
    model = model(input_shape=shape, outputs=10, **options).double()
    inputs = torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(model(inputs[0]), model(inputs)[0])


@pytest.mark.parametrize(("model", "shape", "options"), [*CONVNETS, *OPTIONS, (models.MLP, MNIST, {})])
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
        (models.Convnet, CIFAR, {}, 0.5, {"conv1": 8, "conv2": 16, "conv3": 32, "fc1": 10}),
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
    assert not models.Convnet(input_shape=MNIST, outputs=1, activation=activation).piecewise_linear


@pytest.mark.parametrize(("model", "shape"), [(models.MLP, (6,)), (models.Convnet, (2, 8, 8))])
def test_with_identity_a_network_keeps_its_layers_and_is_linear_between_the_poolings(model, shape):
    options = {"pool": 1} if model is models.Convnet else {}
    network = model(input_shape=shape, outputs=3, activation="identity", **options).double()
    assert network.piecewise_linear
    assert "identity1" in names(network)
    x, y = torch.randn(2, 1, *shape, dtype=torch.float64)
    torch.testing.assert_close(network(x + y) + network(torch.zeros_like(x)), network(x) + network(y))


def test_a_convnet_is_piecewise_linear_unless_its_groups_are_normalised():
    for norm in ("none", "batch", "group"):
        model = models.Convnet(input_shape=MNIST, outputs=1, norm=norm, dropout=0.1)
        assert model.piecewise_linear == (norm != "group")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            models.MNISTConvnet,
            {"input_shape": CIFAR},
            "MNISTConvnet takes 1x28x28 inputs, got 3x32x32: choose model=cifar10_convnet, model=convnet or model=mlp",
        ),
        (
            models.CIFAR10Convnet,
            {"input_shape": MNIST},
            "CIFAR10Convnet takes 3x32x32 inputs, got 1x28x28: choose model=mnist_convnet, model=convnet or model=mlp",
        ),
        (
            models.LargeMarginConvnet,
            {"input_shape": (1,)},
            "LargeMarginConvnet takes 1x28x28 inputs, got 1: choose model=mlp",
        ),
        (
            models.CIFAR10Convnet,
            {"input_shape": (2, 64)},
            "CIFAR10Convnet takes 3x32x32 inputs, got 2x64: choose model=convnet or model=mlp",
        ),
        (
            models.Convnet,
            {"input_shape": (7,)},
            "Convnet takes images CxHxW or sequences CxL, got 7 inputs: choose model=mlp",
        ),
        (
            models.torchvision_classifier,
            {"input_shape": (7, 3), "name": "resnet18"},
            "torchvision takes images CxHxW, got 7x3 inputs: choose model=mlp",
        ),
        (models.Convnet, {"channels": []}, "channels must be a list of numbers of at least 1, got []"),
        (models.Convnet, {"channels": [4, 0]}, "channels must be a list of numbers of at least 1, got [4, 0]"),
        (models.Convnet, {"kernel": 4}, "kernel must be odd and at least 1, got 4"),
        (models.Convnet, {"kernel": -1}, "kernel must be odd and at least 1, got -1"),
        (models.Convnet, {"pool": 0}, "pool must be at least 1, got 0"),
        (models.Convnet, {"grid": 0}, "grid must be at least 1, got 0"),
        (models.Convnet, {"norm": "layer"}, "norm must be none, batch or group, got layer"),
        (models.Convnet, {"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        (models.MLP, {"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
        (models.MNISTConvnet, {"dropout": math.nan}, "dropout must be at least 0 and below 1, got nan"),
        (models.CIFAR10Convnet, {"shape": "x"}, "shape must be question or lecture, got x"),
        (models.MNISTConvnet, {"outputs": 0}, "outputs must be at least 1, got 0"),
        (models.MNISTConvnet, {"width": 0.0}, "width must be positive and finite, got 0.0"),
        (models.MLP, {"width": float("nan")}, "width must be positive and finite, got nan"),
        (models.MLP, {"input_shape": ()}, "MLP takes inputs of at least one dimension and element, got ()"),
        (models.MLP, {"widths": [10, 0]}, "widths must each be at least 1, got [10, 0]"),
        (
            models.MLP,
            {"activation": "rleu"},
            "activation must be one of relu, tanh, sigmoid, softplus, gelu, elu, silu, identity, got rleu",
        ),
    ],
)
def test_bad_arguments_get_one_sentence(model, options, message):
    shape = CIFAR if model is models.CIFAR10Convnet else MNIST
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole message is compared)
        model(**{"input_shape": shape, "outputs": 10} | options)
    assert str(error.value) == message
