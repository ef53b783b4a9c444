"""Autograd functions of EE-559's lecture 5.7, and layers made of them.

Each has a reverse-mode and a forward-mode rule, made of differentiable operations: they can be mapped by
`torch.func.vmap` and differentiated any number of times, in all modes but one. Forward mode over forward
mode (`jacfwd(jacfwd(f))`) is silently wrong in torch for any `Function` whose rule is not linear, so for
`absolute_product` (github.com/pytorch/pytorch/issues/197867): let one of the two be reverse.

    outputs = kill_head(inputs, 2)          # as functions
    products = absolute_product(u, v)
    model = nn.Sequential(nn.Linear(8, 8), KillHead(2), AbsoluteProduct(), nn.Linear(4, 1))   # as layers
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function


class KillHeadFunction(Function):
    """Rules of `kill_head`: linear, and its own transpose, so all three are the same."""

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, n: int) -> Tensor:
        outputs = inputs.clone()
        outputs[..., :n] = 0
        return outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.n = inputs[1]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return KillHeadFunction.apply(cotangent, ctx.n), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return KillHeadFunction.apply(tangent, ctx.n)


class AbsoluteProductFunction(Function):
    """Rules of `absolute_product`: d|u v| = sign(u) |v| du + sign(v) |u| dv, with sign(0) = 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).abs()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        u, v = ctx.saved_tensors
        return cotangent * u.sign() * v.abs(), cotangent * v.sign() * u.abs()

    @staticmethod
    def jvp(ctx: Any, tangent_u: Tensor, tangent_v: Tensor) -> Tensor:
        u, v = ctx.saved_tensors
        return tangent_u * u.sign() * v.abs() + tangent_v * v.sign() * u.abs()


def kill_head(inputs: Tensor, n: int) -> Tensor:
    """The inputs (..., D) with the first n of their last D components zeroed, forward and backward.

    Args:
        inputs: (..., D).
        n: how many components (0 to D).

    Raises:
        ValueError: n outside 0 to D.

    Source: F. Fleuret, EE-559 Deep Learning, EPFL, lecture 5.7.
    """
    if not 0 <= n <= inputs.shape[-1]:
        raise ValueError(f"n must be between 0 and the {inputs.shape[-1]} components, got {n}")
    return KillHeadFunction.apply(inputs, n)


def absolute_product(u: Tensor, v: Tensor) -> Tensor:
    """|u v|, component by component.

    Where a factor is 0, the derivative in that factor is taken as 0, the middle of the subgradients.

    Args:
        u, v: of the same shape.

    Raises:
        ValueError: different shapes.

    Source: F. Fleuret, EE-559 Deep Learning, EPFL, lecture 5.7.
    """
    if u.shape != v.shape:
        raise ValueError(f"u and v must have the same shape, got {tuple(u.shape)} and {tuple(v.shape)}")
    return AbsoluteProductFunction.apply(u, v)


class KillHead(nn.Module):
    """`kill_head` as a layer: (..., D) -> (..., D).

    Args:
        n: how many leading components are zeroed (0 to D).

    Raises:
        ValueError: n negative, or, with inputs, greater than D.
    """

    def __init__(self, n: int) -> None:
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        super().__init__()
        self.n = n

    def forward(self, inputs: Tensor) -> Tensor:
        return kill_head(inputs, self.n)

    def extra_repr(self) -> str:
        return f"n={self.n}"


class AbsoluteProduct(nn.Module):
    """`absolute_product` of the two halves of the last dimension: (..., 2 H) -> (..., H), as in `nn.GLU`.

    Raises:
        ValueError: with inputs, an odd number of components.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.shape[-1] % 2:
            raise ValueError(f"inputs must have an even number of components, got {inputs.shape[-1]}")
        return absolute_product(*torch.chunk(inputs, 2, dim=-1))
