"""A convolutional network of options, for images and sequences of any size."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from models.layers import (
    ACTIVATIONS,
    Activation,
    Feedforward,
    check_activation,
    check_sizes,
    dropout_layer,
    scaled,
    times,
)

Norm = Literal["none", "batch", "group"]
CONV = {1: nn.Conv1d, 2: nn.Conv2d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
AVERAGE_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d}


class Convnet(Feedforward):
    """Blocks of convolution, normalisation, activation and max-pooling; an average over the rest; a linear layer.

    The convolutions keep the size, the poolings divide it as long as there is something to divide; what is left is
    averaged to at most `grid` cells in each dimension, so that the number of weights does not depend on the size.
    Layers, for activation=tanh and two blocks: conv1 [norm1] tanh1 pool1 conv2 [norm2] tanh2 pool2 average flatten
    [dropout] fc1 [log_softmax].

    Args:
        input_shape: shape of one example: images (C, H, W), or sequences (C, L), for which all is one-dimensional.
        outputs: number of outputs C (at least 1).
        channels: of the convolutions, one block for each (each at least 1, at least one).
        kernel: size of the convolutions (odd, at least 1).
        pool: size and stride of the max-poolings (at least 1; 1: none).
        grid: cells in each dimension to which the last feature maps are averaged (at least 1; 1: the global average).
        norm: after each convolution: none, batch normalisation, or group normalisation (in groups as for 8 groups,
            or fewer where 8 does not divide the channels), which does not mix examples.
        activation: relu, tanh, sigmoid, softplus, gelu, elu, silu or identity.
        width: multiplies all `channels` (positive).
        dropout: probability of zeroing each input of the linear layer in training (0 <= p < 1).
        log_softmax: whether the outputs are log-probabilities.

    Raises:
        ValueError: inputs that are neither images nor sequences, or an argument outside its range.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        outputs: int,
        channels: Sequence[int] = (16, 32, 64),
        kernel: int = 3,
        pool: int = 2,
        grid: int = 4,
        norm: Norm = "none",
        activation: Activation = "relu",
        width: float = 1.0,
        dropout: float = 0.0,
        log_softmax: bool = False,
    ) -> None:
        check_sizes(outputs, width)
        check_activation(activation)
        check_options(input_shape, channels, kernel, pool, grid, norm)
        before, *sizes = input_shape
        layers: dict[str, nn.Module] = {}
        for i, size in enumerate(channels, start=1):
            after = scaled(size, width)
            conv = CONV[len(sizes)](before, after, kernel, padding=kernel // 2, bias=norm == "none")
            layers |= {f"conv{i}": conv, **norm_layer(norm, f"norm{i}", after, len(sizes))}
            layers[f"{activation}{i}"] = ACTIVATIONS[activation]()
            if min(sizes) >= pool > 1:
                layers[f"pool{i}"] = MAX_POOL[len(sizes)](pool)
                sizes = [size // pool for size in sizes]
            before = after
        cells = [min(grid, size) for size in sizes]
        layers |= {"average": average_layer(sizes, cells), "flatten": nn.Flatten(start_dim=-len(input_shape))}
        layers |= dropout_layer(dropout)
        layers["fc1"] = nn.Linear(before * math.prod(cells), outputs)
        super().__init__(layers, log_softmax)


def norm_layer(norm: Norm, name: str, channels: int, dimensions: int) -> dict[str, nn.Module]:
    """Return a normalisation under its name, or nothing."""
    if norm == "none":
        return {}
    batch = norm == "batch"
    return {name: BATCH_NORM[dimensions](channels) if batch else nn.GroupNorm(math.gcd(8, channels), channels)}


def average_layer(sizes: Sequence[int], cells: Sequence[int]) -> nn.Module:
    """Return an average pooling from some sizes to numbers of cells.

    Like `nn.AdaptiveAvgPool2d` where the cells divide the size; unlike it, its gradient on CUDA has the same bits each
    time, and where they do not divide it the cells are of one size, the last pixels of one in the next.
    """
    strides = [size // cell for size, cell in zip(sizes, cells, strict=True)]
    kernels = [size - (cell - 1) * stride for size, cell, stride in zip(sizes, cells, strides, strict=True)]
    return AVERAGE_POOL[len(sizes)](tuple(kernels), tuple(strides))


def check_options(
    input_shape: Sequence[int], channels: Sequence[int], kernel: int, pool: int, grid: int, norm: str
) -> None:
    """Raise ValueError for an argument of `Convnet` outside its range."""
    if len(input_shape) not in (2, 3) or math.prod(input_shape) < 1:
        raise ValueError(
            f"Convnet takes images CxHxW or sequences CxL, got {times(input_shape)} inputs: choose model=mlp"
        )
    if not channels or any(size < 1 for size in channels):
        raise ValueError(f"channels must be a list of numbers of at least 1, got {list(channels)}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and at least 1, got {kernel}")
    for name, value in (("pool", pool), ("grid", grid)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if norm not in ("none", "batch", "group"):
        raise ValueError(f"norm must be none, batch or group, got {norm}")
