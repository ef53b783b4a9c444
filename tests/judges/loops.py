"""Naive loops, one example and one output at a time: what a penalty on Jacobians or tangents must give."""

from typing import Any

import torch
from support import zoo
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from losses import CrossEntropy, EagerForward, Penalty


def differences(model: nn.Module, x: Tensor | tuple, penalty: Penalty, tangent: Tensor | None) -> tuple[float, float]:
    """Return the differences of value and gradient of the mean of ||J||_F^2, or of ||J t||^2, by `penalty.at`."""
    several = x if isinstance(x, tuple) else (x,)
    targets = torch.arange(len(several[0])) % 3
    value = penalty(EagerForward(model, CrossEntropy(), x, targets, [penalty])).mean()
    place = int(penalty.at.partition(".")[2] or 0)
    point = several[place].clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH), Formula():  # other kernels of attention have no second derivative
        outputs = model(*(point if index == place else other for index, other in enumerate(several)))
    rows = []
    for n in range(len(outputs)):
        for c in range(outputs.shape[1]):
            (row,) = torch.autograd.grad(outputs[n, c], point, create_graph=True)
            rows.append(row[n].flatten())
    jacobian = torch.stack(rows).view(*outputs.shape, -1)
    products = jacobian if tangent is None else torch.einsum("bcd,bd->bc", jacobian, tangent.flatten(1))
    wanted = products.square().sum() / len(outputs)
    return zoo.difference([value], [wanted]), zoo.difference(zoo.gradients(value, model), zoo.gradients(wanted, model))


class Formula(TorchFunctionMode):
    """Compute hardsigmoid by its definition: torch's own has no second derivative, which the loops need."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is F.hardsigmoid:
            return F.relu6(args[0] + 3) / 6
        return func(*args, **(kwargs or {}))
