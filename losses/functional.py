"""The forward pass as a pure function of the parameters, for `torch.func`."""

from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map

from .eager import EagerForward, as_module
from .forward import Forward, Inputs, points_of, with_points
from .kernels import Watch
from .known import check_losses, known_of, no_derivative, signs_like
from .passes import run, undisturbed
from .penalty import Penalty, any_differentiates, declared_tangents, layers_of


class FunctionalForward(Forward):
    """A forward pass by `torch.func`, a pure function of `params`: it nests in `grad`, `vmap`, `jacrev`.

    Args:
        params: name -> tensor; the parameters of `model` are not read.
        Others as in `EagerForward`.

    Raises:
        ValueError: as `EagerForward`, by one pass of that kind for the first inputs that `vmap` does not batch.
    """

    def __init__(
        self,
        model: nn.Module | Callable[..., Any],
        params: Mapping[str, Tensor],
        criterion: Callable[[Tensor, Tensor], Tensor],
        inputs: Inputs,
        targets: Tensor,
        penalties: Sequence[Penalty] = (),
        generator: Generator | None = None,
        output: str | int | None = None,
    ) -> None:
        self.model, self.criterion, self._output = as_module(model), criterion, output
        self.inputs, self.targets, self.generator = inputs, targets, generator
        self.params, self._owners = dict(params), owners_of(self.model)
        if any_differentiates(penalties) and not known_of(self.model).is_seen_eager:
            self._look(penalties)
        self.tangents = declared_tangents(penalties, self)
        self.taps = self._zeros(layers_of(penalties))
        points = {name: t for name, t in points_of(inputs).items() if t.is_floating_point() or t.is_complex()}
        record, self._pullback = torch.func.vjp(self._run, self.params, points, self.taps)  # type: ignore[misc]
        self.outputs, self.activations = record["outputs"], record["activations"]
        self.losses = criterion(self.outputs, targets)
        check_losses(self.losses, self.rows)

    def vjp(
        self,
        cotangent: Tensor,
        at: Sequence[str] = ("inputs",),
        of: str = "outputs",
        create_graph: bool = True,
    ) -> tuple[Tensor, ...]:
        products = self._pulled_back(cotangent, of)
        for name in at:
            if name not in products:
                raise ValueError(no_derivative(name))
        return tuple(products[name] if create_graph else products[name].detach() for name in at)

    def jvp(self, direction: Tensor, of: str = "outputs", create_graph: bool = True, at: str = "inputs") -> Tensor:
        zero = torch.zeros_like(self.point(of))
        _, forwards = torch.func.vjp(lambda cotangent: self._pulled_back(cotangent, of)[at], zero)  # type: ignore[misc]
        product = forwards(direction)[0]
        return product if create_graph else product.detach()

    def loss_gradient(self) -> Tensor:
        losses, pullback = torch.func.vjp(  # type: ignore[misc]
            lambda outputs: self.criterion(outputs, self.targets), self.outputs
        )
        return pullback(torch.ones_like(losses))[0]

    def point(self, name: str) -> Tensor:
        if name == "outputs":
            return self.outputs
        known = points_of(self.inputs) | getattr(self, "activations", {}) | self.params
        if name not in known:
            raise ValueError(
                f"at must name one of {', '.join(points_of(self.inputs))}, a layer, a parameter, got {name}"
            )
        return known[name]

    def _pulled_back(self, cotangent: Tensor, of: str) -> dict[str, Tensor]:
        cotangents: dict[str, Any] = {
            "outputs": torch.zeros_like(self.outputs),
            "activations": {name: torch.zeros_like(tap) for name, tap in self.taps.items()},
        }
        (cotangents if of == "outputs" else cotangents["activations"])[of] = cotangent
        by_params, by_points, by_taps = self._pullback(cotangents)
        return {**by_points, **by_params, **by_taps}

    def _zeros(self, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return a zero for each layer, added to its activation: the derivative by it is that by the activation."""
        if not layers:
            return {}
        with undisturbed(self.model, self._first.device):
            activations = self._run(self.params, {}, dict.fromkeys(layers))["activations"]
        return {name: torch.zeros_like(activation) for name, activation in activations.items()}

    def _run(self, params: Mapping[str, Tensor], points: dict[str, Tensor], taps: Mapping[str, Tensor | None]) -> dict:
        tensors = {name: params[owner] for name, owner in self._owners.items() if owner in params}

        def call(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(self.model, tensors, args, kwargs, tie_weights=False)

        inputs = with_points(self.inputs, points_of(self.inputs) | points)
        with Watch():
            outputs, activations = run(self.model, inputs, tuple(taps), self._output, call, taps)
        return {"outputs": outputs, "activations": activations}

    def _look(self, penalties: Sequence[Penalty]) -> None:
        """Look at the model once, as `EagerForward` does, in a thread, since `torch.func` forbids it within its own."""
        inputs, targets = tree_map(plain, (self.inputs, self.targets))
        held = [*points_of(inputs).values(), targets]
        if any(t is None for t in held) or any(param.is_meta for param in self.model.parameters()):
            return  # batched by vmap, or a skeleton: nothing to compute with
        errors: list[Exception] = []

        def look() -> None:
            try:
                generator = torch.Generator(self._first.device).manual_seed(0)
                with undisturbed(self.model, self._first.device):
                    forward = EagerForward(
                        self.model, self.criterion, inputs, targets, penalties, generator, self._output
                    )
                    at = [name for penalty in penalties for name in (penalty.at, *penalty.layers)]
                    if any(penalty.per_example for penalty in penalties):
                        forward.vjp(signs_like(forward.outputs), at=at)
            except Exception as error:
                errors.append(error)

        thread = Thread(target=look)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        known_of(self.model).is_seen_eager = True


def plain(tensor: Tensor) -> Tensor | None:
    """Return the tensor that the transforms of `torch.func` have wrapped; None if `vmap` batches it."""
    inner = torch.func.debug_unwrap(tensor, recurse=True)
    return inner.detach() if inner.shape == tensor.shape else None


def owners_of(model: nn.Module) -> dict[str, str]:
    """Return, for each place where a module holds a parameter, the name by which `named_parameters` knows it.

    torch's own `tie_weights` counts a module that is used twice as two, and leaves it with the wrong tensors.
    """
    known = {param: name for name, param in model.named_parameters()}
    return {
        f"{prefix}.{name}" if prefix else name: known[param]
        for prefix, module in model.named_modules()
        for name, param in module.named_parameters(recurse=False, remove_duplicate=False)
    }
