"""What passes through each layer: activations on the way forward, gradients on the way back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from runner.evaluation.probes import Probe, Subject


class Signal(Probe):
    """Mean squares, layer by layer, of activations and gradients on training examples.

    `activation/<layer>`: mean over examples n and units of h_l(x_n)^2, h_l the output of an innermost layer;
    `gradient/<layer>`: the same of d l_n / d h_l(x_n), of each example's own loss;
    `weight_gradient/<parameter>`: mean over entries of (d mean_n l_n / d w)^2, of parameters of two dimensions or more.
    A linear layer's h_l is the pre-activation, that of the layer behind it the activation. The model is in evaluation
    mode. Of a layer that is used several times, the mean over its uses.

    At initialisation, with fan-in N, zero biases and the identity as activation, E h_l^2 = N V(w) E h_(l-1)^2: 1/3 of
    it for torch's own initialisation, 1 for Xavier's in square layers; with relu half of that.

    Args:
        examples: how many training examples, the first ones, in one pass (>= 1).

    Source: Glorot and Bengio 2010, AISTATS, section 4.2.1; lecture EE-559 5.5.
    """

    def __init__(self, examples: int = 500) -> None:
        super().__init__(examples)

    def __call__(self, subject: Subject) -> dict[str, float | Tensor]:
        split = subject.dataset.train[: self.examples]
        with _outputs_of_layers(subject.model) as outputs:
            losses = subject.criterion(subject.model(split.inputs.detach().clone().requires_grad_()), split.targets)
        weights = {name: p for name, p in subject.model.named_parameters() if p.requires_grad and p.dim() > 1}
        points = [*(use for uses in outputs.values() for use in uses), *weights.values()]
        found = iter(torch.autograd.grad(losses.sum(), points, materialize_grads=True))
        numbers = {f"activation/{name}": _mean_square(uses) for name, uses in outputs.items()}
        numbers |= {f"gradient/{name}": _mean_square([next(found) for _ in uses]) for name, uses in outputs.items()}
        numbers |= {f"weight_gradient/{name}": _mean_square([next(found) / len(losses)]) for name in weights}
        return dict(numbers)


@contextmanager
def _outputs_of_layers(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the outputs of the innermost layers while the context lasts, in the order of their first use.

    The model goes on with a copy, since what follows may work in place.
    """
    outputs: dict[str, list[Tensor]] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        def record(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor | None:
            if not (isinstance(output, Tensor) and output.requires_grad):
                return None
            outputs.setdefault(name, []).append(output)
            return output.clone()

        return record

    innermost = {name: module for name, module in model.named_modules() if not any(True for _ in module.children())}
    hooks = [module.register_forward_hook(recorder(name)) for name, module in innermost.items()]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _mean_square(tensors: list[Tensor]) -> float:
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors]).square().mean().item()
