"""Initialisations: each draws the weights of all linear and convolutional layers of a model.

    models.KaimingNormal()(model)

`LSUV` also needs training inputs: `models.LSUV().fit(inputs)(model)`; the runner hands them to it.

They draw from torch's global generator; the runner seeds it around the construction of the model and its
initialisation, and restores it afterwards. All set the biases of those layers to 0, except `TorchDefault`.
Other layers (batch normalisation) keep what their constructors gave them.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

# 1 / sqrt(E act(z)^2) for a standard normal z: what keeps the mean square of the signal from layer to
# layer (He et al. 2015, arXiv 1502.01852, section 2.2). tanh: 5/3, torch's own choice, not 1.5925.
GAINS: dict[type[nn.Module], float] = {
    nn.ReLU: 2**0.5,
    nn.Tanh: 5 / 3,
    nn.Sigmoid: 1.8462,
    nn.Softplus: 1.0419,
    nn.GELU: 1.5335,
    nn.ELU: 1.2452,
    nn.SiLU: 1.6765,
    nn.Identity: 1.0,
}


def gain_of(model: nn.Module) -> float:
    """The gain of the model's first activation layer; `nn.Identity`, often a placeholder, counts only without others.

    Raises:
        ValueError: the model has none of the known activation layers.
    """
    kinds = [type(layer) for layer in model.modules() if type(layer) in GAINS]
    if kinds:
        return GAINS[min(kinds, key=lambda kind: kind is nn.Identity)]
    known = ", ".join(kind.__name__ for kind in GAINS)
    raise ValueError(f"gain must be a number for a model without activation layers ({known}), got null")


class Initialisation(ABC):
    """Draws a model's weights anew, in place, when called with the model."""

    @abstractmethod
    def __call__(self, model: nn.Module) -> None: ...


class TorchDefault(Initialisation):
    """Leaves weights and biases as torch's constructors drew them: uniform in +-1/sqrt(fan_in)."""

    def __call__(self, model: nn.Module) -> None:
        pass


@dataclass(frozen=True)
class Normal(Initialisation):
    """Weights from N(0, std^2), biases 0.

    Args:
        std: standard deviation (positive).

    Raises:
        ValueError: std not positive and finite.
    """

    std: float = 0.01

    def __post_init__(self) -> None:
        check_positive("std", self.std)

    def __call__(self, model: nn.Module) -> None:
        for weight in weights_with_zero_biases(model):
            nn.init.normal_(weight, std=self.std)


@dataclass(frozen=True)
class Scaled(Initialisation):
    """Base of the initialisations whose scale follows from the layer's size, times a gain."""

    gain: float | None = None

    def __post_init__(self) -> None:
        if self.gain is not None:
            check_positive("gain", self.gain)

    def __call__(self, model: nn.Module) -> None:
        gain = gain_of(model) if self.gain is None else self.gain
        for weight in weights_with_zero_biases(model):
            self.draw(weight, gain)

    @abstractmethod
    def draw(self, weight: Tensor, gain: float) -> None: ...


@dataclass(frozen=True)
class XavierNormal(Scaled):
    """Weights from N(0, gain^2 * 2 / (fan_in + fan_out)), biases 0.

    Args:
        gain: multiplies the standard deviation (positive); null: by the model's activation.

    Raises:
        ValueError: gain not positive and finite; when called, a null gain for a model without activation.

    Source: Glorot and Bengio 2010, AISTATS, section 4.2.1, with gain 1.
    """

    gain: float | None = 1.0

    def draw(self, weight: Tensor, gain: float) -> None:
        nn.init.xavier_normal_(weight, gain)


@dataclass(frozen=True)
class XavierUniform(Scaled):
    """Weights uniform in +-gain * sqrt(6 / (fan_in + fan_out)), biases 0.

    Arguments, errors and source as for `XavierNormal`.
    """

    gain: float | None = 1.0

    def draw(self, weight: Tensor, gain: float) -> None:
        nn.init.xavier_uniform_(weight, gain)


@dataclass(frozen=True)
class Kaiming(Scaled):
    """Base of the initialisations whose scale follows from one of a layer's two sizes."""

    mode: Literal["fan_in", "fan_out"] = "fan_in"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("fan_in", "fan_out"):
            raise ValueError(f"mode must be fan_in or fan_out, got {self.mode}")

    def fan(self, weight: Tensor) -> int:
        return fan_in(weight) if self.mode == "fan_in" else fan_out(weight)


@dataclass(frozen=True)
class KaimingNormal(Kaiming):
    """Weights from N(0, gain^2 / fan), biases 0.

    Args:
        gain: multiplies the standard deviation (positive); null: by the model's activation (relu sqrt(2),
            tanh 5/3, sigmoid 1.85, softplus 1.04, gelu 1.53, elu 1.25, silu 1.68, identity 1).
        mode: fan_in keeps the variance of activations from layer to layer, fan_out that of gradients.

    Raises:
        ValueError: gain not positive and finite; another mode; when called, a null gain for a model without activation.

    Source: He et al. 2015, arXiv 1502.01852, section 2.2.
    """

    def draw(self, weight: Tensor, gain: float) -> None:
        nn.init.normal_(weight, std=gain * self.fan(weight) ** -0.5)


@dataclass(frozen=True)
class KaimingUniform(Kaiming):
    """Weights uniform in +-gain * sqrt(3 / fan), biases 0.

    Arguments, errors and source as for `KaimingNormal`.
    """

    def draw(self, weight: Tensor, gain: float) -> None:
        bound = gain * (3 / self.fan(weight)) ** 0.5
        nn.init.uniform_(weight, -bound, bound)


@dataclass(frozen=True)
class Orthogonal(Scaled):
    """Weights, as matrices (outputs, fan_in), gain times random with orthonormal rows or columns; biases 0.

    Arguments and errors as for `KaimingNormal`.

    Source: Saxe, McClelland, Ganguli 2013, arXiv 1312.6120.
    """

    def draw(self, weight: Tensor, gain: float) -> None:
        nn.init.orthogonal_(weight, gain)


@dataclass
class LSUV(Initialisation):
    """Orthonormal weights, each layer then scaled so that its outputs for training examples have variance 1; biases 0.

    The outputs are those before the activation, and their variance is over examples and units (LSUV: layer-sequential
    unit-variance). One forward pass is enough, in the order in which the model calls its layers: without biases the
    outputs are linear in the weights, so that dividing both by the deviation is exact. The model is in evaluation
    mode meanwhile: dropout draws nothing, batch normalisation does nothing. A layer whose outputs do not vary keeps
    its weights.

    Args:
        examples: how many training examples, counted from the first (at least 2; if there are fewer, all).

    Raises:
        ValueError: examples below 2; when called, before `fit` or if the model does not take the inputs.

    Source: Mishkin and Matas 2016, arXiv 1511.06422, algorithm 1.
    """

    examples: int = 256
    inputs: Tensor | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        if self.examples < 2:
            raise ValueError(f"examples must be at least 2, got {self.examples}")

    def fit(self, inputs: Tensor, offset: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Self:
        """Take the examples from training inputs (N, *I) as the network sees them, and return self."""
        self.inputs = inputs[: self.examples]
        return self

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> None:
        if self.inputs is None:
            raise ValueError("LSUV must see training inputs before it is called: LSUV().fit(inputs)(model)")
        Orthogonal(gain=1.0)(model)
        layers = [layer for layer in model.modules() if isinstance(layer, WEIGHTED)]
        hooks = [layer.register_forward_hook(_scale_to_unit_variance) for layer in layers]
        training = model.training
        try:
            model.eval()(self.inputs.to(next(model.parameters(), self.inputs).device))
        except RuntimeError as error:
            raise ValueError(f"it does not take the training inputs: {str(error).splitlines()[0]}") from error
        finally:
            model.train(training)
            for hook in hooks:
                hook.remove()


def _scale_to_unit_variance(layer: Any, _: Any, outputs: Tensor) -> Tensor:
    deviation = outputs.std(correction=0)
    if deviation > 0:
        layer.weight /= deviation
        outputs = outputs / deviation
    return outputs


def fan_in(weight: Tensor) -> int:
    """How many inputs each output of the layer sums."""
    return weight[0].numel()


def fan_out(weight: Tensor) -> int:
    """How many outputs each input of the layer enters."""
    return weight[:, 0].numel()


def weights_with_zero_biases(model: nn.Module) -> Iterator[Tensor]:
    """Yield each linear and convolutional layer's weight, to be drawn anew, after its bias was set to 0.

    Raises:
        ValueError: a weight is computed from other parameters (spectral norm), and cannot be what was drawn.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTED):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            weight = layer.weight
            yield weight
            if not isinstance(weight, nn.Parameter):  # a temporary one, of a parametrisation
                _assign(name, layer, weight.detach())


def _assign(name: str, layer: nn.Module, drawn: Tensor) -> None:
    problem = ""
    if not is_parametrized(layer, "weight"):
        problem = "a hook computes"
    else:
        try:
            layer.weight = drawn
        except (NotImplementedError, ValueError, RuntimeError) as error:
            problem = f"its parametrisation cannot take ({str(error).splitlines()[0]})"
        else:
            if not torch.allclose(layer.weight, drawn, rtol=1e-4, atol=1e-6):
                problem = "its parametrisation changes"
    if problem:
        raise ValueError(f"init must be torch for a layer such as {name}, whose weight {problem}: add init=torch")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless the value is positive and finite."""
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}")
