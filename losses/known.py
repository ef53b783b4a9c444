"""What the first passes of a model show, looked at once: mixed examples, lost paths, wrong derivatives of torch's.

A derivative that torch gives as none stands for zero only where the outputs do not move with the point. Nothing goes by
the class of a layer: what counts is what a derivative says.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .forward import Inputs, points_of
from .passes import call_with, recording, undisturbed

PASSES = 3  # that are looked at: what `torch.jit.script` has compiled drops tangents from its second call on
MIXED = 1e-6  # share of a derivative by other examples that is no rounding
WRONG = 1e-2  # relative difference of two ways to one derivative that is no rounding, in float32


@dataclass
class Known:
    """What is known of a model in one mode: each of its modules in training or in evaluation.

    Attributes:
        passes: how many were looked at.
        carried: how many of these carried a tangent.
        carries: its forward mode can be trusted.
        needs_formulas: it calls functions that lack a derivative, which a formula replaces.
        is_twice_differentiable: so far as autograd says; it raises an error else.
        apart: whether the derivative of one example's outputs by another example is zero; None: not seen yet.
        criterion: the identity of the one that was looked at last.
        constant: pairs (of, point) of which the first does not depend on the second.
        is_seen_eager: a functional pass had it looked at by an eager one, paths included.
    """

    passes: int = 0
    carried: int = 0
    carries: bool = True
    needs_formulas: bool = False
    is_twice_differentiable: bool = False
    apart: bool | None = None
    criterion: int = 0
    constant: set[tuple[str, str]] = field(default_factory=set)
    is_seen_eager: bool = False

    @property
    def is_watched(self) -> bool:
        """Tell whether the next pass is to be looked at, or needs its formulas."""
        return self.needs_formulas or self.passes < PASSES


_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[bool, ...], Known]] = WeakKeyDictionary()


def known_of(model: nn.Module) -> Known:
    """Return what is known of a model in the mode in which it is."""
    modes = _KNOWN.get(model)
    if modes is None:
        modes = _KNOWN[model] = {}
    mode = tuple(module.training for module in model.modules())  # a batch norm alone may be in another one
    if mode not in modes:
        modes[mode] = Known()
    return modes[mode]


def check_losses(losses: Tensor, batch: int) -> None:
    """Raise ValueError, in one sentence, unless there is one loss for each example, (B,)."""
    if losses.shape != (batch,):
        fix = 'write reduction="none"' if losses.ndim == 0 else "take its mean over the rest, losses.flatten(1).mean(1)"
        raise ValueError(
            f"the criterion must return the loss of each example, ({batch},), got shape {tuple(losses.shape)}: {fix}"
        )


def check_criterion(compute: Callable[[Tensor], Tensor], outputs: Tensor, takes_each: bool) -> None:
    """Raise ValueError, in one sentence, if losses mix examples, or move with the outputs and have no derivative.

    Args:
        compute: gives the losses of outputs to which a change is added.
        takes_each: a penalty takes each example by itself, which must not mix then.
    """
    losses = compute(torch.zeros_like(outputs))
    if takes_each and check_rows(losses, [outputs]) is False:
        raise ValueError(
            "the criterion must take the loss of each example from its own outputs, and mixes them: take what is of "
            "the batch, such as a mean, out of it"
        )
    if not losses.requires_grad and moves(compute, outputs):
        raise ValueError(
            "the derivative of the losses by the outputs is lost in the criterion: write it from differentiable "
            "operations, without no_grad, detach or argmax"
        )


def check_rows(outputs: Tensor, points: Sequence[Tensor]) -> bool | None:
    """Tell whether no example's outputs depend on another one's point; None if there is nothing to tell it by.

    The outputs of every second example are differentiated, by the points of the others.
    """
    is_odd = torch.arange(len(outputs), device=outputs.device) % 2 == 1
    seen = False
    for some in (is_odd, ~is_odd):
        cotangent = signs_like(outputs) * some.view(-1, *[1] * (outputs.ndim - 1))
        for product in derivative([outputs], points, [cotangent]) if len(outputs) > 1 and points else ():
            if product is not None and product.isfinite().all():
                sizes = product.detach().abs().flatten(1).amax(1) if product.ndim > 1 else product.detach().abs()
                if sizes[~some].max() > MIXED * sizes.max():
                    return False
                seen = seen or bool(sizes.max() > 0)
    return True if seen else None


def signs_like(tensor: Tensor) -> Tensor:
    """Return fixed numbers of both signs, all between 1/2 and 1 in size, shaped like a tensor; nothing is drawn."""
    numbers = torch.arange(tensor.numel(), device=tensor.device, dtype=torch.float64) * 2.4
    return (numbers.cos().sign() * (0.75 + 0.25 * (1.7 * numbers).sin())).to(tensor.dtype).view(tensor.shape)


def derivative(
    of: Sequence[Tensor], at: Sequence[Tensor], cotangents: Sequence[Tensor], create_graph: bool = False
) -> tuple[Tensor | None, ...]:
    """Return vector-Jacobian products; None where autograd knows no path.

    Raises:
        ValueError: for a model that torch cannot differentiate, in one sentence.
    """
    if not at or not all(tensor.requires_grad for tensor in of):
        return (None,) * len(at)
    cotangents = [tensor.clone() if tensor.is_inference() else tensor for tensor in cotangents]
    try:
        return torch.autograd.grad(of, at, cotangents, create_graph=create_graph, retain_graph=True, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if "Mismatch in shape" in str(error):
            raise
        raise ValueError(cannot(str(error))) from error


def cannot(reason: str) -> str:
    """Return the sentence for a model that torch cannot differentiate, with the fix for the causes that are known."""
    fix = next((fix for part, fix in FIXES.items() if part in reason), None)
    line = reason.strip().splitlines()[0].rstrip(".") if reason.strip() else "no reason given"
    return f"torch cannot differentiate this model as the penalty needs it: {line}" + (f": {fix}" if fix else "")


FIXES = {
    "use_reentrant": "write checkpoint(..., use_reentrant=False)",
    "torch.utils.checkpoint": "a part under checkpoint computes attention, whose kernel must be the same when it is "
    "computed again: begin the program with torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or leave checkpoint out",
    "once_differentiable": "write that function's backward without once_differentiable, from differentiable operations",
    "Inference tensors": "make the model and its inputs outside of torch.inference_mode()",
}


def no_derivative(name: str) -> str:
    """Return the sentence for a point that is made of integers."""
    return f"{name} are integers, which have no derivative: name a layer behind them, such as at=embedding"


def check_twice_differentiable(outputs: Tensor, at: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """Raise ValueError if the derivative of a derivative is lost, or torch has none."""
    products = [p for p in derivative([outputs], at, [signs_like(outputs)], create_graph=True) if p is not None]
    if any(name == "torch::autograd::Error" for name in _nodes(products)):
        functions = sorted(_once_differentiable(outputs)) or ["a function"]
        raise ValueError(
            f"the model must have a second derivative, and {', '.join(functions)} has a backward marked "
            "once_differentiable, whose own derivative autograd leaves out: write it from differentiable operations"
        )
    varying = [product for product in products if product.requires_grad]
    if varying:
        derivative(varying, [*at, *params], [signs_like(product) for product in varying])


def _nodes(tensors: Sequence[Tensor]) -> Iterator[str]:
    return (node.name() for node in _graph(tensors))


def _graph(tensors: Sequence[Tensor]) -> Iterator[Any]:
    waiting, seen = [tensor.grad_fn for tensor in tensors], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            yield node


def _once_differentiable(outputs: Tensor) -> Iterator[str]:
    for node in _graph([outputs]):
        backward = getattr(getattr(node, "_forward_cls", None), "backward", None)
        if hasattr(backward, "__wrapped__"):  # the mark wraps it
            yield node.name().removesuffix("Backward")


def carries_rightly(carried: Tensor | None, reverse: Tensor, params: Sequence[Tensor], scale: Tensor) -> bool:
    """Tell whether a tangent carried by forward mode, and its derivative, are those of two reverse passes.

    Args:
        carried, reverse: J t, by both ways.
        scale: a size of J t without cancellation.
    """
    if carried is None:
        return not reverse.requires_grad
    if not (carried.isfinite().all() and reverse.isfinite().all()):
        return True  # a run that diverges: nothing can be told
    if (carried - reverse).norm() > torch.maximum(WRONG * reverse.norm(), 1e-4 * scale):
        return False
    cotangent = signs_like(reverse)
    try:
        ours = derivative([carried], params, [cotangent])
        theirs = derivative([reverse], params, [cotangent])
    except ValueError:
        return False
    first, second = flat(ours, params), flat(theirs, params)
    return bool((first - second).norm() <= WRONG * second.norm())


def flat(products: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Return products by some tensors as one vector, zeros for none."""
    tensors = [torch.zeros_like(t) if p is None else p for p, t in zip(products, like, strict=True)]
    return torch.cat([tensor.detach().flatten() for tensor in tensors]) if tensors else torch.zeros(1)


def moves(compute: Callable[[Tensor], Tensor], point: Tensor) -> bool:
    """Tell whether the outputs of most examples move with a point: `compute` gives them with a change added to it."""
    step = 0.02 if point.dtype in (torch.half, torch.bfloat16) else 1e-3
    change = step * (1 + point.detach().abs()) * signs_like(point)
    before, after = compute(torch.zeros_like(point)), compute(change)
    rows = (before != after).flatten(1).any(1) if before.ndim > 1 else before != after
    return bool(rows.double().mean() > 0.5)


def lost_in(model: nn.Module, inputs: Inputs) -> str:
    """Return the innermost layer that is given something differentiable and returns something that is not."""

    def loses(module: nn.Module, arguments: Any, output: Any) -> bool:
        return _tracked(arguments) and not _tracked(output)

    return first_layer(model, inputs, loses)


def mixed_in(model: nn.Module, inputs: Inputs) -> str:
    """Return the innermost layer in which the examples mix."""

    def mixes(module: nn.Module, arguments: Any, output: Any) -> bool:
        given = [t for t in tree_leaves(arguments) if isinstance(t, Tensor) and t.requires_grad and t.ndim]
        results = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad and t.ndim]
        return any(
            check_rows(result, [tensor]) is False
            for result in results
            for tensor in given
            if len(result) == len(tensor)
        )

    return first_layer(model, inputs, mixes)


def _tracked(values: Any) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in tree_leaves(values))


def first_layer(model: nn.Module, inputs: Inputs, is_it: Callable[[nn.Module, Any, Any], bool]) -> str:
    """Return the first layer to end of which `is_it(layer, (args, kwargs), output)`, or "the model's own forward"."""
    names: list[str] = []
    busy: list[bool] = []  # is_it may call layers

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple, keywords: dict, output: Any) -> None:
            if not names and not busy:
                busy.append(True)
                if is_it(module, (arguments, keywords), output):
                    names.append(f"{name} ({type(module).__name__})")
                busy.clear()

        return hook

    device = next(iter(points_of(inputs).values())).device
    with undisturbed(model, device), recording():
        hooks = [
            module.register_forward_hook(look(name), with_kwargs=True) for name, module in model.named_modules() if name
        ]
        try:
            call_with(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()
    return names[0] if names else "the model's own forward"
