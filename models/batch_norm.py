"""Batch normalisation with the statistics of the training split instead of the batch's."""

from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

BATCH = 500  # examples in a pass; the statistics do not depend on it


class _Reached(Exception):
    """Ends a forward pass at the layer whose inputs were asked for."""


@torch.no_grad()
def freeze_batch_norm(model: nn.Module, inputs: Tensor) -> None:
    """Set the statistics of each batch norm to those of all the inputs, for good.

    mean = sum of x / count, var = sum of (x - mean)^2 / count, in each channel of what the layer is given, over
    examples and pixels, summed in float64. Layer after layer in the order of the forward pass, with the layers before
    already frozen and dropout off, so that the frozen model gives on these inputs what the model gives in training
    mode with all of them in one batch. (Hence the biased variance; torch's running one, / (count - 1), differs by
    1 in `count`.) No example depends on another then: the derivatives of one are its own.

    Costs a forward pass over the inputs, up to the layer, for each batch norm.

    Args:
        model: left in training mode, its batch norms in evaluation mode whatever `model.train()` says.
        inputs: (N, *I), the training examples (N >= 1).

    Raises:
        ValueError: a batch norm is used more than once in a pass: one pair of statistics cannot serve both uses.
    """
    for norm in _batch_norms(model).values():
        keep_in_evaluation(norm)
    model.eval()
    for norm in _in_order_of_use(model, inputs[:2]):
        norm.running_mean, norm.running_var = _statistics_at(norm, model, inputs)
    model.train()


def _batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}


def _in_order_of_use(model: nn.Module, inputs: Tensor) -> list[_BatchNorm]:
    used: list[_BatchNorm] = []
    norms = _batch_norms(model)
    hooks = [norm.register_forward_pre_hook(lambda norm, _: used.append(norm)) for norm in norms.values()]
    model(inputs)
    for hook in hooks:
        hook.remove()
    for name, norm in norms.items():
        if used.count(norm) > 1:
            raise ValueError(f"batch_norm must be batch for a model that uses {name} more than once, got frozen")
    return used


def _statistics_at(norm: _BatchNorm, model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    total = squares = torch.zeros(norm.num_features, dtype=torch.float64, device=inputs.device)
    count = 0

    def add(_: nn.Module, arguments: tuple[Tensor]) -> None:
        nonlocal total, squares, count
        values = arguments[0].double().transpose(0, 1).flatten(1)  # (channels, examples and pixels)
        total, squares, count = total + values.sum(1), squares + values.square().sum(1), count + values.shape[1]
        raise _Reached

    hook = norm.register_forward_pre_hook(add)
    for batch in inputs.split(BATCH):
        with suppress(_Reached):
            model(batch)
    hook.remove()
    mean = total / count
    return mean.to(inputs.dtype), (squares / count - mean.square()).clamp(min=0).to(inputs.dtype)


def keep_in_evaluation(module: nn.Module) -> None:
    module.eval()
    module.train = lambda mode=True: module  # type: ignore[method-assign]
