"""One forward pass, shared by the data loss and every penalty, and the linear maps that differentiate it.

Shapes, here and in all of `losses`: B batch, C outputs, *I one input, *H one hidden activation.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad

from losses.penalty import Penalty, Tangent


class Forward(ABC):
    """The record of one forward pass.

    Attributes:
        inputs: (B, *I).
        targets: (B,) class labels or (B, C) values.
        outputs: (B, C).
        losses: (B,), the criterion of each example.
        params: the model's trainable parameters by name.
        activations: layer name -> (B, *H), for the layers that some penalty asked for.
        tangents: penalty -> the tangent that it declared before the pass.
        generator: the source of random directions, on the device of the inputs; None for torch's own.
    """

    inputs: Tensor
    targets: Tensor
    outputs: Tensor
    losses: Tensor
    params: dict[str, Tensor]
    activations: dict[str, Tensor]
    tangents: dict[Penalty, Tangent]
    generator: Generator | None

    @abstractmethod
    def vjp(
        self,
        cotangent: Tensor,
        at: Sequence[str] = ("inputs",),
        of: str = "outputs",
        create_graph: bool = True,
    ) -> tuple[Tensor, ...]:
        """Return the vector-Jacobian products (d of / d point)^T cotangent, one tensor per point.

        At the inputs or a layer, row n is the derivative of example n alone, provided that the model does not
        mix examples; at a parameter it is the sum over the batch.

        Args:
            cotangent: shaped like `of`.
            at: points of differentiation: "inputs", names of recorded layers, names of parameters.
            of: what is differentiated: "outputs" or a recorded layer.
            create_graph: False for a value that is to be held constant (a stopped gradient).
        """

    @abstractmethod
    def jvp(self, direction: Tensor, of: str = "outputs", create_graph: bool = True) -> Tensor:
        """Return the Jacobian-vector products (d of / d x_n) t_n, shaped like `of`.

        Free for the direction of the first tangent in `tangents`; a forward-mode pass for any other.

        Args:
            direction: (B, *I).
            of: what is differentiated: "outputs" or a recorded layer.
            create_graph: False for a value that is to be held constant.
        """

    @abstractmethod
    def loss_gradient(self) -> Tensor:
        """Return d losses / d outputs, (B, C), differentiable."""


class EagerForward(Forward):
    """A forward pass by autograd, for a training loop that calls `backward`.

    Args:
        model: the module; called once, with a dual number if a penalty declares a tangent.
        criterion: (outputs, targets) -> losses (B,).
        inputs, targets: the batch.
        penalties: asked for their layers and tangents before the pass.
        generator: for the random directions of the penalties.

    Example, in a loop of your own::

        penalty = Jacobian(weight=0.01)
        forward = EagerForward(model, CrossEntropy(), inputs, targets, [penalty])
        objective = forward.losses.mean() + penalty.weight * penalty(forward)
        optimizer.zero_grad()
        objective.backward(inputs=list(forward.params.values()))
        optimizer.step()

    `backward(inputs=...)` keeps the tracked input, which costs nothing that way, out of the backward pass.
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
        self.model, self.targets, self.generator = model, targets, generator
        self.params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.tangents = declared_tangents(penalties, inputs, generator)
        self.inputs = inputs.detach().requires_grad_()
        self._layers = layers_of(penalties)
        self._products: list[tuple[Tensor, dict[str, Tensor]]] = []  # found again by the direction's identity
        if self.tangents:
            self.activations = self._dual_pass(next(iter(self.tangents.values())).direction)
            self.outputs = self.activations.pop("outputs")
        else:
            with recorded(model, self._layers) as self.activations:
                self.outputs = model(self.inputs)
        self.losses = criterion(self.outputs, targets)

    def vjp(
        self,
        cotangent: Tensor,
        at: Sequence[str] = ("inputs",),
        of: str = "outputs",
        create_graph: bool = True,
    ) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            self._point(of),
            [self._point(name) for name in at],
            cotangent,
            create_graph=create_graph,
            retain_graph=True,
            materialize_grads=True,
        )

    def jvp(self, direction: Tensor, of: str = "outputs", create_graph: bool = True) -> Tensor:
        for known, products in self._products:
            if known is direction:
                return products[of] if create_graph else products[of].detach()
        if create_graph:
            self._dual_pass(direction)
            return self._products[-1][1][of]
        with torch.no_grad():
            self._dual_pass(direction)
        return self._products.pop()[1][of]  # not kept: a later call may want the graph

    def loss_gradient(self) -> Tensor:
        return torch.autograd.grad(self.losses.sum(), self.outputs, create_graph=True)[0]

    def _point(self, name: str) -> Tensor:
        if name in ("inputs", "outputs"):
            return getattr(self, name)
        return self.activations[name] if name in self.activations else self.params[name]

    def _dual_pass(self, direction: Tensor) -> dict[str, Tensor]:
        """Return layers and outputs, and keep J direction of each, from one forward-mode pass with a graph.

        Once the level is left they are ordinary tensors again.
        """
        with forward_ad.dual_level(), recorded(self.model, self._layers) as record:
            with quiet_start():
                dual = forward_ad.make_dual(self.inputs, direction)
            record["outputs"] = self.model(dual)
            self._products.append((direction, {name: tangent_part(dual) for name, dual in record.items()}))
        return record


class FunctionalForward(Forward):
    """A forward pass by `torch.func`, a pure function of `params`: it nests in `grad`, `vmap`, `jacrev`.

    Args:
        params: name -> tensor; the parameters of `model` are not read.
        Others as in `EagerForward`.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Mapping[str, Tensor],
        criterion: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        penalties: Sequence[Penalty] = (),
        generator: Generator | None = None,
    ) -> None:
        self.model, self.criterion = model, criterion
        self.inputs, self.targets, self.generator = inputs, targets, generator
        self.params = dict(params)
        self.tangents = declared_tangents(penalties, inputs, generator)
        layers = layers_of(penalties)
        shapes = self._run(self.params, inputs, dict.fromkeys(layers))["activations"] if layers else {}
        # A zero added to an activation: the derivative by it is the derivative by the activation.
        self.taps = {name: torch.zeros_like(activation) for name, activation in shapes.items()}
        record, self._pullback = torch.func.vjp(self._run, self.params, inputs, self.taps)  # type: ignore[misc]
        self.outputs, self.activations = record["outputs"], record["activations"]
        self.losses = criterion(self.outputs, targets)

    def vjp(
        self,
        cotangent: Tensor,
        at: Sequence[str] = ("inputs",),
        of: str = "outputs",
        create_graph: bool = True,
    ) -> tuple[Tensor, ...]:
        cotangents: dict[str, Any] = {
            "outputs": torch.zeros_like(self.outputs),
            "activations": {name: torch.zeros_like(tap) for name, tap in self.taps.items()},
        }
        (cotangents if of == "outputs" else cotangents["activations"])[of] = cotangent
        by_params, by_inputs, by_taps = self._pullback(cotangents)
        products = {"inputs": by_inputs, **by_params, **by_taps}
        return tuple(products[name] if create_graph else products[name].detach() for name in at)

    def jvp(self, direction: Tensor, of: str = "outputs", create_graph: bool = True) -> Tensor:
        def differentiated(inputs: Tensor) -> Tensor:
            record = self._run(self.params, inputs, {} if of == "outputs" else {of: None})
            return record["outputs"] if of == "outputs" else record["activations"][of]

        with quiet_start():
            product = torch.func.jvp(differentiated, (self.inputs,), (direction,))[1]
        return product if create_graph else product.detach()

    def loss_gradient(self) -> Tensor:
        losses, pullback = torch.func.vjp(  # type: ignore[misc]
            lambda outputs: self.criterion(outputs, self.targets), self.outputs
        )
        return pullback(torch.ones_like(losses))[0]

    def _run(self, params: Mapping[str, Tensor], inputs: Tensor, taps: Mapping[str, Tensor | None]) -> dict:
        with recorded(self.model, tuple(taps), taps) as activations:
            outputs = torch.func.functional_call(self.model, dict(params), (inputs,))
        return {"outputs": outputs, "activations": activations}


def declared_tangents(
    penalties: Sequence[Penalty], inputs: Tensor, generator: Generator | None
) -> dict[Penalty, Tangent]:
    """Ask each penalty, in order, for the tangent that it wants carried through the pass."""
    declared = {penalty: penalty.tangent(inputs, generator) for penalty in penalties}
    return {penalty: tangent for penalty, tangent in declared.items() if tangent is not None}


def layers_of(penalties: Sequence[Penalty]) -> tuple[str, ...]:
    """Return the layers that the penalties ask for, each once, without the inputs."""
    return tuple(dict.fromkeys(name for p in penalties for name in p.layers if name != "inputs"))


@contextmanager
def recorded(
    model: nn.Module, layers: Sequence[str], taps: Mapping[str, Tensor | None] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the named layers, a tap added where one is given, while the context lasts."""
    activations: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        def record(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            tap = taps.get(name) if taps else None
            activations[name] = output if tap is None else output + tap
            return activations[name]

        return record

    hooks = [layer(model, name).register_forward_hook(recorder(name)) for name in layers]
    try:
        yield activations
    finally:
        for hook in hooks:
            hook.remove()


def layer(model: nn.Module, name: str) -> nn.Module:
    """Return the model's layer of that name.

    Raises:
        ValueError: if there is none; the sentence lists those that there are.
    """
    layers = {known: module for known, module in model.named_modules() if known}
    if name not in layers:
        raise ValueError(f"layers must name layers of the model ({', '.join(layers)}), got {name}")
    return layers[name]


def tangent_part(dual: Tensor) -> Tensor:
    """Return a dual number's tangent, as zeros where it carries none (a constant)."""
    primal, tangent = forward_ad.unpack_dual(dual)
    return torch.zeros_like(primal) if tangent is None else tangent


@contextmanager
def quiet_start() -> Iterator[None]:
    """Silence what torch 2.15 warns itself of when forward mode is first used, while the context lasts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        yield
