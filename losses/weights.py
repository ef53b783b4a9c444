"""Penalties on the weights alone: L2, L1, elastic net."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .forward import Forward
from .parameters import chosen, chosen_of, for_models
from .penalty import Penalty, at_least, one_of, square, total


class L2(Penalty):
    """The sum of the squared parameters, sum w^2.

    No factor 1/2: plain SGD with weight lam is the same as `weight_decay=2*lam`.

    Args:
        biases: count too what no layer multiplies by (`weights_of` tells which): biases, gains of norms.

    Source: Hoerl and Kennard 1970; lecture EE-559 5.4.
    """

    of_weights = True

    def __init__(self, *, biases: bool = True) -> None:
        self.biases = biases

    def __call__(self, forward: Forward) -> Tensor:
        return total(forward.sum(square(param)) for param in chosen_of(forward, self.biases))


class L1(Penalty):
    """The sum of the absolute values of the parameters, sum |w|.

    `proximal`: after the optimizer's step, w <- sign(w) * max(|w| - weight, 0): exact zeros, and never across
    zero. The threshold is the weight itself, not lr * weight (so a coefficient weight / lr in the objective);
    `scale_by_lr` makes it lr * weight (ISTA). The value is reported but is no term of the objective.
    `subgradient`: a term of the objective; it fluctuates round zero and gives no exact zeros.

    Args:
        method: "proximal" or "subgradient".
        scale_by_lr: multiply the threshold by the learning rate (proximal only).
        biases: as in `L2`.

    Source: Tibshirani 1996; Daubechies, Defrise, De Mol 2004 (ISTA); lecture EE-559 5.4.
    """

    of_weights = True

    def __init__(
        self,
        *,
        method: Literal["proximal", "subgradient"] = "proximal",
        scale_by_lr: bool = False,
        biases: bool = True,
    ) -> None:
        one_of("method", method, ("proximal", "subgradient"))
        self.in_objective = method == "subgradient"
        self.scale_by_lr, self.biases = scale_by_lr, biases

    def __call__(self, forward: Forward) -> Tensor:
        return total(forward.sum(param.abs()) for param in chosen_of(forward, self.biases))

    def prox_(self, params: Iterable[Tensor], weight: float | Tensor, lr: float | Tensor) -> None:
        if not self.in_objective:
            soft_threshold_(chosen(params, self.biases), weight * lr if self.scale_by_lr else weight)


class ElasticNet(Penalty):
    """l1 * sum |w| + l2 * sum w^2, by its proximal operator.

    After the optimizer's step: soft-threshold by weight * l1, then divide by 1 + 2 * lr * weight * l2.

    Args:
        l1: coefficient of sum |w|, >= 0; a threshold as in `L1`, not multiplied by lr unless `scale_by_lr`.
        l2: coefficient of sum w^2, >= 0.
        scale_by_lr, biases: as in `L1`.

    Source: Zou and Hastie 2005; Parikh and Boyd 2014, section 6.5.3.
    """

    of_weights = True
    in_objective = False

    def __init__(self, *, l1: float = 1e-5, l2: float = 1e-3, scale_by_lr: bool = False, biases: bool = True) -> None:
        at_least("l1", l1, 0)
        at_least("l2", l2, 0)
        self.l1, self.l2, self.scale_by_lr, self.biases = l1, l2, scale_by_lr, biases

    def __call__(self, forward: Forward) -> Tensor:
        params = chosen_of(forward, self.biases)
        return total(self.l1 * forward.sum(param.abs()) + self.l2 * forward.sum(square(param)) for param in params)

    @torch.no_grad()
    def prox_(self, params: Iterable[Tensor], weight: float | Tensor, lr: float | Tensor) -> None:
        params = chosen(params, self.biases)
        soft_threshold_(params, weight * self.l1 * (lr if self.scale_by_lr else 1.0))
        if params:  # a group of biases alone may be left with none
            torch._foreach_div_(params, _for_each(params, 1 + 2 * lr * weight * self.l2))


@torch.no_grad()
def soft_threshold_(params: list[Tensor], threshold: float | Tensor) -> None:
    """w <- w / |w| * max(|w| - threshold, 0) in place; of real w: less its projection onto [-threshold, threshold]."""
    for param in [param for param in params if param.is_complex()]:
        param.mul_((1 - threshold / param.abs().clamp(min=torch.finfo(param.real.dtype).tiny)).clamp(min=0))
    params = [param for param in params if not param.is_complex()]
    if params:
        clamped = torch._foreach_clamp_max(params, _for_each(params, threshold))
        torch._foreach_clamp_min_(clamped, _for_each(params, -threshold))
        torch._foreach_sub_(params, clamped)


def _for_each(params: Sequence[Tensor], value: float | Tensor) -> Any:
    """Return a number as it is, and the numbers of the models of a stack, (K,), shaped for each parameter."""
    return [for_models(value, param) for param in params] if isinstance(value, Tensor) else value
