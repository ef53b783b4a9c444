"""Networks twice: as torch modules, and in JAX as pure functions of their weights, of one example.

In JAX a network is a function (w, x, at) -> outputs: the weights by torch's names, one input, and a `Trace`, which is
shown the layers by their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from jax import Array, lax
from torch import Tensor, nn

import losses
from data import Tangents
from models import MLP, Convnet, MNISTConvnet, freeze_batch_norm

SEED = 5  # of torch's own generator when a pass begins


class Trace(dict[str, Array]):
    """The activations of one example, by name; a tap is added where one is given, a mask multiplied."""

    def __init__(self, masks: dict[str, Array], taps: dict[str, Array]) -> None:
        super().__init__()
        self.masks, self.taps = masks, taps

    def __call__(self, name: str, values: Array) -> Array:
        self[name] = values + self.taps[name] if name in self.taps else values
        return self[name]

    def dropout(self, name: str, values: Array) -> Array:
        return values * self.masks[name]


Weights = dict[str, Array]
Network = Callable[[Weights, Array, Trace], Array]


# --- layers of one example, from their definitions ---

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: jnp.where(x > 0, x, 0.0),
    "tanh": jnp.tanh,
    "softplus": lambda x: jnp.log1p(jnp.exp(x)),
    "gelu": lambda x: x * (1 + lax.erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x / (1 + jnp.exp(-x)),
}


def linear(w: Weights, name: str, x: Array) -> Array:
    return w[f"{name}.weight"] @ x + w[f"{name}.bias"]


def conv(w: Weights, name: str, x: Array, padding: int = 0, stride: int = 1) -> Array:
    dimensions = x.ndim - 1
    pads = [(padding, padding)] * dimensions
    found = lax.conv_general_dilated(x[None], w[f"{name}.weight"], [stride] * dimensions, pads)[0]
    bias = w.get(f"{name}.bias", jnp.zeros(len(found)))
    return found + bias.reshape(-1, *[1] * dimensions)


def max_pool(x: Array, size: int) -> Array:
    kept = tuple(slice(0, length // size * size) for length in x.shape[1:])
    cells = x[(slice(None), *kept)].reshape(len(x), *(n for s in x.shape[1:] for n in (s // size, size)))
    return cells.max(axis=tuple(range(2, cells.ndim, 2)))


def average(x: Array, cells: Sequence[int]) -> Array:
    """Average cells of one size that cover the input; each number of cells divides its length."""
    sizes = [n for length, count in zip(x.shape[1:], cells, strict=True) for n in (count, length // count)]
    parts = x.reshape(len(x), *sizes)
    return parts.mean(axis=tuple(range(2, parts.ndim, 2)))


def affine(w: Weights, name: str, x: Array) -> Array:
    shape = (-1, *[1] * (x.ndim - 1))
    return x * w[f"{name}.weight"].reshape(shape) + w[f"{name}.bias"].reshape(shape)


def group_norm(w: Weights, name: str, x: Array, groups: int) -> Array:
    rows = x.reshape(groups, -1)
    centred = rows - rows.mean(1, keepdims=True)
    return affine(w, name, (centred / jnp.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)).reshape(x.shape))


# --- the networks in JAX ---


def mlp(w: Weights, x: Array, at: Trace, activation: str, hidden: int, dropout: bool = False) -> Array:
    x = x.ravel()
    for i in range(1, hidden + 1):
        x = at(f"{activation}{i}", ACTIVATIONS[activation](linear(w, f"fc{i}", x)))
        x = at.dropout(f"dropout{i}", x) if dropout else x
    return linear(w, f"fc{hidden + 1}", x)


def mnist_convnet(w: Weights, x: Array, at: Trace) -> Array:
    x = at("relu1", ACTIVATIONS["relu"](at("pool1", max_pool(conv(w, "conv1", x), 3))))
    x = at("relu2", ACTIVATIONS["relu"](at("pool2", max_pool(conv(w, "conv2", x), 2))))
    return linear(w, "fc2", at("relu3", ACTIVATIONS["relu"](linear(w, "fc1", x.ravel()))))


def sequence_convnet(w: Weights, x: Array, at: Trace) -> Array:
    """Convnet of 1-D convolutions, group norm and SiLU, for channels 6 and 8."""
    for i, groups in ((1, 2), (2, 8)):
        x = group_norm(w, f"norm{i}", conv(w, f"conv{i}", x, padding=1), groups)
        x = at(f"pool{i}", max_pool(at(f"silu{i}", ACTIVATIONS["silu"](x)), 2))
    return linear(w, "fc1", average(x, (4,)).ravel())


def normed_convnet(
    w: Weights, x: Array, at: Trace, statistics: dict[str, tuple[np.ndarray, np.ndarray]] | None = None
) -> Array:
    """Convnet of 2-D convolutions, batch norm with fixed statistics and GELU."""
    for i in (1, 2):
        x = at(f"into norm{i}", conv(w, f"conv{i}", x, padding=1))
        mean, variance = (statistics or {}).get(f"norm{i}", (np.zeros(len(x)), np.ones(len(x))))
        x = affine(w, f"norm{i}", (x - mean[:, None, None]) / jnp.sqrt(variance[:, None, None] + 1e-5))
        x = max_pool(at(f"gelu{i}", ACTIVATIONS["gelu"](x)), 2)
    return linear(w, "fc1", average(x, (5, 5)).ravel())


def statistics_of(w: Weights, inputs: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return mean and biased variance of what each batch norm is given, those before it being fixed already."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in ("norm1", "norm2"):
        run = partial(activations, partial(normed_convnet, statistics=found), w)
        values = np.stack([np.asarray(run(x, {})[f"into {name}"]) for x in inputs])
        found[name] = values.mean((0, 2, 3)), values.var((0, 2, 3))
    return found


def residual(w: Weights, x: Array, at: Trace) -> Array:
    x = at("stem", conv(w, "conv0", x, padding=1))
    inner = at("tanh1", jnp.tanh(conv(w, "conv1", x, padding=1)))
    x = at("relu2", ACTIVATIONS["relu"](x + conv(w, "conv2", inner, padding=1)))
    return linear(w, "fc", x.mean((1, 2)))


def in_place(w: Weights, x: Array, at: Trace) -> Array:
    x = at("relu1", ACTIVATIONS["relu"](at("conv1", conv(w, "conv1", x, stride=2))))
    x = at("conv2", conv(w, "conv2", x))
    x = at("silu2", ACTIVATIONS["silu"](x)) + 0.5 * x
    return linear(w, "fc", x.mean((1, 2)))


def shared(w: Weights, x: Array, at: Trace) -> Array:
    x = at("fc1", linear(w, "fc1", x))
    x = jnp.tanh(linear(w, "again", jnp.tanh(linear(w, "again", jnp.tanh(x)))))
    return linear(w, "fc2", at("last", x))


def activations(
    net: Network, w: Weights, x: Any, masks: dict[str, Array], taps: dict[str, Array] | None = None
) -> Trace:
    """Return the activations of one example, and its outputs."""
    trace = Trace(masks, taps or {})
    trace["outputs"] = net(w, x, trace)
    return trace


# --- the same in torch, where it is not one of ours ---


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.conv1, self.conv2 = (nn.Conv2d(i, 4, 3, padding=1) for i in (1, 4, 4))
        self.stem, self.tanh1, self.relu2, self.fc = nn.Identity(), nn.Tanh(), nn.ReLU(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.conv0(x))
        return self.fc(self.relu2(x + self.conv2(self.tanh1(self.conv1(x)))).mean((2, 3)))


class InPlace(nn.Module):
    """Convolutions whose activations and sums work in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 4, 4, stride=2), nn.Conv2d(4, 5, 3), nn.Linear(5, 4)
        self.relu1, self.silu2 = nn.ReLU(inplace=True), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.relu1(self.conv1(x)))
        half = x * 0.5
        x = self.silu2(x)
        x += half
        return self.fc(x.mean((2, 3)))


class Shared(nn.Module):
    """One module, called twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.again, self.fc2, self.tanh = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3), nn.Tanh()
        self.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.tanh(self.fc1(x))
        return self.fc2(self.last(self.tanh(self.again(self.tanh(self.again(x))))))


# --- cases ---


class Given:
    """Tangents (K, B, *I) and derivatives wanted (K, B, C) of one batch."""

    def __init__(self, tangents: Tensor, derivatives: Tensor | None = None) -> None:
        self.tangents, self.derivatives = tangents, derivatives

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.tangents

    def derivatives_at(self, inputs: Tensor) -> Tensor | None:
        return self.derivatives


@dataclass
class Case:
    """A network in torch and in JAX, and a batch. What is a layer of which may be asked for."""

    name: str
    model: nn.Module
    net: Network
    inputs: Tensor
    targets: Tensor
    criterion: losses.Criterion
    layers: tuple[str, ...]
    tangents: Any
    dropped: dict[str, tuple[int, float]] = field(default_factory=dict)  # dropout layer -> its size and probability

    @property
    def has_classes(self) -> bool:
        return not self.targets.is_floating_point()

    @property
    def weights(self) -> Weights:
        return {name: jnp.asarray(param.detach().numpy()) for name, param in self.model.named_parameters()}

    @property
    def masks(self) -> dict[str, Array]:
        """Return what dropout multiplies by, if torch's own generator is at SEED when the pass begins."""
        torch.manual_seed(SEED)
        ones = {name: torch.ones(len(self.inputs), size) for name, (size, _) in self.dropped.items()}
        drawn = {name: torch.dropout(values.double(), self.dropped[name][1], True) for name, values in ones.items()}
        return {name: jnp.asarray(mask.numpy()) for name, mask in drawn.items()}

    @property
    def batch(self) -> tuple[Array, Array, dict[str, Array]]:
        """Return inputs, targets, masks in JAX."""
        return jnp.asarray(self.inputs.numpy()), jnp.asarray(self.targets.numpy()), self.masks


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classification(
    name: str,
    model: nn.Module,
    net: Network,
    shape: tuple[int, ...],
    layers: tuple[str, ...],
    tangents: Any = None,
    **others: Any,
) -> Case:
    """Return a case of four examples, two of them with the class that the model gives them: margins of both signs."""
    inputs = normal(4, *shape)
    model.double()
    with torch.no_grad():  # norms start with biases of 0, where the slope of L1 is a matter of taste
        for param in model.parameters():
            param.add_(0.05 * torch.randn_like(param))
    targets = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        targets[:2] = model(inputs)[:2].argmax(1)
    tangents = tangents or Given(normal(3, *inputs.shape, seed=2))
    return Case(name, model, net, inputs, targets, losses.CrossEntropy(), layers, tangents, **others)


def normed() -> Case:
    """Return a convolutional net with frozen batch norm, on images that are not square and all tangents of images."""
    model = Convnet(
        input_shape=(3, 20, 40), outputs=4, channels=[4, 5], norm="batch", activation="gelu", grid=5
    ).double()
    train = normal(9, 3, 20, 40, seed=3)
    tangents = Tangents().fit(train, offset=0.4, scale=1.7)
    case = classification(
        "frozen batch norm, 3x20x40", model, normed_convnet, (3, 20, 40), ("gelu1", "gelu2"), tangents
    )
    freeze_batch_norm(model, train)
    case.net = partial(normed_convnet, statistics=statistics_of(case.weights, train.numpy()))
    return case


def case_of(name: str) -> Case:
    """Return a case by its name, the same each time."""
    torch.manual_seed(0)
    return CASES[name]()


def with_dropout() -> Case:
    model = MLP(input_shape=(7,), outputs=4, widths=[9, 8], activation="gelu", dropout=0.4)
    dropped = {"dropout1": (9, 0.4), "dropout2": (8, 0.4)}
    net = partial(mlp, activation="gelu", hidden=2, dropout=True)
    return classification("dropout", model, net, (7,), ("gelu1", "gelu2"), dropped=dropped)


def regression() -> Case:
    model = MLP(input_shape=(5,), outputs=3, widths=[7, 6], activation="softplus").double()
    tangents = Given(normal(2, 4, 5, seed=2), normal(2, 4, 3, seed=3))
    return Case(
        "regression 5 to 3",
        model,
        partial(mlp, activation="softplus", hidden=2),
        normal(4, 5),
        normal(4, 3, seed=4),
        losses.MSE(),
        ("softplus1", "softplus2"),
        tangents,
    )


def curve() -> Case:
    model = MLP(input_shape=(1,), outputs=2, widths=[7, 6], activation="tanh").double()
    return Case(
        "regression 1 to 2",
        model,
        partial(mlp, activation="tanh", hidden=2),
        normal(4, 1),
        normal(4, 2, seed=4),
        losses.SumOfSquares(),
        ("tanh1", "tanh2"),
        Given(torch.ones(1, 4, 1).double(), normal(1, 4, 2, seed=3)),
    )


CASES: dict[str, Callable[[], Case]] = {
    "mlp": lambda: classification(
        "mlp on tabular data",
        MLP(input_shape=(6,), outputs=4, widths=[8, 7], activation="relu"),
        partial(mlp, activation="relu", hidden=2),
        (6,),
        ("relu1", "relu2"),
    ),
    "mnist_convnet": lambda: classification(
        "mnist_convnet",
        MNISTConvnet(input_shape=(1, 28, 28), outputs=10, width=0.2),
        mnist_convnet,
        (1, 28, 28),
        ("relu1", "relu3"),
    ),
    "sequence": lambda: classification(
        "1-D convnet on sequences",
        Convnet(input_shape=(3, 18), outputs=4, channels=[6, 8], norm="group", activation="silu"),
        sequence_convnet,
        (3, 18),
        ("silu1", "pool2"),
    ),
    "batch_norm": normed,
    "residual": lambda: classification("residual net", Residual(), residual, (1, 9, 9), ("stem", "tanh1")),
    "in_place": lambda: classification(
        "in-place layers, 3x10x20", InPlace(), in_place, (3, 10, 20), ("conv1", "conv2")
    ),
    "shared": lambda: classification("shared module", Shared(), shared, (6,), ("fc1", "last")),
    "dropout": with_dropout,
    "regression": regression,
    "curve": curve,
}
