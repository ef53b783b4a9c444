"""One module that computes K models of one shape on K * B examples."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from losses.parameters import StackedParameter


class StackedLinear(nn.Module):
    """K linear layers: rows k * B to (k + 1) * B of the inputs go through layer k.

    Args:
        layers: of one shape, whose parameters are copied.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.models = len(layers)
        for name, _ in layers[0].named_parameters():
            params = torch.stack([layer.get_parameter(name).detach() for layer in layers])
            self.register_parameter(name, StackedParameter(params))

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.view(self.models, -1, inputs.shape[-1])
        return torch.baddbmm(self.bias.unsqueeze(1), inputs, self.weight.mT).flatten(0, 1)


STACKED = {nn.Linear: StackedLinear}


def stacked(models: Sequence[nn.Module]) -> nn.Module:
    """Return the module of all models, whose layers and parameters have the same names."""
    stack = copy.deepcopy(models[0])
    for name, layer in models[0].named_modules():
        if type(layer) in STACKED:
            layers = [model.get_submodule(name) for model in models]
            stack.set_submodule(name, STACKED[type(layer)](layers))  # type: ignore[arg-type]  # of that type
    return stack
