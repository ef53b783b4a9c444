"""Optimizers that torch lacks, and what an optimizer of the user's does with its closure."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT
from torch.overrides import TorchFunctionMode


def evaluates_once(optimizer: Optimizer) -> bool:
    """Tell whether a step surely calls its closure once: torch's, except LBFGS, and ours do; others may not."""
    return is_known(optimizer) and not isinstance(optimizer, torch.optim.LBFGS | SAM)


def is_known(optimizer: Optimizer) -> bool:
    """Tell whether it is torch's or ours, which call their closure before they look at gradients."""
    return type(optimizer).__module__.partition(".")[0] in ("torch", "runner")


def make_step(optimizer: Optimizer, closure: Callable[[], Tensor]) -> None:
    """Let an optimizer make its step, whether it calls the closure or takes gradients to be there."""
    if is_known(optimizer):
        optimizer.step(closure)  # type: ignore[arg-type]  # annotated as a float
        return
    with ExitStack() as stack:
        gradients = stack.enter_context(GradientsOnDemand(closure))

        def asked() -> Tensor:
            stack.close()  # a mode takes time
            return gradients.compute()

        step: Callable[..., Any] = optimizer.step
        step(*[asked] if inspect.signature(step).parameters else [])
    if not gradients.are_there:  # it has made no step, and the objective is of interest all the same
        gradients.compute()


class GradientsOnDemand(TorchFunctionMode):
    """Call the closure when gradients are looked at before it was called, as by public code of SAM.

    So nobody pays for gradients that are not used, and nobody is given those of the step before.
    """

    LOOK = torch.Tensor.grad.__get__  # type: ignore[union-attr]  # param.grad

    def __init__(self, closure: Callable[[], Tensor]) -> None:
        super().__init__()
        self.closure, self.are_there = closure, False

    def compute(self) -> Tensor:
        """Compute the gradients; return the objective."""
        self.are_there = True
        with torch.enable_grad():
            return self.closure()

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func == self.LOOK and not self.are_there:
            self.compute()
        return func(*args, **(kwargs or {}))


class SAM(torch.optim.SGD):
    """Sharpness-aware minimisation: SGD along the gradient at the worst point near the weights.

        e    = rho * g / ||g||                 adaptive: rho * (|w| + eta)^2 g / ||(|w| + eta) g||
        step = SGD with the gradient of the objective at w + e

    The objective is the whole one, penalties included, with the same random numbers at both points; the norm is over
    all parameters. A step takes two evaluations: 2.1 times the CPU time of SGD's with a small convnet, 2.7 times with a
    perceptron (batches of 50 digits). `optimizer.clip` clips the gradient at w, which leaves e as it is, and the one at
    w + e, with which the step is made; batch norm counts the statistics at w alone.

    Args:
        params: tensors, or groups of them with options of their own, rho, adaptive and eta among them.
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
        self.own = {"rho": rho, "adaptive": adaptive, "eta": eta}
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Check a group's options, and add it."""
        group = {**self.own, **param_group}
        for name in ("rho", "eta"):
            if not 0 <= group[name] < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {group[name]}")
        super().add_param_group(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Make one step; return what the closure returns at the weights, which it is called at first."""
        with torch.enable_grad():
            objective = closure()
        owned = [(param, group) for group in self.param_groups for param in group["params"] if param.grad is not None]
        before = [param.clone() for param, _ in owned]
        sizes = [param.abs() + group["eta"] if group["adaptive"] else 1.0 for param, group in owned]
        scaled = [param.grad * size for (param, _), size in zip(owned, sizes, strict=True)]
        norm = torch.nn.utils.get_total_norm(scaled) + 1e-12
        for (param, group), size, one in zip(owned, sizes, scaled, strict=True):
            param.add_(one * size * (group["rho"] / norm))
        try:
            with torch.enable_grad():
                closure()
        finally:
            for (param, _), values in zip(owned, before, strict=True):
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
