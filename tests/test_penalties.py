"""The common test of all penalties: one row each, checked against oracles that share no code with them.

To add a penalty, write its value in the plainest way (`oracle`), for one problem, and give it a row.
"""

import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Generator, Tensor, nn
from torch.func import functional_call, jacrev

import losses
from losses import EagerForward, FunctionalForward, Penalty
from runner.training.instantiate import COMMON

CRITERION = nn.CrossEntropyLoss(reduction="none")
LAYERS = ["act1", "act2"]  # of both models below


@dataclass
class Problem:
    """A model and a batch; oracles differentiate it example by example."""

    model: nn.Sequential
    inputs: Tensor
    targets: Tensor

    @property
    def params(self) -> list[Tensor]:
        return list(self.model.parameters())

    def outputs(self, example: Tensor, upto: str | None = None) -> Tensor:
        """The outputs, or the activation of a layer, of one example, flattened."""
        values = example.unsqueeze(0)
        for name, module in self.model.named_children():
            values = module(values)
            if name == upto:
                break
        return values.flatten()

    def loss(self, example: Tensor, target: Tensor) -> Tensor:
        return self.loss_above("", example, target)

    def loss_above(self, layer: str, values: Tensor, target: Tensor) -> Tensor:
        """One example's loss as a function of its activation in a layer ("": of its input)."""
        names = [name for name, _ in self.model.named_children()]
        modules = self.model[names.index(layer) + 1 if layer else 0 :]
        outputs = modules(values.unsqueeze(0)).squeeze(0)
        return outputs.logsumexp(0) - outputs[target]

    def mean(self, value: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The mean of a function of (example, target) over the batch."""
        return torch.stack([value(x, y) for x, y in zip(self.inputs, self.targets, strict=True)]).mean()


def batch_of(shape: tuple[int, ...], outputs: int, batch: int = 5) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(1)
    inputs = torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(outputs, (batch,), generator=generator)


def smooth_problem(inputs: int = 6, outputs: int = 3) -> Problem:
    torch.manual_seed(0)
    layers = OrderedDict(
        fc1=nn.Linear(inputs, 5),
        act1=nn.Tanh(),
        fc2=nn.Linear(5, 4),
        act2=nn.Tanh(),
        fc3=nn.Linear(4, outputs),
    )
    return Problem(nn.Sequential(layers).double(), *batch_of((inputs,), outputs))


def image_problem() -> Problem:
    """Convolutions, max-pooling and ReLU: everything that forward mode and double backward must survive."""
    torch.manual_seed(0)
    layers = OrderedDict(
        conv1=nn.Conv2d(2, 4, 3),
        pool1=nn.MaxPool2d(2),
        act1=nn.ReLU(),
        conv2=nn.Conv2d(4, 4, 2),
        act2=nn.ReLU(),
        flatten=nn.Flatten(),
        fc=nn.Linear(16, 3),
    )
    return Problem(nn.Sequential(layers).double(), *batch_of((2, 8, 8), 3))


def linear_problem(*sizes: int) -> Problem:
    torch.manual_seed(0)
    layers = {f"fc{i}": nn.Linear(a, b) for i, (a, b) in enumerate(pairwise(sizes), 1)}
    return Problem(nn.Sequential(OrderedDict(layers)).double(), *batch_of((sizes[0],), sizes[-1]))


def weights(problem: Problem) -> list[Tensor]:
    return [p for p in problem.params if p.ndim == 2]


class Tangents:
    """Three tangents, nonlinear in the inputs, and derivatives to reach along them."""

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.stack([inputs.roll(1, -1), inputs.sin(), torch.ones_like(inputs)])

    def derivatives_at(self, inputs: Tensor) -> Tensor:
        sums = inputs.flatten(1).sum(1, keepdim=True)
        return torch.stack([sums.cos(), 0 * sums, 0 * sums + 0.5])


class CombinedTangents(Tangents):
    """The same, which also mixes them itself."""

    def __len__(self) -> int:
        return 3

    def combined(self, inputs: Tensor, signs: Tensor) -> Tensor:
        first, second, third = signs.reshape(3, -1, *[1] * (inputs.ndim - 1))
        return first * inputs.roll(1, -1) + second * inputs.sin() + third * torch.ones_like(inputs)


def squares(params: list[Tensor]) -> float:
    return math.fsum(w * w for p in params for w in p.flatten().tolist())


def magnitudes(params: list[Tensor]) -> float:
    return math.fsum(abs(w) for p in params for w in p.flatten().tolist())


def jacobian_oracle(problem: Problem, of: str | None = None) -> Tensor:
    return problem.mean(lambda x, y: jacrev(lambda z: problem.outputs(z, of))(x).square().sum())


def spectral_oracle(problem: Problem) -> Tensor:
    return problem.mean(lambda x, y: torch.linalg.svdvals(jacrev(problem.outputs)(x).flatten(1))[0] ** 2)


def input_gradient_oracle(problem: Problem) -> Tensor:
    return problem.mean(lambda x, y: jacrev(problem.loss)(x, y).square().sum())


def activation_gradient_oracle(problem: Problem, layers: list[str] = LAYERS) -> Tensor:
    def by_activation(layer: str, x: Tensor, y: Tensor) -> Tensor:
        modules = problem.model[: [name for name, _ in problem.model.named_children()].index(layer) + 1]
        activation = modules(x.unsqueeze(0)).squeeze(0)
        return jacrev(lambda h: problem.loss_above(layer, h, y))(activation).square().sum()

    return problem.mean(lambda x, y: torch.stack([by_activation(layer, x, y) for layer in layers]).sum())


def weight_gradient_oracle(problem: Problem) -> Tensor:
    def mean_loss(params: dict[str, Tensor]) -> Tensor:
        return CRITERION(functional_call(problem.model, params, problem.inputs), problem.targets).mean()

    gradients = jacrev(mean_loss)(dict(problem.model.named_parameters()))
    return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum()


def tangent_prop_oracle(problem: Problem) -> Tensor:
    tangents, derivatives = Tangents()(problem.inputs), Tangents().derivatives_at(problem.inputs)
    error = torch.zeros(())
    for n, example in enumerate(problem.inputs):
        jacobian = jacrev(problem.outputs)(example).flatten(1)
        for k in range(len(tangents)):
            error = error + (jacobian @ tangents[k, n].flatten() - derivatives[k, n]).square().sum()
    return error / len(problem.inputs)


def large_margin_oracle(problem: Problem, gamma: float, alpha: float) -> Tensor:
    """At the inputs and two layers, against the likeliest wrong class, in the Euclidean norm."""

    def hinge(layer: str, x: Tensor, y: Tensor) -> Tensor:
        names = [name for name, _ in problem.model.named_children()]
        depth = names.index(layer) + 1 if layer else 0
        wrong = max((c for c in range(3) if c != y), key=lambda c: problem.outputs(x)[c].item())

        def gap(values: Tensor) -> Tensor:
            scores = problem.model[depth:](values.unsqueeze(0)).squeeze(0).exp()
            return (scores[y] - scores[wrong]) / scores.sum()

        activation = problem.model[:depth](x.unsqueeze(0)).squeeze(0)
        distance = gap(activation) / (1e-6 + jacrev(gap)(activation).square().sum().sqrt())
        return max(0 * distance, min(gamma - distance, alpha * gamma + 0 * distance))

    return problem.mean(lambda x, y: torch.stack([hinge(layer, x, y) for layer in ["", *LAYERS]]).mean())


@dataclass(frozen=True)
class Row:
    """A penalty, and its value written plainly."""

    penalty: Callable[[], Penalty]
    oracle: Callable[[Problem], Tensor | float]
    draws: bool = False  # right in expectation only
    sizes: tuple[int, int] = (6, 3)  # D and C of the smooth problem; others than these: no images
    tolerance: float = 1e-7  # relative, of value and gradient: what central differences allow


ROWS = {
    "l2": Row(losses.L2, lambda p: squares(p.params)),
    "l2 without biases": Row(lambda: losses.L2(biases=False), lambda p: squares([w for w in p.params if w.ndim > 1])),
    "l1": Row(lambda: losses.L1(method="subgradient"), lambda p: magnitudes(p.params)),
    "elastic_net": Row(
        lambda: losses.ElasticNet(l1=0.3, l2=0.7),
        lambda p: 0.3 * magnitudes(p.params) + 0.7 * squares(p.params),
    ),
    "jacobian": Row(losses.Jacobian, jacobian_oracle, draws=True),
    "jacobian sphere": Row(lambda: losses.Jacobian(noise="sphere"), jacobian_oracle, draws=True),
    "jacobian 2 rademacher": Row(
        lambda: losses.Jacobian(projections=2, noise="rademacher"), jacobian_oracle, draws=True
    ),
    "jacobian 2 sphere": Row(lambda: losses.Jacobian(projections=2, noise="sphere"), jacobian_oracle, draws=True),
    "jacobian 2 orthonormal": Row(lambda: losses.Jacobian(projections=2), jacobian_oracle, draws=True),
    "jacobian exact": Row(lambda: losses.Jacobian(projections=None), jacobian_oracle),
    "jacobian spanning": Row(lambda: losses.Jacobian(projections=3), jacobian_oracle),
    "jacobian of a layer": Row(lambda: losses.Jacobian(of="act1"), lambda p: jacobian_oracle(p, "act1"), draws=True),
    "jacobian exact of a layer": Row(
        lambda: losses.Jacobian(projections=None, of="act2"), lambda p: jacobian_oracle(p, "act2")
    ),
    "jacobian forward": Row(lambda: losses.Jacobian(mode="forward"), jacobian_oracle, draws=True),
    "jacobian 3 forward": Row(lambda: losses.Jacobian(projections=3, mode="forward"), jacobian_oracle, draws=True),
    "jacobian exact forward": Row(lambda: losses.Jacobian(projections=None, mode="forward"), jacobian_oracle),
    "jacobian exact D<C": Row(lambda: losses.Jacobian(projections=None), jacobian_oracle, sizes=(2, 3)),
    "jacobian D<C": Row(losses.Jacobian, jacobian_oracle, draws=True, sizes=(2, 3)),
    "jacobian on the line": Row(losses.Jacobian, jacobian_oracle, sizes=(1, 3)),
    "jacobian of a layer on the line": Row(
        lambda: losses.Jacobian(of="act2"), lambda p: jacobian_oracle(p, "act2"), sizes=(1, 3)
    ),
    "jacobian D=C=1": Row(losses.Jacobian, jacobian_oracle, sizes=(1, 1)),
    "jacobian C=1": Row(losses.Jacobian, jacobian_oracle, sizes=(6, 1)),
    "jacobian_spectral": Row(losses.JacobianSpectral, spectral_oracle),
    "jacobian_spectral by iteration": Row(
        lambda: losses.JacobianSpectral(iterations=300), spectral_oracle, tolerance=1e-5
    ),
    "input_gradient": Row(losses.InputGradient, input_gradient_oracle),
    "activation_gradient": Row(lambda: losses.ActivationGradient(layers=LAYERS), activation_gradient_oracle),
    "activation_gradient batch": Row(
        lambda: losses.ActivationGradient(layers=LAYERS, reduction="batch"),
        lambda p: activation_gradient_oracle(p) / len(p.inputs),
    ),
    "weight_gradient": Row(losses.WeightGradient, weight_gradient_oracle),
    "large_margin": Row(
        lambda: losses.LargeMargin(layers=["inputs", *LAYERS], scores="probability", gamma=0.5, alpha=3.0),
        lambda p: large_margin_oracle(p, gamma=0.5, alpha=3.0),
    ),
    "tangent_prop": Row(lambda: losses.TangentProp(tangents=Tangents()), tangent_prop_oracle, draws=True),
    "tangent_prop combined": Row(
        lambda: losses.TangentProp(tangents=CombinedTangents()), tangent_prop_oracle, draws=True
    ),
    "tangent_prop exact": Row(lambda: losses.TangentProp(tangents=Tangents(), exact=True), tangent_prop_oracle),
    "tangent_prop exact, mixing": Row(
        lambda: losses.TangentProp(tangents=CombinedTangents(), exact=True), tangent_prop_oracle
    ),
}

IMAGE_ROWS = [name for name, row in ROWS.items() if row.sizes == (6, 3)]
PROBLEMS = [(name, "smooth") for name in ROWS] + [(name, "images") for name in IMAGE_ROWS]
EXACT = [(name, problem) for name, problem in PROBLEMS if not ROWS[name].draws]
DRAWN = [name for name, row in ROWS.items() if row.draws]


def problem_of(name: str, kind: str = "smooth") -> Problem:
    return image_problem() if kind == "images" else smooth_problem(*ROWS[name].sizes)


def forward_of(
    problem: Problem, *penalties: Penalty, seed: int = 0, generator: Generator | None = None
) -> EagerForward:
    generator = generator or Generator().manual_seed(seed)
    return EagerForward(problem.model, CRITERION, problem.inputs, problem.targets, penalties, generator)


def evaluated(penalty: Penalty, forward: EagerForward) -> tuple[Tensor, Tensor]:
    """The value, and its gradient by all parameters as one vector."""
    value = penalty(forward).mean()
    params = list(forward.params.values())
    gradients = torch.autograd.grad(value, params, allow_unused=True, materialize_grads=True)
    return value.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def directions_of(problem: Problem, count: int = 3) -> Tensor:
    """Random directions of norm 1 in the space of all parameters, (count, P)."""
    size = sum(p.numel() for p in problem.params)
    drawn = torch.randn(count, size, generator=Generator().manual_seed(2), dtype=torch.float64)
    return nn.functional.normalize(drawn, dim=1)


@torch.no_grad()
def central_differences(oracle: Callable[[Problem], Tensor | float], problem: Problem, directions: Tensor) -> Tensor:
    """Derivatives of the oracle along directions in parameter space, without autograd."""
    start, step = nn.utils.parameters_to_vector(problem.params), 1e-5
    slopes = []
    for direction in directions:
        values = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(start + sign * step * direction, problem.params)
            values.append(float(oracle(problem)))
        slopes.append((values[0] - values[1]) / (2 * step))
    nn.utils.vector_to_parameters(start, problem.params)
    return torch.tensor(slopes, dtype=torch.float64)


def assert_close(actual: Tensor, expected: Tensor | float, tolerance: float) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64).detach()
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * 1e-2)


@pytest.mark.parametrize(("name", "kind"), EXACT)
def test_value_and_gradient_equal_the_oracle(name: str, kind: str) -> None:
    row, problem = ROWS[name], problem_of(name, kind)
    penalty = row.penalty()
    value, gradient = evaluated(penalty, forward_of(problem, penalty))
    assert_close(value, row.oracle(problem), min(row.tolerance, 1e-5))
    directions = directions_of(problem)
    assert gradient.norm() > 1e-3 * value  # a value without a graph would be reported and never trained on
    slopes = central_differences(row.oracle, problem, directions)
    torch.testing.assert_close(directions @ gradient, slopes, rtol=10 * row.tolerance, atol=1e-8)


@pytest.mark.parametrize("name", DRAWN)
def test_mean_of_2000_draws_is_within_3_sigma_of_the_oracle(name: str) -> None:
    row, problem = ROWS[name], problem_of(name)
    directions = directions_of(problem)
    expected = torch.cat(
        [
            torch.as_tensor(row.oracle(problem)).reshape(1).detach(),
            central_differences(row.oracle, problem, directions),
        ]
    )
    # Each example draws for itself: 50 copies of the batch in one pass are 50 draws.
    copies = Problem(problem.model, problem.inputs.repeat(50, 1), problem.targets.repeat(50))
    penalty, generator, found = row.penalty(), Generator().manual_seed(3), []
    for _ in range(40):
        value, gradient = evaluated(penalty, forward_of(copies, penalty, generator=generator))
        found.append(torch.cat([value.reshape(1), directions @ gradient]))
    means = torch.stack(found)
    error = means.std(0) / math.sqrt(len(means))
    assert error[0] < 0.03 * expected[0]  # the test has the power to see a wrong scale
    assert bool(((means.mean(0) - expected).abs() < 3 * error).all()), (means.mean(0), expected, error)


@pytest.mark.parametrize("name", DRAWN)
def test_each_example_draws_for_itself(name: str) -> None:
    """100 copies of one example spread a tenth as much as one; one draw for all would spread alike."""
    row, problem = ROWS[name], problem_of(name)
    penalty, generator = row.penalty(), Generator().manual_seed(4)

    def spread(copies: int) -> float:
        inputs, targets = problem.inputs[:1].repeat(copies, 1), problem.targets[:1].repeat(copies)
        repeated = Problem(problem.model, inputs, targets)
        draws = [penalty(forward_of(repeated, penalty, generator=generator)).detach().mean() for _ in range(60)]
        return float(torch.stack(draws).std())

    assert 5 < spread(1) / spread(100) < 20


@pytest.mark.parametrize(("name", "kind"), EXACT)
def test_order_of_the_batch_does_not_matter(name: str, kind: str) -> None:
    row, problem = ROWS[name], problem_of(name, kind)
    order = torch.tensor([3, 0, 4, 2, 1])
    shuffled = Problem(problem.model, problem.inputs[order], problem.targets[order])
    penalty = row.penalty()
    value, gradient = evaluated(penalty, forward_of(problem, penalty))
    other_value, other_gradient = evaluated(penalty, forward_of(shuffled, penalty))
    tolerance = 1e-10 if row.tolerance < 1e-6 else row.tolerance  # an iteration starts at random
    assert_close(other_value, value, tolerance)
    torch.testing.assert_close(other_gradient, gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "kind"), PROBLEMS)
def test_same_under_torch_func(name: str, kind: str) -> None:
    problem, penalty = problem_of(name, kind), ROWS[name].penalty()
    value, gradient = evaluated(penalty, forward_of(problem, penalty, seed=5))

    def functional(params: dict[str, Tensor]) -> Tensor:
        generator = Generator().manual_seed(5)
        batch = problem.inputs, problem.targets
        return penalty(FunctionalForward(problem.model, params, CRITERION, *batch, [penalty], generator)).mean()

    params = {name: p.detach() for name, p in problem.model.named_parameters()}
    gradients, other_value = torch.func.grad_and_value(functional)(params)
    assert_close(other_value, value, 1e-10)
    other_gradient = torch.cat([gradient.flatten() for gradient in gradients.values()])
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", IMAGE_ROWS)
def test_same_in_channels_last(name: str) -> None:
    problem, penalty = image_problem(), ROWS[name].penalty()
    value, gradient = evaluated(penalty, forward_of(problem, penalty))
    problem.model.to(memory_format=torch.channels_last)
    problem.inputs = problem.inputs.to(memory_format=torch.channels_last)
    other_value, other_gradient = evaluated(penalty, forward_of(problem, penalty))
    assert_close(other_value, value, 1e-10)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "kind"), PROBLEMS)
def test_leaves_no_stray_gradient(name: str, kind: str) -> None:
    problem, penalty = problem_of(name, kind), ROWS[name].penalty()
    forward = forward_of(problem, penalty)
    value = penalty(forward).mean()
    assert all(param.grad is None for param in problem.params)
    assert forward.inputs.grad is None
    (forward.losses.mean() + value).backward(inputs=problem.params)
    assert forward.inputs.grad is None
    assert problem.inputs.grad is None
    assert not problem.inputs.requires_grad  # the caller's own tensor is left alone
    assert all(param.grad is not None for param in problem.params)


@pytest.mark.parametrize(("name", "kind"), EXACT)
def test_value_of_each_example_is_that_of_a_batch_of_it_alone(name: str, kind: str) -> None:
    """(B,); a penalty on the weights or on the batch as a whole is a scalar."""
    row, problem = ROWS[name], problem_of(name, kind)
    penalty = row.penalty()
    values = penalty(forward_of(problem, penalty))
    if penalty.of_weights or name == "weight_gradient":
        assert values.shape == ()
        return
    examples = zip(problem.inputs.split(1), problem.targets.split(1), strict=True)
    singles = [Problem(problem.model, *example) for example in examples]
    alone = torch.cat([penalty(forward_of(single, penalty)) for single in singles])
    divisor = len(singles) if name.endswith("batch") else 1
    assert values.shape == (len(singles),)
    assert_close(values.detach(), alone / divisor, 1e-10 if row.tolerance < 1e-6 else row.tolerance)


def test_all_together_are_worth_what_each_is_alone() -> None:
    problem = image_problem()
    penalties = {name: ROWS[name].penalty() for name in IMAGE_ROWS if not ROWS[name].draws}
    forward = forward_of(problem, losses.TangentProp(tangents=Tangents()), *penalties.values())
    for name, penalty in penalties.items():
        alone = penalty(forward_of(problem, penalty))
        assert_close(penalty(forward).detach(), alone, max(1e-10, ROWS[name].tolerance * 1e-2))


def test_iterated_spectral_norm_is_a_bound_from_below() -> None:
    problem = smooth_problem()
    exact, frobenius = spectral_oracle(problem), jacobian_oracle(problem)
    for iterations in (1, 2):
        penalty = losses.JacobianSpectral(iterations=iterations)
        value = penalty(forward_of(problem, penalty)).mean()
        assert frobenius / 3 < value < exact


@pytest.mark.parametrize("size", [1e-160, 1e-9, 1.0, 1e9])
def test_iterated_spectral_norm_has_no_scale(size: float) -> None:
    problem = linear_problem(4, 3)
    with torch.no_grad():
        weights(problem)[0].mul_(size)
    penalty = losses.JacobianSpectral(iterations=200)
    found = penalty(forward_of(problem, penalty)).mean() / size**2 if size > 1e-100 else None
    exact = (torch.linalg.matrix_norm(weights(problem)[0], 2) / size) ** 2
    if found is not None:
        assert_close(found.detach(), exact, 1e-8)
    direction = penalty._iterated(forward_of(problem, penalty), 200)
    assert_close(direction.norm(dim=1), torch.ones(5), 1e-12)


def test_iterated_spectral_norm_of_a_constant_model_is_zero() -> None:
    problem, penalty = linear_problem(4, 3), losses.JacobianSpectral(iterations=2)
    with torch.no_grad():
        weights(problem)[0].zero_()
    value, gradient = evaluated(penalty, forward_of(problem, penalty))
    assert value == 0
    assert bool((gradient == 0).all())


SPECTRAL = re.escape("the spectral norm of the Jacobian has no second derivative here, since its singular vector")


@pytest.mark.parametrize("iterations", [None, 300])
@pytest.mark.parametrize("problem", [smooth_problem(), linear_problem(4, 3)])
def test_second_derivative_of_the_spectral_norm_is_refused(problem: Problem, iterations: int | None) -> None:
    penalty = losses.JacobianSpectral(iterations=iterations)
    forward = forward_of(problem, penalty)
    weight = weights(problem)[0]
    (gradient,) = torch.autograd.grad(penalty(forward).mean(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match=SPECTRAL):
        torch.autograd.grad(gradient.square().sum(), weight)
    # And where nobody differentiates twice it is a term like any other.
    (forward.losses.mean() + penalty(forward).mean()).backward(inputs=problem.params)


@pytest.mark.parametrize("outer", [torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize("inner", [torch.func.jacrev, torch.func.jacfwd])
@pytest.mark.parametrize("problem", [smooth_problem(), linear_problem(4, 3)])
def test_hessian_of_the_spectral_norm_is_refused(problem: Problem, outer: Callable, inner: Callable) -> None:
    """`torch.func.hessian` is jacfwd of jacrev; a first derivative of either kind is right."""
    penalty, oracle = losses.JacobianSpectral(), spectral_oracle(problem)

    def value(params: dict[str, Tensor]) -> Tensor:
        forward = FunctionalForward(problem.model, params, CRITERION, problem.inputs, problem.targets, [penalty])
        return penalty(forward).mean()

    params = {name: p.detach() for name, p in problem.model.named_parameters()}
    expected = torch.autograd.grad(oracle, problem.params, materialize_grads=True, allow_unused=True)
    torch.testing.assert_close(list(inner(value)(params).values()), list(expected))
    with pytest.raises(RuntimeError, match=SPECTRAL):
        outer(inner(value))(params)


@pytest.mark.parametrize(("projections", "noise"), [(1, "rademacher"), (2, "orthonormal")])
def test_the_default_noise_is_the_one_of_least_error(projections: int, noise: str) -> None:
    problem = smooth_problem()

    def values(noise: str | None) -> list[float]:
        penalty = losses.Jacobian(projections=projections, noise=noise)
        return penalty(forward_of(problem, penalty)).tolist()

    others = {"rademacher", "sphere", "orthonormal"} - {noise}
    assert values(None) == values(noise)
    assert values(noise) not in [values(other) for other in others]


@pytest.mark.parametrize(
    ("sizes", "mode"), [((2, 3), "forward"), ((3, 3), "reverse"), ((6, 3), "reverse"), ((1, 1), "forward")]
)
def test_the_mode_is_the_one_of_fewer_passes(sizes: tuple[int, int], mode: str) -> None:
    """With as many inputs as outputs both need as many, and reverse mode is the cheaper one."""
    problem = smooth_problem(*sizes)

    def values(mode: str) -> list[float]:
        penalty = losses.Jacobian(mode=mode)
        return penalty(forward_of(problem, penalty)).tolist()

    assert values("auto") == values(mode)
    other = {"forward": "reverse", "reverse": "forward"}[mode]
    assert sizes == (1, 1) or values("auto") != values(other)


@pytest.mark.parametrize("projections", [None, 1, 3])
def test_on_the_line_the_pass_of_the_loss_is_enough(projections: int | None) -> None:
    problem, penalty, calls = smooth_problem(1, 3), losses.Jacobian(projections=projections), []
    problem.model.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    penalty(forward_of(problem, penalty))
    assert len(calls) == 1


def test_orthonormal_directions_err_less_than_independent_ones() -> None:
    problem = smooth_problem()

    def spread(noise: str) -> Tensor:
        penalty, generator = losses.Jacobian(projections=2, noise=noise), Generator().manual_seed(6)
        draws = [penalty(forward_of(problem, penalty, generator=generator)).detach().mean() for _ in range(300)]
        return torch.stack(draws).std()

    assert spread("orthonormal") < 0.85 * spread("sphere")


def residuals(problem: Problem) -> Tensor:
    """p - y, the gradient of the cross-entropy by the logits, (B, C)."""
    outputs = problem.model(problem.inputs)
    return outputs.softmax(1) - nn.functional.one_hot(problem.targets, outputs.shape[1])


CLOSED_FORMS: dict[str, tuple[Callable[[], Penalty], Callable[[Problem], Tensor], tuple[int, ...]]] = {
    "jacobian": (
        lambda: losses.Jacobian(projections=None),
        lambda p: weights(p)[0].square().sum(),
        (4, 3),
    ),
    "jacobian of a layer": (
        lambda: losses.Jacobian(projections=None, of="fc1"),
        lambda p: weights(p)[0].square().sum() + 0 * weights(p)[1].sum(),
        (4, 5, 3),
    ),
    "jacobian_spectral": (
        losses.JacobianSpectral,
        lambda p: torch.linalg.matrix_norm(weights(p)[0], 2) ** 2,
        (4, 3),
    ),
    "input_gradient": (
        losses.InputGradient,
        lambda p: (residuals(p) @ weights(p)[0]).square().sum() / len(p.inputs),
        (4, 3),
    ),
    "activation_gradient": (
        lambda: losses.ActivationGradient(layers=["fc1"]),
        lambda p: (residuals(p) @ weights(p)[1]).square().sum() / len(p.inputs),
        (4, 5, 3),
    ),
    "weight_gradient": (
        losses.WeightGradient,
        lambda p: (residuals(p).T @ p.inputs / len(p.inputs)).square().sum() + residuals(p).mean(0).square().sum(),
        (4, 3),
    ),
    "tangent_prop": (
        lambda: losses.TangentProp(tangents=Tangents(), exact=True),
        lambda p: (
            (Tangents()(p.inputs) @ weights(p)[0].T - Tangents().derivatives_at(p.inputs)).square().sum()
            / len(p.inputs)
        ),
        (4, 3),
    ),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_form_on_a_linear_model(name: str) -> None:
    build, closed_form, sizes = CLOSED_FORMS[name]
    problem, penalty = linear_problem(*sizes), build()
    value, gradient = evaluated(penalty, forward_of(problem, penalty))
    expected = closed_form(problem)
    gradients = torch.autograd.grad(expected, problem.params, allow_unused=True, materialize_grads=True)
    assert_close(value, expected, 1e-12)
    torch.testing.assert_close(gradient, torch.cat([g.flatten() for g in gradients]), rtol=1e-10, atol=1e-12)


def test_one_tangent_needs_no_signs() -> None:
    """The slope on the line is exact, and no random number is drawn."""

    class Slope:
        def __call__(self, inputs: Tensor) -> Tensor:
            return torch.ones_like(inputs).unsqueeze(0)

        def derivatives_at(self, inputs: Tensor) -> Tensor:
            return 2 * inputs.unsqueeze(0)

    problem, penalty, generator = (
        smooth_problem(1, 1),
        losses.TangentProp(tangents=Slope()),
        Generator().manual_seed(0),
    )
    before = generator.get_state()
    values = penalty(forward_of(problem, penalty, generator=generator))
    slopes = torch.stack([jacrev(problem.outputs)(x).squeeze() for x in problem.inputs])
    assert_close(values.detach(), (slopes - 2 * problem.inputs[:, 0]).square(), 1e-12)
    assert torch.equal(generator.get_state(), before)


def test_draws_come_from_the_given_generator_alone() -> None:
    state = torch.get_rng_state()
    for name in DRAWN:
        penalty, problem = ROWS[name].penalty(), problem_of(name)
        torch.set_rng_state(state)  # the problem initialises its model
        first, again, other = (penalty(forward_of(problem, penalty, seed=seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: losses.Jacobian(projections=0), "projections must be positive or null, got 0"),
        (
            lambda: losses.Jacobian(noise="normal"),
            "noise must be one of rademacher, sphere, orthonormal, null, got normal",
        ),
        (lambda: losses.Jacobian(mode="jet"), "mode must be one of auto, reverse, forward, got jet"),
        (lambda: losses.JacobianSpectral(iterations=0), "iterations must be positive or null, got 0"),
        (lambda: losses.ActivationGradient(layers=[]), "layers must be a list of at least one layer name, got []"),
        (
            lambda: losses.ActivationGradient(layers="act1"),
            "layers must be a list of at least one layer name, got 'act1'",
        ),
        (
            lambda: losses.ActivationGradient(layers=LAYERS, reduction="sum"),
            "reduction must be one of example, batch, got sum",
        ),
        (lambda: losses.ElasticNet(l1=-1), "l1 must be at least 0 and finite, got -1"),
        (lambda: losses.ElasticNet(l2=-1), "l2 must be at least 0 and finite, got -1"),
        (lambda: losses.L1(method="lasso"), "method must be one of proximal, subgradient, got lasso"),
    ],
)
def test_options_out_of_range_are_refused_in_one_sentence(build: Callable[[], Penalty], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        build()


def test_tangents_and_derivatives_of_another_shape_are_refused() -> None:
    class Wrong(Tangents):
        def derivatives_at(self, inputs: Tensor) -> Tensor:
            return inputs

    class Uncombined(CombinedTangents):
        def combined(self, inputs: Tensor, signs: Tensor) -> Tensor:
            return inputs.unsqueeze(0)

    sentence = r"tangents must have the shape \(K, B, \*I\) = \(K, 5, 6\), got \(5, 6\)"
    for exact in (False, True):
        penalty = losses.TangentProp(tangents=lambda inputs: inputs, exact=exact)
        with pytest.raises(ValueError, match=sentence):
            penalty(forward_of(smooth_problem(), penalty))
        penalty = losses.TangentProp(tangents=Wrong(), exact=exact)
        sentence_of_derivatives = r"derivatives must have the shape \(K, B, C\) = \(3, 5, C\), got \(5, 6\)"
        with pytest.raises(ValueError, match=sentence_of_derivatives):
            penalty(forward_of(smooth_problem(), penalty))
    with pytest.raises(ValueError, match=r"\(K, 5, 6\), got \(1, 1, 5, 6\)"):
        forward_of(smooth_problem(), losses.TangentProp(tangents=Uncombined()))


PENALTY = Path(__file__).parents[1] / "conf" / "penalty"
CONFIGS = sorted(set(PENALTY.glob("*.yaml")) - {PENALTY / "none.yaml"})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_gives_every_option_of_its_class(path: Path) -> None:
    ((name, options),) = OmegaConf.load(path).items()
    package, _, penalty = options.pop("_target_").partition(".")
    assert package == "losses"
    assert path.stem in (name, f"{name}_reference")  # the same penalty with its source's values
    own = inspect.signature(getattr(losses, penalty)).parameters
    proximal_only = {"every"} if penalty == "ElasticNet" else set()
    assert set(options) == {*own, *COMMON["penalty"]} - proximal_only
    assert all(option.kind is option.KEYWORD_ONLY for option in own.values())


@pytest.mark.parametrize("noise", ["rademacher", "sphere", "orthonormal"])
def test_as_many_directions_as_outputs_are_exact(noise: str) -> None:
    problem = smooth_problem()
    penalty = losses.Jacobian(projections=3, noise=noise)
    value, _ = evaluated(penalty, forward_of(problem, penalty))
    torch.testing.assert_close(value, jacobian_oracle(problem), rtol=1e-12, atol=0)
