"""Are a model's derivatives, and those of the penalties, what a finite difference says? Looked at before training."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map

from .eager import EagerForward, as_module, tracked
from .forward import Inputs, points_of, with_points
from .functional import FunctionalForward
from .known import derivative, first_layer, flat, known_of, mixed_in, signs_like
from .passes import recording, run, undisturbed
from .penalty import Penalty

MOVES = (0.05, 0.03)  # of inputs and weights, relative to their sizes
STEPS = (3e-7, 1e-7, 3e-8)  # of finite differences, in float64; a kink spoils one, and seldom another
AGREES = 1e-3  # relative difference from a finite difference in float64, for a few kinks among many weights


def verify(
    model: nn.Module | Callable[..., Any],
    criterion: Callable[[Tensor, Tensor], Tensor],
    inputs: Inputs,
    targets: Tensor,
    penalties: Sequence[Penalty],
    *,
    output: str | int | None = None,
    examples: int = 4,
) -> None:
    """Check that penalties, and their gradients by the weights, are right on this model; raise ValueError if not.

    In float64, inputs and weights a little moved (off kinks, and off weights of zero), for fixed v, t, u and draws:

        rows       outputs, losses and the penalty's values have one for each example, and examples do not mix
        model      v^T J t by autograd                   = (v^T f(x + h t) - v^T f(x - h t)) / 2 h
        penalty    <d value / d w, u> by autograd        = (value(w + h u) - value(w - h u)) / 2 h
        functional the same value by `FunctionalForward` = by `EagerForward`

    A derivative is refused only if two of three h agree with each other and none with it, at two points: a kink may be
    near. The model is left as it was. The gradient is not looked at of a penalty that `holds_constant`, nor where a
    pass changes the next one's function, as with spectral norm, whose own gradient is right in the limit alone.

    Args:
        model, criterion, inputs, targets, output: as in `EagerForward`.
        penalties: each is checked by itself; a user's own as well.
        examples: how many, the first ones (>= 2).

    Raises:
        ValueError: one sentence with the penalty, the layer or weight, got, expected, the cause to look for.
    """
    module = as_module(model)
    few, wanted = tree_map(lambda tensor: tensor[:examples].detach(), (inputs, targets))
    for penalty in penalties:
        with recording():
            _verify_one(module, criterion, few, wanted, penalty, output)
        known_of(module).passes = 0  # the next penalty, and the training, ask for other things
        if known_of(module).apart is False and penalty.per_example and penalty.tolerates_batch_norm:
            mixing = f"the examples of a batch mix in {mixed_in(module, tree_map(tracked, few))}"
            warnings.warn(f"{type(penalty).__name__}: {mixing}: the derivatives are those of the batch", stacklevel=2)


def _verify_one(module: nn.Module, criterion: Any, few: Inputs, wanted: Tensor, penalty: Penalty, output: Any) -> None:
    device = next(iter(points_of(few).values())).device
    try:
        for move in MOVES:
            with _in_float64(module, device, move):
                moved = tree_map(partial(_moved, move=move), few)
                check = _Check(module, criterion, moved, _wide(wanted), penalty, output)
                wrong = check.model() or check.penalty()
            if wrong is None:
                return
        raise ValueError(wrong)
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and not isinstance(error.__cause__, RuntimeError):
            raise
        # A network, criterion or penalty for one precision alone: its rows can be seen, and whether it has a gradient.
        with undisturbed(module, device):
            check = _Check(module, criterion, few, wanted, penalty, output)
            value = check.value(check.forward(check.inputs))
            derivative([value], [*check.params.values()], [torch.ones_like(value)])


class _Check:
    """The check of one penalty: a function of the weights and the inputs, which draws the same numbers each time."""

    def __init__(
        self, model: nn.Module, criterion: Any, inputs: Inputs, targets: Tensor, penalty: Penalty, output: Any
    ):
        self.net, self.criterion, self.inputs, self.targets, self.term = model, criterion, inputs, targets, penalty
        self.output, self.name = output, type(penalty).__name__
        self.buffers = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
        learned = model.named_parameters()
        self.params = {name: p for name, p in learned if p.requires_grad and p.is_floating_point()}

    def forward(self, inputs: Inputs, params: dict[str, Tensor] | None = None) -> Any:
        torch.manual_seed(0)
        generator = Generator(next(iter(points_of(inputs).values())).device).manual_seed(0)
        given = self.criterion, inputs, self.targets, [self.term], generator, self.output
        for module, buffers in self.buffers:
            module._buffers.update({name: None if b is None else b.clone() for name, b in buffers.items()})
        return EagerForward(self.net, *given) if params is None else FunctionalForward(self.net, params, *given)

    def value(self, forward: Any) -> Tensor:
        value = self.term(forward)
        if value.shape not in ((), (forward.rows,)):
            raise ValueError(
                f"{self.name} must return one value for each example, ({forward.rows},), or one for all, (), got "
                f"{tuple(value.shape)}"
            )
        return value.sum()

    def model(self) -> str | None:
        """Return a sentence if the outputs' derivative along a direction of the penalty's inputs is not right."""
        points, forward = points_of(self.inputs), self.forward(self.inputs)
        is_exact = forward.outputs.dtype == torch.float64  # and not a precision of the model's own
        if not (is_exact and self.term.per_example and self.term.at in points):
            return None
        (back,) = forward.vjp(signs_like(forward.outputs), (self.term.at,), create_graph=False)
        direction = signs_like(points[self.term.at].flip(0)) / 2

        def moved(step: float) -> Tensor:
            inputs = with_points(self.inputs, points | {self.term.at: points[self.term.at] + step * direction})
            with torch.no_grad():
                outputs = self.forward(inputs).outputs
            return (signs_like(outputs) * outputs).sum()

        got = (back * direction).sum()
        if (expected := _differs(got, moved)) is None:
            return None
        return (
            f"{self.name} takes the derivative of the outputs by the {self.term.at}, which is not right in "
            f"{first_layer(self.net, forward.inputs, _is_wrong)}: along one direction autograd gives {got:.6g}, a "
            f"finite difference {expected:.6g}; look there for detach, no_grad, .data or a backward of one's own"
        )

    def penalty(self) -> str | None:
        """Return a sentence if the penalty's derivative by the weights, along a direction, is not right."""
        value = self.value(self.forward(self.inputs))
        again = self.functional_value()
        if again is not None and again.dtype == torch.float64 and (again - value).abs() > 1e-6 * (value.abs() + 1e-6):
            raise ValueError(f"{self.name} is {value:.6g} by EagerForward and {again:.6g} by FunctionalForward")
        if self.term.holds_constant or not self.term.in_objective or not self.params or self.is_moving():
            return None
        params = list(self.params.values())
        gradients = derivative([value], params, [torch.ones_like(value)])
        sizes = {name: param.detach().square().mean().sqrt() for name, param in self.params.items()}
        return self.compare({name: sizes[name] * signs_like(param) for name, param in self.params.items()}, gradients)

    def functional_value(self) -> Tensor | None:
        try:
            return self.value(self.forward(self.inputs, dict(self.net.named_parameters())))
        except Exception:  # a network that `torch.func` cannot take: then nobody uses it so
            return None

    @torch.no_grad()
    def is_moving(self) -> bool:
        """Tell whether a pass changes the outputs of the next one."""
        first = self.forward(self.inputs).outputs
        torch.manual_seed(0)
        return not torch.equal(first, run(self.net, self.inputs, output=self.output)[0])

    def compare(self, directions: dict[str, Tensor], gradients: Sequence[Tensor | None]) -> str | None:
        params = list(self.params.values())
        got = (flat(gradients, params) * flat(list(directions.values()), params)).sum()
        if _differs(got, partial(self.value_at, directions)) is None:
            return None
        for (name, direction), gradient in zip(directions.items(), gradients, strict=True):
            alone = got.new_zeros(()) if gradient is None else (gradient * direction).sum()
            if (expected := _differs(alone, partial(self.value_at, {name: direction}))) is not None:
                return (
                    f"the gradient of {self.name} by {name} is not right: along one direction autograd gives "
                    f"{alone:.6g}, a finite difference {expected:.6g}; look for detach, no_grad, .data or a backward "
                    "of one's own, in the penalty or the model (a penalty that leaves a part out on purpose says "
                    "holds_constant = True)"
                )

        return None

    def value_at(self, directions: dict[str, Tensor], step: float) -> Tensor:
        """Return the penalty's value with some weights moved."""
        with torch.no_grad():
            for name, direction in directions.items():
                self.params[name].add_(direction, alpha=step)
        try:
            return self.value(self.forward(self.inputs)).detach()
        finally:
            with torch.no_grad():
                for name, direction in directions.items():
                    self.params[name].sub_(direction, alpha=step)


def _is_wrong(layer: nn.Module, arguments: tuple[tuple, dict], output: Any) -> bool:
    """Tell whether a layer's own derivative by its first input is not what a finite difference says."""
    args, kwargs = arguments
    if not (args and isinstance(args[0], Tensor) and args[0].requires_grad and isinstance(output, Tensor)):
        return False

    def along(point: Tensor) -> Tensor:
        torch.manual_seed(0)
        outputs = layer.forward(point.clone(), *args[1:], **kwargs)
        return (signs_like(outputs) * outputs).sum()

    point = args[0].detach().requires_grad_()
    direction = signs_like(point)
    (gradient,) = derivative([along(point)], [point], [torch.ones((), dtype=output.dtype, device=output.device)])
    got = output.new_zeros(()) if gradient is None else (gradient * direction).sum()
    return _differs(got, lambda step: along(point.detach() + step * direction)) is not None


def _differs(got: Tensor, function: Callable[[float], Tensor]) -> Tensor | None:
    """Return the finite difference, if those of two steps agree, and none with the derivative."""
    seen: list[Tensor] = []
    for step in STEPS:
        up, down = function(step), function(-step)
        expected, noise = (up - down) / (2 * step), 1e-15 * (up.abs() + down.abs()) / step
        if not expected.isfinite() or _agree(got, expected, noise, AGREES):
            return None
        if any(_agree(other, expected, noise, AGREES / 10) for other in seen):
            return expected
        seen.append(expected)
    return None


def _agree(first: Tensor, second: Tensor, noise: Tensor, relative: float) -> bool:
    return bool((first - second).abs() <= relative * torch.maximum(first.abs(), second.abs()) + noise)


@contextmanager
def _in_float64(model: nn.Module, device: torch.device, move: float) -> Iterator[None]:
    """Have the model in float64, its weights a little moved, and as it was after the context."""
    weights = [(param, param.data) for param in model.parameters()]
    try:
        with undisturbed(model, device):
            for param, values in weights:
                param.data = _moved(values, move)
            for module in model.modules():
                attributes = vars(module)
                for tensors in (module._buffers, attributes):
                    tensors.update({name: _wide(t) for name, t in tensors.items() if type(t) is Tensor})
            yield
    finally:
        for param, values in weights:
            param.data = values


def _moved(tensor: Tensor, move: float) -> Tensor:
    """Return a tensor in float64, off the kinks: equal pixels in a pool, weights of zero before a ReLU."""
    wide = _wide(tensor)
    return wide + move * signs_like(wide) * (wide.abs() + 0.2) if tensor.is_floating_point() else wide


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.detach().to(torch.complex128, copy=True)
    return tensor.detach().to(torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True)
