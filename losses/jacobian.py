"""Penalties on the Jacobian of the outputs, or of a layer, by the inputs."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .forward import Forward, Tangent
from .penalty import Penalty, is_input, of_layers, one_of, positive_or_null, squared_norm, total

Noise = Literal["rademacher", "sphere", "orthonormal"]
SECOND_DERIVATIVE = (
    "the spectral norm of the Jacobian has no second derivative here, since its singular vector is held constant: "
    "take Jacobian() where the gradient of the penalty is differentiated"
)


class Jacobian(Penalty):
    """The mean squared Frobenius norm of the input-output Jacobian, mean_n ||J(x_n)||_F^2.

    Estimated by ||J||_F^2 = E ||v^T J||^2 for random v with E v v^T = I, one v per example (one for the whole
    batch would have seven times the error), or exact, v running through the C unit vectors. Where D < C
    (regression on the line) by forward mode, ||J||_F^2 = E ||J t||^2, exact in D passes.

    Args:
        projections: random directions per example, >= 1, or null: exact. A number that spans the whole space
            is exact too.
        noise: "rademacher" (components +-1), "sphere" (independent directions, uniform), "orthonormal"
            (mutually orthogonal directions of length sqrt(C / n)), or null: rademacher for one projection,
            orthonormal for more, the least error in either case.
        of: what J is the Jacobian of: "outputs" (logits) or the name of a layer, flattened.
        mode: "reverse", "forward", or "auto": forward where D < C, and for D = 1, where forward mode is exact
            in the one pass that the data loss needs anyway.
        at: what it is taken by: "inputs", one of several inputs, "inputs.NAME", or a layer, such as the embedding of
            token ids.

    Raises:
        ValueError: for a value out of range.

    Source: Hoffman, Roberts, Yaida 2019, arXiv 1908.02729, algorithm 1. They write lam/2: their lam is twice
    our weight.
    """

    per_example = True
    wants_smooth = True
    prefers_contiguous = True

    def __init__(
        self,
        *,
        projections: int | None = 1,
        noise: Noise | None = None,
        of: str = "outputs",
        mode: Literal["auto", "reverse", "forward"] = "auto",
        at: str = "inputs",
    ) -> None:
        positive_or_null("projections", projections)
        one_of("noise", noise, ("rademacher", "sphere", "orthonormal", None))
        one_of("mode", mode, ("auto", "reverse", "forward"))
        if of == "inputs":
            raise ValueError("of must be outputs or the name of a layer, got inputs")
        self.projections, self.of, self.mode, self.at = projections, of, mode, at
        self.noise = noise or ("rademacher" if projections == 1 else "orthonormal")
        self.layers = of_layers(of, at)

    def tangent(self, forward: Forward) -> Tangent | None:
        """Declare a tangent if the value needs exactly one forward-mode direction."""
        if not is_input(self.at):
            return None
        point = forward.point(self.at)
        size = point[0].numel()
        forward_mode = self.mode == "forward" or (self.mode == "auto" and size == 1)
        if not (forward_mode and 1 in (size, self.projections)):
            return None
        return Tangent(next(self._directions(forward, point)), at=self.at)

    def __call__(self, forward: Forward) -> Tensor:
        if self in forward.tangents:
            return squared_norm(forward.jvp(forward.tangents[self].direction, self.of, at=self.at))
        point, values = forward.point(self.at), forward.point(self.of)
        if self.mode == "forward" or (self.mode == "auto" and point[0].numel() < values[0].numel()):
            tangents = self._directions(forward, point)
            return total(squared_norm(forward.jvp(tangent, self.of, at=self.at)) for tangent in tangents)
        cotangents = self._directions(forward, values)
        return total(squared_norm(forward.vjp(v, (self.at,), self.of)[0]) for v in cotangents)

    def _directions(self, forward: Forward, values: Tensor) -> Iterator[Tensor]:
        """Yield v_i shaped like `values` (B, *H) with sum_i v_i v_i^T = I, at least in expectation."""
        size = values[0].numel()
        if self.projections is None or self.projections >= size:
            return unit_vectors(values)
        return random_directions(forward, values, self.projections, self.noise)


class JacobianSpectral(Penalty):
    """The mean squared spectral norm of the input-output Jacobian, mean_n sigma_1(J(x_n))^2.

    With u the leading left singular vector, held constant, sigma_1^2 = ||u^T J||^2, and its gradient is that
    of sigma_1^2 too (as long as that singular value is simple). u is the leading eigenvector of the Gram
    matrix J J^T, from C vector-Jacobian products without a graph, or comes from power iteration u <- J J^T u
    with a random start, which gives a lower bound.

    Its second derivative would need that of u: it is refused.

    Args:
        iterations: steps of power iteration, >= 1, or null: exact, by the Gram matrix (best for few outputs).
        at: as in `Jacobian`.

    Raises:
        ValueError: for a value out of range.
        RuntimeError: when its gradient is differentiated (by a second backward, `torch.func.hessian`).

    Source: Johansson et al. 2022, arXiv 2206.13581.
    """

    per_example = True
    wants_smooth = True
    prefers_contiguous = True

    def __init__(self, *, iterations: int | None = None, at: str = "inputs") -> None:
        positive_or_null("iterations", iterations)
        self.iterations, self.at, self.layers = iterations, at, of_layers(at)
        self.holds_constant = iterations is not None  # of the singular vector, which is not exact then

    def __call__(self, forward: Forward) -> Tensor:
        direction = self._leading(forward) if self.iterations is None else self._iterated(forward, self.iterations)
        direction = HeldConstant.apply(direction, forward.outputs)
        return squared_norm(forward.vjp(direction, (self.at,))[0])

    def _leading(self, forward: Forward) -> Tensor:
        outputs = forward.outputs
        products = (forward.vjp(unit, (self.at,), create_graph=False)[0] for unit in unit_vectors(outputs))
        jacobian = torch.stack([product.reshape(len(product), -1) for product in products], dim=1)  # (B, C, D)
        gram = (jacobian @ jacobian.mT).nan_to_num(0, 0, 0)  # of a run that diverges: its loss tells, eigh would raise
        wide = gram.to(torch.promote_types(gram.dtype, torch.float32))  # eigh knows no half precision
        return torch.linalg.eigh(wide).eigenvectors[:, :, -1].to(outputs.dtype).view(outputs.shape)

    def _iterated(self, forward: Forward, iterations: int) -> Tensor:
        (direction,) = random_directions(forward, forward.outputs, 1, "sphere")
        for _ in range(iterations):
            direction = unit_length(forward.power_step(direction, unit_length, self.at))
        return direction


class HeldConstant(torch.autograd.Function):
    """A direction (B, C) that is a constant in the first derivative, where that is right, and refuses a second one.

    The outputs stand for all that the direction depends on.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(direction: Tensor, outputs: Tensor) -> Tensor:
        return direction.clone()

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        context.save_for_forward(inputs[1])

    @staticmethod
    def backward(context: Any, cotangent: Tensor) -> tuple[None, Tensor | None]:
        return None, Zero.apply(cotangent) if torch.is_grad_enabled() else None

    @staticmethod
    def jvp(context: Any, *tangents: Tensor) -> Tensor:
        return Zero.apply(*context.saved_tensors)


class Zero(torch.autograd.Function):
    """The gradient that is zero because a direction is held constant; its own derivative is not, and not known."""

    generate_vmap_rule = True

    @staticmethod
    def forward(varying: Tensor) -> Tensor:
        return torch.zeros_like(varying)

    @staticmethod
    def setup_context(context: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(context: Any, cotangent: Tensor) -> Tensor:
        raise RuntimeError(SECOND_DERIVATIVE)

    @staticmethod
    def jvp(context: Any, tangent: Tensor) -> Tensor:
        raise RuntimeError(SECOND_DERIVATIVE)


def unit_length(values: Tensor) -> Tensor:
    """Return each example's vector (B, ...) scaled to length 1, however short it is; zeros stay."""
    largest = values.abs().reshape(len(values), -1).amax(1).view(-1, *[1] * (values.ndim - 1))
    scaled = values / largest.where(largest > 0, 1)
    length = squared_norm(scaled).sqrt().view_as(largest)
    return scaled / length.where(length > 0, 1)


def unit_vectors(values: Tensor) -> Iterator[Tensor]:
    """Yield the unit vectors of one example's space, the same for all, shaped like `values` (B, *H)."""
    for index in range(values[0].numel()):
        unit = torch.zeros(len(values), values[0].numel(), dtype=values.dtype, device=values.device)
        unit[:, index] = 1
        yield unit.view(values.shape)


def random_directions(forward: Forward, values: Tensor, n: int, noise: Noise) -> Iterator[Tensor]:
    """Yield n random v_i, one per example, with E sum_i v_i v_i^T = I, shaped like `values` (B, *H)."""
    size = values[0].numel()
    drawn = forward.normal(size, n)
    if noise == "rademacher":
        directions = drawn.sign() / math.sqrt(n)
    elif noise == "sphere":
        directions = normalize(drawn, dim=1) * math.sqrt(size / n)
    else:
        directions = torch.linalg.qr(drawn).Q * math.sqrt(size / n)
    for direction in directions.to(values.dtype).unbind(-1):
        yield direction.reshape(values.shape)
