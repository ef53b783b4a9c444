"""Optimizers that torch lacks."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


def evaluates_once(optimizer: Optimizer) -> bool:
    """Tell whether a step surely calls its closure once: torch's, except LBFGS, and ours do; others may not."""
    package = type(optimizer).__module__.partition(".")[0]
    return package in ("torch", "runner") and not isinstance(optimizer, torch.optim.LBFGS)


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
