"""What both kinds of forward pass share: the record of layers, the start of forward mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


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


@contextmanager
def quiet_start() -> Iterator[None]:
    """Silence what torch 2.15 warns itself of when forward mode is first used, while the context lasts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        yield
