"""Tangent Prop: derivatives along given directions in input space are brought to given values."""

from typing import Any

import torch
from torch import Tensor

from .forward import Forward, Tangent
from .penalty import Penalty, is_input, of_layers, squared_norm, total


class TangentProp(Penalty):
    """The mean squared error of directional derivatives, mean_n sum_k ||J(x_n) t_k(x_n) - K_k(x_n)||^2.

    K = 0, the default, makes the outputs invariant along the tangents. Any number of tangents costs one
    Jacobian-vector product, carried by the forward pass of the data loss: they are mixed, per example, with
    random signs e_k, and E ||J sum_k e_k t_k - sum_k e_k K_k||^2 = sum_k ||J t_k - K_k||^2. With one tangent
    the value is exact.

    Args:
        tangents: inputs (B, *I) -> tangents (K, B, *I). If it has K as its `len` and a method
            `combined(inputs, signs (K, B))` -> (B, *I), that gives the mixture, which may cost less than its
            terms. If it has `derivatives_at(inputs)` -> (K, B, C) or (K, B, 1) or None, that gives K_k.
        exact: the sum over k by K products, without random signs.
        at: what is moved along the tangents: "inputs", one of several inputs, "inputs.NAME", or a layer.

    Raises:
        ValueError: for a value out of range; in use, for tangents or derivatives of another shape.

    Source: Simard, Victorri, LeCun, Denker 1991, "Tangent Prop", NIPS 4.
    """

    per_example = True
    wants_smooth = True

    def __init__(self, *, tangents: Any, exact: bool = False, at: str = "inputs") -> None:
        self.tangents, self.exact, self.at, self.layers = tangents, exact, at, of_layers(at)

    def tangent(self, forward: Forward) -> Tangent | None:
        return None if self.exact or not is_input(self.at) else self._mixed(forward)

    def _mixed(self, forward: Forward) -> Tangent:
        """Return the tangents mixed with random signs, and the derivative wanted along the mixture."""
        inputs = forward.point(self.at)
        if hasattr(self.tangents, "combined"):
            signs = mixing_signs(forward, inputs, len(self.tangents))
            direction = self.tangents.combined(inputs, signs)
            check_shape(direction.unsqueeze(0), inputs)
        else:
            tangents = self._tangents(inputs)
            signs = mixing_signs(forward, inputs, len(tangents))
            direction = torch.einsum("kb,kb...->b...", signs, tangents)
        return Tangent(direction, torch.einsum("kb,kb...->b...", signs, self._derivatives(inputs, len(signs))), self.at)

    def __call__(self, forward: Forward) -> Tensor:
        if not self.exact:
            direction, derivative, at = forward.tangents[self] if self in forward.tangents else self._mixed(forward)
            return squared_error(forward.jvp(direction, at=at), derivative)
        point = forward.point(self.at)
        tangents = self._tangents(point)
        pairs = zip(tangents, self._derivatives(point, len(tangents)), strict=True)
        return total(squared_error(forward.jvp(t, at=self.at), derivative) for t, derivative in pairs)

    def _tangents(self, inputs: Tensor) -> Tensor:
        return check_shape(self.tangents(inputs.detach()), inputs)

    def _derivatives(self, inputs: Tensor, count: int) -> Tensor:
        """Return K_k(x_n), (K, B, C or 1)."""
        given = self.tangents.derivatives_at(inputs.detach()) if hasattr(self.tangents, "derivatives_at") else None
        if given is None:
            return inputs.new_zeros(count, len(inputs), 1)
        if given.ndim != 3 or given.shape[:2] != (count, len(inputs)):
            got = tuple(given.shape)
            raise ValueError(f"derivatives must have the shape (K, B, C) = ({count}, {len(inputs)}, C), got {got}")
        return given


def squared_error(products: Tensor, derivative: Any) -> Tensor:
    """Return ||J t - K||^2 of each example, for J t (B, *O) and K (B, C) or (B, 1), C the number of outputs."""
    flat = products.reshape(len(products), -1)
    return squared_norm(flat - derivative.reshape(len(products), -1))


def mixing_signs(forward: Forward, inputs: Tensor, count: int) -> Tensor:
    """Return e_k for each example, +-1, (K, B); for one tangent, whose sign is idle, ones that cost no draw."""
    return forward.signs(count) if count > 1 else inputs.new_ones(1, len(inputs))


def check_shape(tangents: Tensor, inputs: Tensor) -> Tensor:
    """Return the tangents; raise ValueError unless they are K >= 1 for each input, (K, B, *I)."""
    if tangents.shape[1:] != inputs.shape or not len(tangents):
        wanted = ", ".join(map(str, ("K", *inputs.shape)))
        raise ValueError(f"tangents must have the shape (K, B, *I) = ({wanted}), got {tuple(tangents.shape)}")
    return tangents
