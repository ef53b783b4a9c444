"""The forward pass of a training loop that calls `backward`."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad

from .forward import Forward
from .passes import AffineTangents, TorchDraws, one_tensor, quiet_start, run
from .penalty import Penalty, any_differentiates, declared_tangents, layers_of


class EagerForward(Forward):
    """A forward pass by autograd, for a training loop that calls `backward`.

    Args:
        model: the module; called once, with a dual number if a penalty declares a tangent.
        criterion: (outputs, targets) -> losses (B,).
        inputs, targets: the batch.
        penalties: those that will be evaluated; asked for their layers and tangents before the pass.
        generator: for the random numbers of the penalties (null: torch's own).

    Example, in a loop of your own::

        penalty = Jacobian()
        forward = EagerForward(model, CrossEntropy(), inputs, targets, [penalty])
        objective = forward.losses.mean() + 0.01 * penalty(forward).mean()
        optimizer.zero_grad()
        objective.backward(inputs=list(forward.params.values()))
        optimizer.step()

    Where a penalty differentiates the model, the pass tracks a copy of the inputs; `backward(inputs=...)` keeps it out
    of the backward pass, so that it costs nothing.

    Raises:
        ValueError: a layer is not there, the model returns more than one tensor, or, from `vjp` and `jvp`, none of
            `penalties` differentiates the model.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        penalties: Sequence[Penalty] = (),
        generator: Generator | None = None,
    ) -> None:
        self.model, self.inputs, self.targets, self.generator = model, inputs.detach(), targets, generator
        self.tangents, self.activations = {}, {}
        self._is_differentiable = any_differentiates(penalties)
        if self._is_differentiable:
            self._differentiable_pass(penalties)
        else:  # what such a pass prepares would take a twentieth of a small network's step
            self.outputs = one_tensor(model(self.inputs.clone()))  # the first layer may work in place
        self.losses = criterion(self.outputs, targets)

    def _differentiable_pass(self, penalties: Sequence[Penalty]) -> None:
        self.tangents = declared_tangents(penalties, self)
        self.inputs.requires_grad_()
        self._layers, self._draws = layers_of(penalties), TorchDraws(self.inputs.device)
        self._products: list[tuple[Tensor, dict[str, Tensor]]] = []  # found again by the direction's identity
        if self.tangents:
            self.activations = self._dual_pass(next(iter(self.tangents.values())).direction)
            self.outputs = self.activations.pop("outputs")
        else:
            self.outputs, self.activations = run(self.model, self.inputs, self._layers)

    @cached_property
    def params(self) -> dict[str, Tensor]:  # type: ignore[override]
        # Late: few penalties ask for them, and with a small network it takes a fiftieth of a step.
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def vjp(
        self,
        cotangent: Tensor,
        at: Sequence[str] = ("inputs",),
        of: str = "outputs",
        create_graph: bool = True,
    ) -> tuple[Tensor, ...]:
        self._check_differentiable()
        return torch.autograd.grad(
            self._point(of),
            [self._point(name) for name in at],
            cotangent,
            create_graph=create_graph,
            retain_graph=True,
            materialize_grads=True,
        )

    def jvp(self, direction: Tensor, of: str = "outputs", create_graph: bool = True) -> Tensor:
        self._check_differentiable()
        for known, products in self._products:
            if known is direction:
                return products[of] if create_graph else products[of].detach()
        with self._draws.replayed(), torch.set_grad_enabled(create_graph):
            self._dual_pass(direction)
        # Without a graph it is not kept: a later call may want one.
        return self._products[-1][1][of] if create_graph else self._products.pop()[1][of]

    def loss_gradient(self) -> Tensor:
        return torch.autograd.grad(self.losses.sum(), self.outputs, create_graph=True)[0]

    def _check_differentiable(self) -> None:
        if not self._is_differentiable:
            raise ValueError(
                "penalties must name each penalty that will be evaluated, got none that differentiates the model: "
                "write EagerForward(..., penalties=[penalty]); one that calls vjp or jvp must not set of_weights"
            )

    def _point(self, name: str) -> Tensor:
        if name in ("inputs", "outputs"):
            return getattr(self, name)
        return self.activations[name] if name in self.activations else self.params[name]

    def _dual_pass(self, direction: Tensor) -> dict[str, Tensor]:
        """Return layers and outputs, and keep J direction of each, from one forward-mode pass with a graph.

        Once the level is left they are ordinary tensors again.
        """
        with forward_ad.dual_level():
            with quiet_start():
                dual = forward_ad.make_dual(self.inputs, direction)
            with AffineTangents():
                outputs, record = run(self.model, dual, self._layers)
            record["outputs"] = outputs
            self._products.append((direction, {name: tangent_part(dual) for name, dual in record.items()}))
        return record


def tangent_part(dual: Tensor) -> Tensor:
    """Return a dual number's tangent, as zeros where it carries none (a constant)."""
    primal, tangent = forward_ad.unpack_dual(dual)
    return torch.zeros_like(primal) if tangent is None else tangent
