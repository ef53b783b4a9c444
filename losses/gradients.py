"""Penalties on the gradient of the loss: by the inputs, by activations, by the parameters."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from .forward import Forward
from .penalty import Penalty, of_layers, one_of, square, squared_norm, total


class InputGradient(Penalty):
    """The mean squared gradient of each example's loss by its input, mean_n ||d l_n / d x_n||^2.

    Of each example's own loss: the gradients of the mean loss would be B times smaller, their squares B^2
    times. It vanishes on examples fitted with confidence; `Jacobian` does not.

    Args:
        at: what it is taken by: "inputs", one of several inputs, "inputs.NAME", or a layer, such as the embedding of
            token ids.

    Source: Drucker and LeCun 1992 (double backpropagation); Ross and Doshi-Velez 2018, arXiv 1711.09404.
    """

    per_example = True
    wants_smooth = True
    prefers_contiguous = True

    def __init__(self, *, at: str = "inputs") -> None:
        self.at, self.layers = at, of_layers(at)

    def __call__(self, forward: Forward) -> Tensor:
        (gradient,) = forward.vjp(forward.loss_gradient(), (self.at,))
        return squared_norm(gradient)


class ActivationGradient(Penalty):
    """The mean squared gradient of each example's loss by activations, mean_n sum_l ||d l_n / d h_l(x_n)||^2.

    Args:
        layers: names of the layers l, at least one.
        reduction: "example": as above. "batch": gradients of the mean loss, summed over the batch, which is B
            times less (each example's value is divided by B); the scale of the question below, where it makes the
            penalty too weak to be seen.

    Raises:
        ValueError: for no layers or a value out of range.

    Source: forum question "Activation gradient penalty", stackoverflow.com/q/57310682.
    """

    per_example = True

    def __init__(self, *, layers: Sequence[str], reduction: Literal["example", "batch"] = "example") -> None:
        if isinstance(layers, str) or not layers:
            raise ValueError(f"layers must be a list of at least one layer name, got {layers!r}")
        one_of("reduction", reduction, ("example", "batch"))
        self.layers, self.reduction = tuple(layers), reduction
        self.at = self.layers[0]

    def __call__(self, forward: Forward) -> Tensor:
        gradients = forward.vjp(forward.loss_gradient(), at=self.layers)
        values = total(squared_norm(gradient) for gradient in gradients)
        return values if self.reduction == "example" else values / forward.batch_size


class WeightGradient(Penalty):
    """The squared gradient of the mean loss by the parameters, ||d mean_n l_n / d w||^2.

    One value, of the batch as a whole: a scalar.

    Source: forum question "Activation gradient penalty", stackoverflow.com/q/57310682: what it says works.
    """

    def __call__(self, forward: Forward) -> Tensor:
        cotangent = forward.loss_gradient() / forward.batch_size
        return total(forward.sum(square(gradient)) for gradient in forward.vjp(cotangent, at=tuple(forward.params)))
