"""The forward pass of a training loop that calls `backward`."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad

from .forward import Forward, Inputs, Tangent, points_of, with_points
from .kernels import Watch, quiet_start
from .known import (
    PASSES,
    cannot,
    carries_rightly,
    check_criterion,
    check_losses,
    check_rows,
    check_twice_differentiable,
    derivative,
    known_of,
    lost_in,
    mixed_in,
    moves,
    no_derivative,
    signs_like,
)
from .passes import call_with, one_tensor, recording, run, undisturbed
from .penalty import Penalty, any_differentiates, declared_tangents, layers_of


class EagerForward(Forward):
    """A forward pass by autograd, for a training loop that calls `backward`.

    Args:
        model: the module, or a function or a `functools.partial` that calls one; called once, with a dual number if a
            penalty declares a tangent.
        criterion: (outputs, targets) -> losses (B,).
        inputs: (B, *I), or a tuple or a dict of such, given to the model by position or by name.
        targets: of the batch.
        penalties: those that will be evaluated; asked for their layers and tangents before the pass.
        generator: for the random numbers of the penalties (null: torch's own).
        output: which of several outputs: a key, an index, the name of an attribute (null: there is one tensor).

    Example, in a loop of your own::

        penalty = Jacobian()
        forward = EagerForward(model, CrossEntropy(), inputs, targets, [penalty])
        objective = forward.losses.mean() + 0.01 * penalty(forward).mean()
        optimizer.zero_grad()
        objective.backward(inputs=list(forward.params.values()))
        optimizer.step()

    Where a penalty differentiates the model, the pass tracks a copy of the inputs; `backward(inputs=...)` keeps it out
    of the backward pass, so that it costs nothing. The graph is recorded even under `no_grad` and `inference_mode`.

    Raises:
        ValueError: a layer is not there, outputs or losses do not have one row for each example, the model returns more
            than one tensor, examples mix where a penalty takes each by itself, or torch cannot differentiate the model;
            from `vjp` and `jvp` also if none of `penalties` differentiates it.
    """

    def __init__(
        self,
        model: nn.Module | Callable[..., Any],
        criterion: Callable[[Tensor, Tensor], Tensor],
        inputs: Inputs,
        targets: Tensor,
        penalties: Sequence[Penalty] = (),
        generator: Generator | None = None,
        output: str | int | None = None,
    ) -> None:
        self.model, self.targets, self.generator = as_module(model), targets, generator
        self.tangents, self.activations, self._output, self._criterion = {}, {}, output, criterion
        self._is_differentiable = any_differentiates(penalties)
        if self._is_differentiable:
            with recording():
                self._points = {name: tracked(tensor) for name, tensor in points_of(inputs).items()}
                self.inputs = with_points(inputs, self._points)
                self._differentiable_pass(penalties)
                self.losses = criterion(self.outputs, targets)
        else:  # what such a pass prepares would take a twentieth of a small network's step
            self.inputs = inputs.detach() if isinstance(inputs, Tensor) else inputs
            self.outputs = one_tensor(call_with(self.model, self.inputs), output, self.rows)
            self.losses = criterion(self.outputs, targets)
        check_losses(self.losses, self.rows)

    def _differentiable_pass(self, penalties: Sequence[Penalty]) -> None:
        self.tangents = declared_tangents(penalties, self)
        self._layers, self._known = layers_of(penalties), known_of(self.model)
        self._takes_each = any(penalty.per_example for penalty in penalties)
        self._carried: tuple[Tensor, str, dict[str, Tensor | None]] | None = None
        self._pulled: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        tangent = next(iter(self.tangents.values()), None)
        if tangent is not None and self._known.carries and not self._known.carried:
            self._try_forward_mode(tangent, penalties)
        if tangent is not None and self._known.carries:
            self._carry(tangent)
        else:
            self.outputs, self.activations = self._run(self.inputs)
        if not self._is_known(penalties):
            self._look(penalties)

    def _try_forward_mode(self, tangent: Tangent, penalties: Sequence[Penalty]) -> None:
        """Find out whether the model has one: there is none if the pass fails, or when its graph is used."""
        passes = self._known.passes
        with undisturbed(self.model, tangent.direction.device):
            try:
                self._carry(tangent)
                self._look(penalties)
            except (RuntimeError, ValueError):  # a mistake of another kind comes again
                self._known.carries = False
        self._carried, self._known.passes, self._known.carried = None, passes, 0
        self._pulled.clear()

    @cached_property
    def params(self) -> dict[str, Tensor]:  # type: ignore[override]
        # Late: few penalties ask for them, and with a small network it takes a fiftieth of a step.
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def vjp(
        self,
        cotangent: Tensor,
        at: Sequence[str] = ("inputs",),
        of: str = "outputs",
        create_graph: bool = True,
    ) -> tuple[Tensor, ...]:
        points = [self.point(name) for name in at]
        for name, point in zip(at, points, strict=True):
            if not point.requires_grad:
                raise ValueError(no_derivative(name))
        with recording() if torch.is_inference_mode_enabled() else nullcontext():
            products = derivative([self.point(of)], points, [cotangent], create_graph)
        return tuple(
            self._zero(name, of) if product is None else product for name, product in zip(at, products, strict=True)
        )

    def jvp(self, direction: Tensor, of: str = "outputs", create_graph: bool = True, at: str = "inputs") -> Tensor:
        self._check_differentiable()
        if self._carried and self._carried[0] is direction and self._carried[1] == at:
            product = self._carried[2][of]
            if product is not None:
                return product if create_graph else product.detach()
        return self._by_two_reverse_passes(direction, of, at, create_graph)

    def power_step(self, direction: Tensor, scaled: Callable[[Tensor], Tensor], at: str = "inputs") -> Tensor:
        if ("outputs", at) in self._pulled:
            return super().power_step(direction, scaled, at)
        pulled = self._pull(direction, "outputs", at)[1]  # of which J t can be taken, too
        return self.jvp(scaled(pulled.detach()), create_graph=False, at=at)

    def loss_gradient(self) -> Tensor:
        with recording() if torch.is_inference_mode_enabled() else nullcontext():
            (gradient,) = derivative([self.losses], [self.outputs], [torch.ones_like(self.losses)], create_graph=True)
        if self._is_differentiable and self._known.criterion != id(self._criterion):
            moved = lambda change: self._criterion(self.outputs + change, self.targets)  # noqa: E731
            with recording():
                check_criterion(moved, self.outputs, self._takes_each)
            self._known.criterion = id(self._criterion)
        return torch.zeros_like(self.outputs) if gradient is None else gradient

    def point(self, name: str) -> Tensor:
        if name == "outputs":
            return self.outputs
        self._check_differentiable()
        for tensors in (self._points, self.activations):
            if name in tensors:
                return tensors[name]
        if name not in self.params:
            raise ValueError(f"at must name one of {', '.join(self._points)}, a layer or a parameter, got {name}")
        return self.params[name]

    def _check_differentiable(self) -> None:
        if not self._is_differentiable:
            raise ValueError(
                "penalties must name each penalty that will be evaluated, got none that differentiates the model: "
                "write EagerForward(..., penalties=[penalty]); one that calls vjp or jvp must not set of_weights"
            )

    def _run(self, inputs: Inputs, watch: Watch | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        if watch is None and not self._known.is_watched:
            return run(self.model, inputs, self._layers, self._output)
        with watch or Watch() as watch:
            outputs = run(self.model, inputs, self._layers, self._output)
        self._known.needs_formulas |= watch.is_needed
        return outputs

    def _carry(self, tangent: Tangent) -> None:
        """Make the pass with a dual number, and keep J direction of the outputs and the layers.

        Once the level is left they are ordinary tensors again.
        """
        watch, direction = Watch(), tangent.direction
        with forward_ad.dual_level():
            with quiet_start():
                carried = direction.clone() if direction.is_inference() else direction
                dual = forward_ad.make_dual(self._points[tangent.at], carried)
            self.outputs, self.activations = self._run(
                with_points(self.inputs, self._points | {tangent.at: dual}), watch
            )
            duals = {"outputs": self.outputs, **self.activations}
            products = {name: forward_ad.unpack_dual(dual).tangent for name, dual in duals.items()}
        self._known.carries = watch.is_carried
        self._carried = (direction, tangent.at, products) if watch.is_carried else None

    def _is_known(self, penalties: Sequence[Penalty]) -> bool:
        """Tell whether what this pass needs was looked at: earlier ones may have needed less."""
        known = self._known
        if known.passes < PASSES or (self._carried and known.carried < PASSES):
            return False
        return all(
            known.apart and (known.is_twice_differentiable or penalty.holds_constant)
            for penalty in penalties
            if penalty.per_example
        )

    def _look(self, penalties: Sequence[Penalty]) -> None:
        """Learn from one of the first passes what holds for all; raise ValueError for what cannot be right."""
        known = self._known
        points = [point for point in (self._points | self.activations).values() if point.requires_grad]
        apart = [penalty for penalty in penalties if penalty.per_example]
        if apart and known.apart is None:
            known.apart = check_rows(self.outputs, points)
        if apart and known.apart is False:
            self._refuse_mixed(apart)
        if not known.is_twice_differentiable and any(not penalty.holds_constant for penalty in apart):
            check_twice_differentiable(self.outputs, points, list(self.params.values()))
            known.is_twice_differentiable = True
        if self._carried and known.carried < PASSES:
            known.carried += 1
            known.carries = all(self._carries(of, product) for of, product in self._carried[2].items())
            self._carried = self._carried if known.carries else None
        known.passes += 1

    def _refuse_mixed(self, penalties: Sequence[Penalty]) -> None:
        for penalty in penalties:
            if not penalty.tolerates_batch_norm:
                raise ValueError(
                    f"{type(penalty).__name__} differentiates each example by itself, and the examples of a batch mix "
                    f"in {mixed_in(self.model, self.inputs)}: put a batch norm into evaluation mode (in the runner "
                    "batch_norm=frozen), or take a layer that treats each example by itself"
                )

    def _carries(self, of: str, product: Tensor | None) -> bool:
        assert self._carried
        direction, at, _ = self._carried
        reverse = self._by_two_reverse_passes(direction, of, at, create_graph=True)
        (back,) = self.vjp(signs_like(self.point(of)), (at,), of, create_graph=False)
        varying = [*self.params.values(), *(point for point in self._points.values() if point.requires_grad)]
        return carries_rightly(product, reverse, varying, scale=back.norm() * direction.norm())

    def _by_two_reverse_passes(self, direction: Tensor, of: str, at: str, create_graph: bool) -> Tensor:
        """Return J t as the derivative of <v^T J, t> by the cotangent v: no further pass of the model."""
        cotangent, pulled = self._pulled.get((of, at)) or self._pull(torch.zeros_like(self.point(of)), of, at)
        with recording():
            (product,) = derivative([pulled], [cotangent], [direction], create_graph)
        if product is None and pulled.requires_grad:
            raise ValueError(cannot("a function is marked once_differentiable"))
        return torch.zeros_like(cotangent) if product is None else product

    def _pull(self, cotangent: Tensor, of: str, at: str) -> tuple[Tensor, Tensor]:
        """Return a cotangent v and v^T J, as a function of v."""
        with recording():
            cotangent = tracked(cotangent)
            self._pulled[of, at] = cotangent, self.vjp(cotangent, (at,), of)[0]
        return self._pulled[of, at]

    def _zero(self, name: str, of: str) -> Tensor:
        """Return the zero that stands for a derivative without a path; raise ValueError if it is no zero."""
        point = self.point(name)
        if (of, name) not in self._known.constant:
            if moves(partial(self._moved, name, of), point):
                place = lost_in(self.model, self.inputs) if name in self._points else name
                raise ValueError(
                    f"the derivative of the {of} by {name} is lost in {place}: they depend on it, and autograd has no "
                    "path there (no_grad, detach, inference_mode or a compiled part): take that out, or choose a "
                    "penalty that does not differentiate it"
                )
            self._known.constant.add((of, name))
        return torch.zeros_like(point)

    @torch.no_grad()
    def _moved(self, name: str, of: str, change: Tensor) -> Tensor:
        """Return outputs, or those of a layer, after a change of a point: of an input, a layer or a parameter."""
        inputs, call, taps = self.inputs, None, None
        if name in self._points:
            inputs = with_points(inputs, self._points | {name: self._points[name] + change})
        elif name in self.activations:
            taps = {name: change}
        else:
            changed = {name: self.params[name] + change}
            call = lambda *args, **kwargs: torch.func.functional_call(self.model, changed, args, kwargs)  # noqa: E731
        with undisturbed(self.model, change.device):
            outputs, activations = run(self.model, inputs, self._layers, self._output, call, taps)
        return outputs if of == "outputs" else activations[of]


class Called(nn.Module):
    """A function as a module; a bound method and a `partial` show the module that they call, and its parameters."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        inner = function
        while isinstance(inner, partial):
            inner = inner.func
        owner = inner if isinstance(inner, nn.Module) else getattr(inner, "__self__", None)
        if isinstance(owner, nn.Module):
            self.owner = owner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def as_module(model: nn.Module | Callable[..., Any]) -> nn.Module:
    """Return a module: of a compiled one the plain module inside, of a function a module that calls it."""
    if not isinstance(model, nn.Module):
        return Called(model)
    plain = getattr(model, "_orig_mod", None)  # of torch.compile
    if plain is None:
        return model
    if not known_of(plain).passes:
        warnings.warn("compiled code has no second derivative: the plain module inside is used", stacklevel=3)
    return plain


def tracked(tensor: Tensor) -> Tensor:
    """Return a tensor of the same values, to differentiate by if they are no integers."""
    own = tensor.clone() if tensor.is_inference() else tensor.detach()
    return own.requires_grad_() if own.is_floating_point() or own.is_complex() else own
