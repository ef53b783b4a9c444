"""What both kinds of forward pass share: the record of layers, the draws of the model, kernels with all derivatives."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad
from torch.backends import cuda, mha
from torch.overrides import TorchFunctionMode


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


def run(
    model: nn.Module,
    inputs: Tensor,
    layers: Sequence[str],
    call: Callable[[Tensor], Tensor] | None = None,
    taps: Mapping[str, Tensor | None] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the model's outputs, which penalties can differentiate, and the outputs of its layers by name.

    Args:
        model: the module.
        inputs: (B, *I); a copy is handed on, since the first layer may work in place.
        layers: names of the layers to record.
        call: what to call in the place of the model (null: itself), for other parameters than its own.
        taps: layer name -> (B, *H), what to add to its output.

    Raises:
        ValueError: if the model's output is not one tensor; and as `recorded`.
    """
    with differentiable(model), recorded(model, layers, len(inputs), taps) as record:
        outputs = one_tensor((call or model)(inputs.clone()))
    return outputs, record


def one_tensor(outputs: object) -> Tensor:
    """Return a model's outputs; raise ValueError, in one sentence, unless they are one tensor."""
    if not isinstance(outputs, Tensor):
        kind = type(outputs).__name__
        raise ValueError(f"the model must return one tensor, got a {kind}: leave out auxiliary outputs")
    return outputs


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


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Have the model compute in the ways of which torch knows all derivatives, while the context lasts.

    Attention by the mathematical kernel: no other has a second and a forward-mode derivative. Hard sigmoids by their
    formula: torch's own has no second derivative.
    """
    with ExitStack() as stack:
        for set_enabled, enabled in (
            (cuda.enable_flash_sdp, cuda.flash_sdp_enabled()),
            (cuda.enable_mem_efficient_sdp, cuda.mem_efficient_sdp_enabled()),
            (cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled()),
            (mha.set_fastpath_enabled, mha.get_fastpath_enabled()),
        ):
            stack.callback(set_enabled, enabled)
            set_enabled(False)
        for module in model.modules():
            if type(module) is nn.Hardsigmoid and "forward" not in vars(module):
                stack.callback(delattr, module, "forward")
                module.forward = hard_sigmoid  # type: ignore[method-assign, assignment]
        yield


def hard_sigmoid(inputs: Tensor) -> Tensor:
    """Return min(max(inputs + 3, 0), 6) / 6."""
    return nn.functional.relu6(inputs + 3) / 6


class AffineTangents(TorchFunctionMode):
    """Carry tangents through an affine layer y = A x + b by the layer itself without b: dy = A dx, the same bits.

    Torch's own rule adds a tangent of zeros for b and asks Python code for the shape of the sum: 0.2 ms for each layer,
    as much as all else that a small network computes.
    """

    LAYERS = (nn.functional.linear, torch.conv1d, torch.conv2d, torch.conv3d)

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.LAYERS and len(args) >= 3 and not kwargs:
            inputs, weight, bias, *options = args
            primal, tangent = forward_ad.unpack_dual(inputs)
            constants = [each for each in (weight, bias) if each is not None]
            if tangent is not None and all(forward_ad.unpack_dual(each).tangent is None for each in constants):
                outputs = func(primal, weight, bias, *options)
                return forward_ad.make_dual(outputs, func(tangent, weight, None, *options))
        if func is torch.baddbmm and len(args) == 3 and not kwargs:
            return _stacked_layers(*args)
        return func(*args, **(kwargs or {}))


def _stacked_layers(bias: Tensor, inputs: Tensor, weight: Tensor) -> Tensor:
    """Return the outputs of K linear layers, values and tangents by one product, whose backward is one, too."""
    primal, tangent = forward_ad.unpack_dual(inputs)
    if tangent is None or any(forward_ad.unpack_dual(each).tangent is not None for each in (bias, weight)):
        return torch.baddbmm(bias, inputs, weight)
    outputs, tangents = torch.bmm(torch.cat((primal, tangent), 1), weight).chunk(2, 1)
    return forward_ad.make_dual(outputs + bias, tangents)


@contextmanager
def quiet_start() -> Iterator[None]:
    """Silence what torch 2.15 warns itself of when forward mode is first used, while the context lasts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
        yield
