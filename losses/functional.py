"""The forward pass as a pure function of the parameters, for `torch.func`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .forward import Forward
from .passes import TorchDraws, quiet_start, run
from .penalty import Penalty, declared_tangents, layers_of


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
        self.params, self._owners = dict(params), owners_of(model)
        self.tangents = declared_tangents(penalties, self)
        self._draws = TorchDraws(inputs.device)
        self.taps = self._zeros(layers_of(penalties))
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

        with quiet_start(), self._draws.replayed():
            product = torch.func.jvp(differentiated, (self.inputs,), (direction,))[1]
        return product if create_graph else product.detach()

    def loss_gradient(self) -> Tensor:
        losses, pullback = torch.func.vjp(  # type: ignore[misc]
            lambda outputs: self.criterion(outputs, self.targets), self.outputs
        )
        return pullback(torch.ones_like(losses))[0]

    def _zeros(self, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return a zero for each layer, added to its activation: the derivative by it is that by the activation."""
        if not layers:
            return {}
        with self._draws.replayed():
            activations = self._run(self.params, self.inputs, dict.fromkeys(layers))["activations"]
        return {name: torch.zeros_like(activation) for name, activation in activations.items()}

    def _run(self, params: Mapping[str, Tensor], inputs: Tensor, taps: Mapping[str, Tensor | None]) -> dict:
        tensors = {name: params[owner] for name, owner in self._owners.items() if owner in params}

        def call(inputs: Tensor) -> Tensor:
            return torch.func.functional_call(self.model, tensors, (inputs,), tie_weights=False)

        outputs, activations = run(self.model, inputs, tuple(taps), call, taps)
        return {"outputs": outputs, "activations": activations}


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
