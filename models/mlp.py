"""The multi-layer perceptron, for inputs of any shape."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from models.layers import (
    ACTIVATIONS,
    Activation,
    Feedforward,
    check_activation,
    check_sizes,
    dropout_layer,
    scaled,
)


class MLP(Feedforward):
    """A multi-layer perceptron: linear layers with one activation between them.

    Layers, for `activation=tanh` and two hidden layers: flatten fc1 tanh1 fc2 tanh2 fc3 [log_softmax]; with dropout
    a dropout1 follows tanh1, a dropout2 tanh2.
    A penalty on second derivatives or on slopes wants a smooth activation: with relu the function is
    piecewise linear.

    Args:
        input_shape: shape of one example, at least one dimension; it is flattened.
        outputs: number of outputs C (at least 1).
        widths: sizes of the hidden layers, from the inputs on (each at least 1); empty: a linear model.
        activation: relu, tanh, sigmoid, softplus, gelu, elu, silu or identity.
        width: multiplies all `widths` (positive).
        dropout: probability of zeroing each hidden unit in training (0 <= p < 1).
        log_softmax: whether the outputs are log-probabilities.

    Raises:
        ValueError: an input without dimensions or elements, or an argument outside its range.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        outputs: int,
        widths: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        width: float = 1.0,
        dropout: float = 0.0,
        log_softmax: bool = False,
    ) -> None:
        if not input_shape or math.prod(input_shape) < 1:
            raise ValueError(f"MLP takes inputs of at least one dimension and element, got {tuple(input_shape)}")
        check_sizes(outputs, width)
        if any(size < 1 for size in widths):
            raise ValueError(f"widths must each be at least 1, got {list(widths)}")
        check_activation(activation)
        sizes = [math.prod(input_shape), *(scaled(size, width) for size in widths)]
        layers: dict[str, nn.Module] = {"flatten": nn.Flatten(start_dim=-len(input_shape))}
        for i, (before, after) in enumerate(pairwise(sizes), start=1):
            layers[f"fc{i}"] = nn.Linear(before, after)
            layers[f"{activation}{i}"] = ACTIVATIONS[activation]()
            layers |= dropout_layer(dropout, f"dropout{i}")
        layers[f"fc{len(sizes)}"] = nn.Linear(sizes[-1], outputs)
        super().__init__(layers, log_softmax)
