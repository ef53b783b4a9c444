"""One pass of a model: its record of layers, its draws, and the ways of torch that have all derivatives."""

import copy
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad
from torch.backends import cuda, cudnn, mha, mkldnn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

Inputs = Tensor | tuple | dict  # of a model: one tensor, or several by position or by name


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


def points_of(inputs: Inputs) -> dict[str, Tensor]:
    """Return the inputs by the name under which a penalty asks for them: "inputs", or "inputs.0" or "inputs.NAME"."""
    if isinstance(inputs, Tensor):
        return {"inputs": inputs}
    several = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    return {f"inputs.{name}": tensor for name, tensor in several}


def with_points(inputs: Inputs, points: Mapping[str, Tensor]) -> Inputs:
    """Return inputs of the same form with the tensors of `points`, named as by `points_of`."""
    if isinstance(inputs, Tensor):
        return points["inputs"]
    if isinstance(inputs, dict):
        return {name: points[f"inputs.{name}"] for name in inputs}
    return tuple(points[f"inputs.{index}"] for index in range(len(inputs)))


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


@contextmanager
def differentiable() -> Iterator[None]:
    """Have models compute by kernels of which torch knows all derivatives, while the context lasts.

    Attention by the mathematical kernel: no other has a second derivative. Parts that `torch.compile` has compiled run
    as they are written: compiled code has no second derivative either.
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
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def hard_sigmoid(inputs: Tensor, inplace: bool = False) -> Tensor:
    """Return min(max(inputs + 3, 0), 6) / 6: torch's own has no second derivative."""
    return F.relu6(inputs + 3) / 6


# Normalisations by their definitions: where the derivative of a directional derivative is taken, torch's own hold mean
# and deviation constant without a word (layer_norm, instance_norm), or have no third derivative (batch_norm).


def normalised(values: Tensor, dims: range, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Return (values - mean) / sqrt(variance + eps) * weight + bias, over `dims`, the variance biased."""
    centred = values - values.mean(tuple(dims), keepdim=True)
    values = centred * (centred.square().mean(tuple(dims), keepdim=True) + eps).rsqrt()
    values = values if weight is None else values * weight
    return values if bias is None else values + bias


def layer_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """Return the inputs normalised over their last dimensions."""
    return normalised(input, range(-len(normalized_shape), 0), weight, bias, eps)


def instance_norm(
    input: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return the inputs normalised over the pixels of each channel, or by running statistics."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:  # which torch moves on
        F.instance_norm(input.detach(), running_mean, running_var, None, None, True, momentum, eps)
    return normalised(input, range(2, input.ndim), _by_channel(input, weight), _by_channel(input, bias), eps)


def batch_norm(
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return the inputs normalised by running statistics; by those of the batch as torch does it."""
    if training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, True, momentum, eps)
    gain = (running_var + eps).rsqrt() if weight is None else weight * (running_var + eps).rsqrt()
    shift = -running_mean * gain if bias is None else bias - running_mean * gain
    return input * _by_channel(input, gain) + _by_channel(input, shift)


def _by_channel(input: Tensor, numbers: Tensor | None) -> Any:
    return None if numbers is None else numbers.view(-1, *[1] * (input.ndim - 2))


FORMULAS: dict[Callable, Callable] = {  # in the place of functions that lack a derivative, or whose derivative is wrong
    F.hardsigmoid: hard_sigmoid,
    F.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    F.instance_norm: instance_norm,
    F.batch_norm: batch_norm,
}
RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


class Watch(TorchFunctionMode):
    """Put formulas in the place of functions that lack derivatives, and carry tangents through those that have them.

    Where torch has no forward mode the tangent is dropped, and `is_carried` is false: the outputs are right.
    An affine layer y = A x + b carries it by the layer itself without b, dy = A dx, the same bits: torch's own rule
    adds a tangent of zeros for b and asks Python code for the shape of the sum, 0.2 ms for each layer, as much as all
    else that a small network computes.
    """

    LAYERS = (F.linear, torch.conv1d, torch.conv2d, torch.conv3d)

    def __init__(self) -> None:
        super().__init__()
        self.is_carried, self.is_needed = True, False

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in self.LAYERS and len(args) >= 3 and not kwargs:
            return _affine(func, *args)
        if func is torch.baddbmm and len(args) == 3 and not kwargs:
            return _stacked_layers(*args)
        if func in FORMULAS:
            self.is_needed = True
            return FORMULAS[func](*args, **(kwargs or {}))
        if func in RECURRENT:
            self.is_needed = True
            with _plain_kernels():
                return func(*args, **(kwargs or {}))
        try:
            return func(*args, **(kwargs or {}))
        except NotImplementedError:  # torch says so where there is no forward mode
            return self._without_tangents(func, args, kwargs)

    def _without_tangents(self, func: Callable, args: tuple, kwargs: dict[str, Any] | None) -> Any:
        def primal(value: Any) -> Any:
            return forward_ad.unpack_dual(value).primal if isinstance(value, Tensor) else value

        self.is_carried = False
        return func(*tree_map(primal, args), **tree_map(primal, kwargs or {}))


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Leave out cuDNN (recurrent kernels without second derivative) and oneDNN (LSTM without forward mode)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration", UserWarning)  # torch 2.15 warns itself
        with cudnn.flags(enabled=False), mkldnn.flags(enabled=False):
            yield


def _affine(func: Callable, inputs: Tensor, weight: Tensor, bias: Tensor | None, *options: Any) -> Tensor:
    primal, tangent = forward_ad.unpack_dual(inputs)
    constants = [tensor for tensor in (weight, bias) if tensor is not None]
    if tangent is None or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in constants):
        return func(inputs, weight, bias, *options)
    outputs = func(primal, weight, bias, *options)
    return forward_ad.make_dual(outputs, func(tangent, weight, None, *options))


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
