"""Torch's own optimizers on stacked parameters."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from losses.parameters import StackedParameter, for_models

FACTORS = ("lr", "weight_decay")  # options that are numbers for each model; models share the others, or have pieces
KERNELS = ("foreach", "fused", "capturable", "differentiable", "maximize")  # of torch's optimizers, by default here


class _Piece(NamedTuple):
    """The part of a stacked parameter that belongs to successive models with the same options."""

    param: StackedParameter
    models: slice
    own: list[Tensor]  # the models' own parameters
    move: Tensor  # what torch's optimizer updates


class StackedOptimizer(Optimizer):
    """Updates the parameters of K models as the optimizer of each would.

    Torch's optimizer of the same class, with lr = 1, works on zeros that have the gradients of the parameters: what it
    makes of them is the direction, along which each model moves by its own lr. Weight decay, for which the parameters
    are needed, is applied here. Models with other options (momentum, betas) are other parameter groups of torch's.

    Args:
        optimizers: of each model, of one class whose steps are elementwise and proportional to lr.
        params: the stacked parameters of each parameter group.
        clips: for each model the largest norm of its gradient; None for all.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        params: Sequence[Sequence[StackedParameter]],
        clips: Sequence[float | None],
    ) -> None:
        self.optimizers = optimizers
        columns = list(zip(*(optimizer.param_groups for optimizer in optimizers), strict=True))
        factors = [{key: _numbers(column, key, params[0][0]) for key in FACTORS} for column in columns]
        super().__init__([{"params": own, **each} for own, each in zip(params, factors, strict=True)], {})
        self.clips = None if clips[0] is None else _tensor(clips, params[0][0])
        self.moves = {param: torch.zeros_like(param).detach() for own in params for param in own}
        self.decays = any(bool(each["weight_decay"].any()) for each in factors)
        self.decoupled = isinstance(optimizers[0], AdamW)
        self.pieces: list[_Piece] = []
        kind: Any = type(optimizers[0])
        groups = []
        fused = {"fused": True} if "fused" in inspect.signature(kind).parameters else {}
        for stack, column in zip(params, columns, strict=True):
            for models, options in _runs(column):
                pieces = [self._piece(param, index, models, column) for index, param in enumerate(stack)]
                self.pieces += pieces
                groups.append({**options, **fused, "params": [piece.move for piece in pieces], "weight_decay": 0.0})
        self.torchs = kind(groups, lr=1.0)
        self.gather()

    def _piece(self, param: StackedParameter, index: int, models: slice, column: Sequence[dict[str, Any]]) -> _Piece:
        own = [group["params"][index] for group in column[models]]
        return _Piece(param, models, own, self.moves[param][models])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Make one step on the gradients that the closure computes."""
        with torch.enable_grad():
            objective = closure()
        if self.clips is not None:
            self._clip(self.clips)
        gradients = {param: self._decayed(param, group) for group in self.param_groups for param in group["params"]}
        for piece in self.pieces:
            piece.move.zero_()
            piece.move.grad = gradients[piece.param][piece.models]
        self.torchs.step()
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for param in group["params"]:
                if self.decays and self.decoupled:
                    param.mul_(for_models(1 - lr * decay, param))
                param.addcmul_(self.moves[param], for_models(lr, param))
        return objective

    def _decayed(self, param: StackedParameter, group: dict[str, Any]) -> Tensor:
        assert param.grad is not None
        if self.decoupled or not self.decays:
            return param.grad
        return param.grad.addcmul(param, for_models(group["weight_decay"], param))

    def _clip(self, clips: Tensor) -> None:
        gradients = [param.grad for param in self.moves if param.grad is not None]
        squares = torch.stack([gradient.square().flatten(1).sum(1) for gradient in gradients]).sum(0)
        factors = (clips / (squares.sqrt() + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(for_models(factors, gradient))

    def gather(self) -> None:
        """Take over the states of the models' own optimizers; where a model has none, zeros."""
        for piece in self.pieces:
            states = [
                optimizer.state.pop(own, {})
                for optimizer, own in zip(self.optimizers[piece.models], piece.own, strict=True)
            ]
            if any(states):
                self.torchs.state[piece.move] = _stacked(states)

    def scatter(self) -> None:
        """Give the models' own optimizers their states and learning rates, and their parameters the gradients."""
        for piece in self.pieces:
            state = self.torchs.state.get(piece.move, {})
            optimizers = self.optimizers[piece.models]
            for index, (optimizer, own) in enumerate(zip(optimizers, piece.own, strict=True)):
                if state:
                    optimizer.state[own] = {key: _of_one(value, index, piece) for key, value in state.items()}
                if piece.param.grad is not None:
                    own.grad = piece.param.grad[piece.models][index].clone()
        for number, group in enumerate(self.param_groups):
            for optimizer, lr in zip(self.optimizers, group["lr"].tolist(), strict=True):
                optimizer.param_groups[number]["lr"] = lr


def _tensor(values: Sequence[Any], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def _numbers(column: Sequence[dict[str, Any]], key: str, like: Tensor) -> Tensor:
    return _tensor([group.get(key, 0.0) for group in column], like)


def _runs(column: Sequence[dict[str, Any]]) -> Iterator[tuple[slice, dict[str, Any]]]:
    left_out = ("params", *FACTORS, *KERNELS)
    options = [{key: value for key, value in group.items() if key not in left_out} for group in column]
    for _, run in groupby(range(len(column)), key=options.__getitem__):
        first, *others = run
        yield slice(first, first + 1 + len(others)), options[first]


def _stacked(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = next(state for state in states if state)
    return {
        key: torch.stack([state.get(key, torch.zeros_like(value)) for state in states])
        if isinstance(value, Tensor) and value.dim()
        else value
        for key, value in known.items()
    }


def _of_one(value: Any, index: int, piece: _Piece) -> Any:
    if not isinstance(value, Tensor):
        return value
    return (value[index] if value.shape == piece.move.shape else value).clone()
