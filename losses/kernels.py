"""The ways through torch that have all derivatives: other kernels, and formulas where torch's own are wrong."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.backends import cuda, cudnn, mha, mkldnn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


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
