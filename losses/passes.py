"""One pass of a model: its outputs, its record of layers, its draws, and a pass beside it that leaves no trace."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from .forward import Inputs, points_of
from .kernels import differentiable


class TorchDraws:
    """The state of torch's own generators, from which a model draws by itself (dropout), when a pass begins.

    What runs the model again must differentiate the function of the first pass, so it draws the same numbers.

    Args:
        device: of the inputs; its generator is remembered beside that of the CPU.
        generators: others, whose states are remembered and restored with them.
    """

    def __init__(self, device: torch.device, *generators: Generator) -> None:
        self.others = [(generator, generator.get_state()) for generator in generators]
        self.devices = [device] if device.type == "cuda" else []
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(device) for device in self.devices]

    def restore(self) -> None:
        """Draw the same numbers from now on."""
        torch.set_rng_state(self.cpu)
        for device, state in zip(self.devices, self.cuda, strict=True):
            torch.cuda.set_rng_state(state, device)
        for generator, state in self.others:
            generator.set_state(state)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw the same numbers while the context lasts, and leave the generators as they were found."""
        with torch.random.fork_rng(devices=self.devices):
            self.restore()
            yield


State = list[tuple[nn.Module, dict[str, Any]]]  # the attributes of each module


def state_of(model: nn.Module) -> State:
    """Return a model's buffers and attributes as they are now; parameters stay the model's own."""
    return [(module, _own_copies(vars(module), hooks=True)) for module in model.modules()]


@contextmanager
def undisturbed(
    model: nn.Module, device: torch.device, hooks: bool = False, start: State | None = None
) -> Iterator[None]:
    """Have the model as it was, after the context: its draws, buffers and attributes.

    For a pass beside that of the step, which a user must not be able to tell: his hooks are called only with `hooks`.
    It begins from the state `start` (null: that of now).
    """
    draws = TorchDraws(device)
    saved = [(module, dict(vars(module))) for module in model.modules()]
    try:
        for module, attributes in start or saved:
            vars(module).update(_own_copies(attributes, hooks))
        with draws.replayed():
            yield
    finally:
        for module, attributes in saved:
            vars(module).clear()
            vars(module).update(attributes)


def _own_copies(attributes: Mapping[str, Any], hooks: bool) -> dict[str, Any]:
    return {name: _own_copy(name, value, hooks) for name, value in attributes.items()}


def _own_copy(name: str, value: Any, hooks: bool) -> Any:
    """Return a copy of what a pass may change in place; of hooks those of torch alone, such as those of weight norm."""
    if name == "_buffers":
        return {key: None if buffer is None else buffer.clone() for key, buffer in value.items()}
    if name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks") and not hooks:
        torchs = {key: hook for key, hook in value.items() if type(hook).__module__.startswith("torch.nn.utils")}
        return type(value)(torchs)
    if name == "_modules" or not isinstance(value, list | dict | set):
        return value
    return copy.copy(value)


@contextmanager
def recording() -> Iterator[None]:
    """Record the graph of what is computed, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def run(
    model: nn.Module,
    inputs: Inputs,
    layers: Sequence[str] = (),
    output: str | int | None = None,
    call: Callable[..., Any] | None = None,
    taps: Mapping[str, Tensor | None] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the model's outputs, which penalties can differentiate, and the outputs of its layers by name.

    Args:
        model: the module.
        inputs: (B, *I), or a tuple or a dict of such; copies are handed on, since the first layer may work in place.
        layers: names of the layers to record.
        output: which of several outputs: a key, an index, or the name of an attribute (null: there is one).
        call: what to call in the place of the model (null: itself), for other parameters than its own.
        taps: layer name -> (B, *H), what to add to its output.

    Raises:
        ValueError: if the model's output is not one tensor with a row for each example; and as `recorded`.
    """
    batch = len(next(iter(points_of(inputs).values())))
    with differentiable(), recorded(model, layers, batch, taps) as record:
        outputs = call_with(call or model, inputs)
    return one_tensor(outputs, output, batch), record


def call_with(call: Callable[..., Any], inputs: Inputs) -> Any:
    """Return what a model gives for copies of its inputs, given by position or by name."""
    if isinstance(inputs, Tensor):
        return call(inputs.clone())
    if isinstance(inputs, dict):
        return call(**{name: tensor.clone() for name, tensor in inputs.items()})
    return call(*(tensor.clone() for tensor in inputs))


def one_tensor(outputs: Any, output: str | int | None, batch: int) -> Tensor:
    """Return a model's outputs; raise ValueError, in one sentence, unless they are a tensor with a row per example."""
    kind = type(outputs).__name__
    if output is not None:
        try:
            outputs = getattr(outputs, output) if hasattr(outputs, str(output)) else outputs[output]  # type: ignore
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ValueError(f"output must name one of {_names(outputs)} of the model's {kind}, got {output}") from None
    if not isinstance(outputs, Tensor):
        fix = f"name the one to take, output={_names(outputs)}" if _names(outputs) else "take its tensor out of it"
        raise ValueError(f"the model must return one tensor, got a {kind}: {fix}")
    if outputs.ndim == 0 or len(outputs) != batch:
        shape = tuple(outputs.shape)
        raise ValueError(f"the model's outputs must have a row for each of the {batch} examples, got the shape {shape}")
    return outputs


def _names(outputs: Any) -> str:
    several = vars(outputs) if hasattr(outputs, "__dataclass_fields__") else outputs
    names = several if isinstance(several, dict) else range(len(several)) if isinstance(several, tuple | list) else ()
    return " or ".join(map(repr, names))


@contextmanager
def recorded(
    model: nn.Module, layers: Sequence[str], batch: int, taps: Mapping[str, Tensor | None] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the named layers, a tap added where one is given, while the context lasts.

    The model goes on with a copy: what works in place behind a layer (`ReLU(inplace=True)`, `+=`) changes that one.

    Args:
        model: called once while the context lasts.
        layers: names among `model.named_modules()`.
        batch: the number of examples B; a layer must have a row for each.
        taps: layer name -> (B, *H), what to add.

    Raises:
        ValueError: for a layer that is not there, is not called, or is called twice, or whose output is not one tensor
            with a row for each example.
    """
    activations: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
        def record(module: nn.Module, arguments: tuple, output: Tensor) -> Tensor:
            check_recordable(name, output, batch, is_known=name in activations)
            tap = taps.get(name) if taps else None
            if taps is None and not output.requires_grad and output.is_floating_point() and torch.is_grad_enabled():
                output = output.detach().requires_grad_()  # of frozen layers and token ids: a point all the same
            activations[name] = output if tap is None else output + tap
            return activations[name].clone()

        return record

    hooks = [layer(model, name).register_forward_hook(recorder(name)) for name in layers]
    try:
        yield activations
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in activations:
            raise ValueError(f"layers must name layers that the model calls, got {name}, which it does not call")


def check_recordable(name: str, output: object, batch: int, is_known: bool) -> None:
    """Raise ValueError, in one sentence, unless a layer's output is its only one and a tensor with B rows."""
    if is_known:
        raise ValueError(
            f"layers must name layers that the model calls once, got {name}, which it calls again: "
            "give each call a module of its own"
        )
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise ValueError(f"layers must name layers whose output is one tensor, got {name}, whose output is a {kind}")
    if output.ndim == 0 or len(output) != batch:
        shape = tuple(output.shape)
        raise ValueError(f"layers must have a row for each example, here {batch}, got {name} of shape {shape}")


def layer(model: nn.Module, name: str) -> nn.Module:
    """Return the model's layer of that name.

    Raises:
        ValueError: if there is none; the sentence lists those that there are.
    """
    layers = {known: module for known, module in model.named_modules() if known}
    if name not in layers:
        raise ValueError(f"layers must name layers of the model ({', '.join(layers)}), got {name}")
    return layers[name]
