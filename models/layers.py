"""What all models share: layers that bear names, one after the other."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Activation = Literal["relu", "tanh", "sigmoid", "softplus", "gelu", "elu", "silu", "identity"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "identity": nn.Identity,  # a linear model, for the study of its layers
}

# Linear on pieces of the input space; batch normalisation is so outside training mode.
PIECEWISE_LINEAR = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, _BatchNorm, nn.Flatten, nn.Identity, nn.Sequential),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.ReLU, nn.ReLU6),
)


class LogSoftmax(nn.Module):
    """log softmax over the last dimension, in differences that do not overflow.

    Instead of torch's own, whose forward mode changes in place what its gradient needs (a RuntimeError in torch 2.15).
    """

    def forward(self, inputs: Tensor) -> Tensor:
        shifted = inputs - inputs.detach().amax(-1, keepdim=True)
        return shifted - shifted.exp().sum(-1, keepdim=True).log()


class Feedforward(nn.Module):
    """Apply named layers one after the other: outputs = layer_n(... layer_1(inputs)).

    Every layer is an attribute under its name (`model.relu1`), so that penalties, optimizer groups and
    hooks can ask for it. No layer works in place: what a penalty has recorded stays what it was.

    Args:
        layers: name -> layer, in the order of application.
        log_softmax: append `log_softmax`, so that the outputs are log-probabilities (for `losses.NLL`).
    """

    def __init__(self, layers: dict[str, nn.Module], log_softmax: bool = False) -> None:
        super().__init__()
        self.log_probabilities = log_softmax
        last = {"log_softmax": LogSoftmax()} if log_softmax else {}
        for name, layer in (layers | last).items():
            self.add_module(name, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.children():
            inputs = layer(inputs)
        return inputs

    @property
    def piecewise_linear(self) -> bool:
        """Whether all second derivatives in the inputs are 0, so that no penalty can bend the function."""
        return is_piecewise_linear(self)


def is_piecewise_linear(model: nn.Module) -> bool:
    """Tell whether all innermost layers are linear on pieces of their inputs; what functions do is not seen."""
    layers = (layer for layer in model.modules() if not any(True for _ in layer.children()))
    return all(isinstance(layer, PIECEWISE_LINEAR) for layer in layers)


def dropout_layer(probability: float, name: str = "dropout") -> dict[str, nn.Module]:
    """Return a dropout layer under its name; nothing for probability 0, so that the model is the one without.

    Raises:
        ValueError: a probability outside 0 <= p < 1.
    """
    if not 0 <= probability < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {probability}")
    return {name: nn.Dropout(probability)} if probability else {}


def check_activation(activation: str) -> None:
    """Raise ValueError for an activation that is not among ACTIVATIONS."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation}")


def scaled(size: int, width: float) -> int:
    """A hidden size times the width multiplier, rounded, at least 1."""
    return max(1, round(width * size))


def check_sizes(outputs: int, width: float) -> None:
    """Raise ValueError unless there is an output, and a positive, finite width multiplier."""
    if outputs < 1:
        raise ValueError(f"outputs must be at least 1, got {outputs}")
    if not 0 < width < float("inf"):
        raise ValueError(f"width must be positive and finite, got {width}")


def times(shape: Sequence[int]) -> str:
    """A shape as people write it: 1x28x28."""
    return "x".join(map(str, shape)) if shape else "scalar"
