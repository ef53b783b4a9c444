"""Optimizers that torch lacks, and how often one calls its closure."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


def evaluates_once(optimizer: Optimizer) -> bool:
    """Tell whether a step surely calls its closure once: torch's, except LBFGS, and ours do; others may not."""
    return is_known(optimizer) and not isinstance(optimizer, torch.optim.LBFGS | SAM)


def is_known(optimizer: Optimizer) -> bool:
    """Tell whether it is torch's or ours, which call their closure before they look at gradients."""
    return type(optimizer).__module__.partition(".")[0] in ("torch", "runner")


class SAM(torch.optim.SGD):
    """Sharpness-aware minimisation: SGD along the gradient at the worst point near the weights.

        e    = rho * g / ||g||                 adaptive: rho * (|w| + eta)^2 g / ||(|w| + eta) g||
        step = SGD with the gradient of the objective at w + e

    The objective is the whole one, penalties included, with the same random numbers at both points; the norm is over
    all parameters. A step takes two evaluations, so about twice the time of SGD's. `optimizer.clip` clips the gradient
    at w, which leaves e as it is, and the one at w + e, with which the step is made; batch norm counts the statistics
    at w alone.

    Args:
        params: tensors, or groups of them with options of their own.
        lr, momentum, weight_decay: as of `torch.optim.SGD`.
        rho: radius of the neighbourhood (>= 0; 0 is SGD).
        adaptive: scale it by the size of each weight (ASAM), which takes a rho about ten times as large.
        eta: added to these sizes (>= 0; .01 in the source).

    Raises:
        ValueError: an argument outside its range.

    Source: Foret, Kleiner, Mobahi, Neyshabur 2021, arXiv 2010.01412, algorithm 1; Kwon, Kim, Park, Choi 2021, arXiv
    2102.11600.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.1,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
    ) -> None:
        for name, value in (("rho", rho), ("eta", eta)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.rho, self.adaptive, self.eta = rho, adaptive, eta

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Make one step; return what the closure returns at the weights, which it is called at first."""
        with torch.enable_grad():
            objective = closure()
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before = [param.clone() for param in params]
        sizes = [param.abs() + self.eta if self.adaptive else torch.ones_like(param) for param in params]
        scaled = [size * param.grad for size, param in zip(sizes, params, strict=True)]
        norm = torch.stack([one.norm() for one in scaled]).norm() if params else torch.zeros(())
        for param, size, one in zip(params, sizes, scaled, strict=True):
            param.add_(size * one * (self.rho / (norm + 1e-12)))
        with torch.enable_grad():
            closure()
        for param, values in zip(params, before, strict=True):
            param.copy_(values)
        super().step()
        return objective


class TensorFlowRMSprop(Optimizer):
    """RMSprop as TensorFlow computes it, which many published results rest on.

        square = alpha * square + (1 - alpha) * gradient^2       (1 before the first step)
        move   = momentum * move + lr * gradient / sqrt(square + eps)
        param  = param - move

    In torch's RMSprop the mean square starts at 0, eps is added to the root, and a change of the learning rate also
    rescales the past moves. With small gradients torch's first steps are larger by orders of magnitude.

    Args:
        params: tensors, or groups of them with options of their own.
        lr: learning rate (> 0).
        alpha: decay rate of the mean square (0 <= alpha < 1).
        eps: added to the mean square, inside the root (> 0).
        momentum: fraction of the previous move (0 <= momentum < 1).
        weight_decay: adds this times the weights to the gradient (>= 0).

    Raises:
        ValueError: an argument outside its range.

    Source: Tieleman and Hinton 2012; TensorFlow, `tf.compat.v1.train.RMSPropOptimizer`.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        alpha: float = 0.9,
        eps: float = 1e-10,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Check a group's options, and add it."""
        group = {**self.defaults, **param_group}
        for name in ("lr", "eps"):
            if not 0 < group[name] < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {group[name]}")
        for name in ("alpha", "momentum"):
            if not 0 <= group[name] < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {group[name]}")
        if not 0 <= group["weight_decay"] < float("inf"):
            raise ValueError(f"weight_decay must be at least 0 and finite, got {group['weight_decay']}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; return what the closure returns, which computes the gradients if it is given."""
        objective = None
        if closure is not None:
            with torch.enable_grad():
                objective = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._move(param, **{key: value for key, value in group.items() if key in self.defaults})
        return objective

    def _move(
        self, param: torch.Tensor, lr: float, alpha: float, eps: float, momentum: float, weight_decay: float
    ) -> None:
        state = self.state[param]
        if not state:
            state.update(square=torch.ones_like(param), move=torch.zeros_like(param))
        gradient = param.grad.add(param, alpha=weight_decay)  # type: ignore[union-attr]
        state["square"].mul_(alpha).addcmul_(gradient, gradient, value=1 - alpha)
        state["move"].mul_(momentum).addcdiv_(gradient, (state["square"] + eps).sqrt_(), value=lr)
        param.sub_(state["move"])
