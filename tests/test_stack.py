"""K models trained as one stack are the same K models trained alone; which runs of a sweep make a stack."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data import Split
from losses.kernels import Watch
from losses.parameters import StackedParameter
from runner.config.compose import Composer, project_composer
from runner.stack.components import StackedSplit
from runner.stack.grouping import _obstacle, lines_of, stacks_of
from runner.stack.layers import stacked
from runner.stack.loop import StackedLoop
from runner.storage.directory import Run
from runner.training.build import Components, build
from runner.training.loop import Diverged, Loop

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:.*{words}") for words in ("proximal step is exact", "piecewise linear", "falls")
]
TOLERANCE = 1e-9  # relative, in float64
CLASSES = ("data=moons", "data.n=23", "model=mlp", "model.widths=[7,6]", "model.activation=tanh", "batch_size=9")
VALUES = ("data=sine", "data.n=9", "model=mlp", "model.widths=[7,6]", "model.activation=tanh", "loss=mse")
LRS = {"optimizer.lr": (0.01, 0.02, 0.005)}

Columns = Mapping[str, Sequence[Any]]  # key -> its value in each of the three models


def doubled(components: Components) -> Components:
    """Return components in float64, in which equal formulas agree to the last digits."""

    def double(split: Split | None) -> Any:
        values = split and (split.targets.double() if split.targets.is_floating_point() else split.targets)
        return split and Split(split.inputs.double(), values)

    components.model.double()
    for state in components.optimizer.state.values():
        state.update({key: value.double() for key, value in state.items() if value.ndim})
    data = components.dataset
    splits = {name: double(getattr(data, name)) for name in ("train", "validation", "test")}
    return replace(components, dataset=replace(data, **splits))


@cache
def composer() -> Composer:
    return project_composer()


def configs(base: Sequence[str], columns: Columns) -> list[dict[str, Any]]:
    """Return the configs of three models; to compose each by itself would take most of the tests' time."""
    found = []
    shared = composer().compose(["device=cpu", *base]).values
    for number, seed in enumerate((3, 1, 2)):
        config = {**copy.deepcopy(shared), "seed": seed}
        for path, values in columns.items():
            *nodes, key = path.split(".")
            reduce(dict.__getitem__, nodes, config)[key] = values[number]
        found.append(config)
    return found


def loops(base: Sequence[str], columns: Columns) -> list[Loop]:
    """Return the loops of three models."""
    return [Loop(doubled(build(config)), config) for config in configs(base, columns)]


def numbers_in(state: Any) -> list[float]:
    """Return all numbers of a loop's state, flat."""
    if isinstance(state, dict):
        return [number for key in sorted(state, key=str) for number in numbers_in(state[key])]
    if isinstance(state, list | tuple):
        return [number for member in state for number in numbers_in(member)]
    if isinstance(state, Tensor):
        return state.double().flatten().tolist()
    return [float(state)] if isinstance(state, int | float) else []


def assert_same_training(base: Sequence[str], columns: Columns, epochs: int = 2) -> list[dict[str, float]]:
    """Train members alone and as a stack, compare the means of each epoch and the final states; return the means."""
    alone = loops(base, columns)
    together = [Loop(copy.deepcopy(loop.components), loop.config) for loop in alone]
    before = [numbers_in(loop.components.model.state_dict()) for loop in alone]
    stack = StackedLoop(together)
    for _ in range(epochs):
        for loop in (*alone, stack):
            loop.run_epoch()
        means, stacked_means = [loop.read_means() for loop in alone], stack.read_means()
        for number, expected in enumerate(means):
            found = {name: values[number] for name, values in stacked_means.items()}
            assert found == pytest.approx(expected, rel=TOLERANCE, abs=1e-12)
    stack.scatter()
    for one, other, start in zip(alone, together, before, strict=True):
        expected, found = one.state_dict(), other.state_dict()
        assert torch.equal(found.pop("generator"), expected.pop("generator"))
        assert found.keys() == expected.keys()
        assert found["optimizer"]["state"].keys() == expected["optimizer"]["state"].keys()
        for key in ("epoch", "batch", "last_finite", "means", "model", "optimizer"):
            assert numbers_in(found[key]) == pytest.approx(numbers_in(expected[key]), rel=TOLERANCE, abs=1e-11), key
        for param, own_param in zip(
            one.components.model.parameters(), other.components.model.parameters(), strict=True
        ):
            assert torch.allclose(own_param.grad, param.grad, rtol=TOLERANCE, atol=1e-12)
        assert numbers_in(found["model"]) != pytest.approx(start, rel=1e-3)  # they did train
    return means


OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adamw", "adamax", "nadam", "rmsprop", "adagrad", "adadelta")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_updates_a_stack_as_it_updates_each_model(optimizer: str) -> None:
    assert_same_training([*CLASSES, f"optimizer={optimizer}"], {**LRS, "optimizer.weight_decay": (0.0, 0.1, 0.2)})


@pytest.mark.parametrize(
    ("optimizer", "option", "values"),
    [
        ("momentum", "momentum", (0.9, 0.5, 0.5)),
        ("adam", "betas", ([0.9, 0.99], [0.9, 0.9], [0.8, 0.9])),
        ("adam", "eps", (1e-8, 1e-3, 1e-8)),
        ("rmsprop", "alpha", (0.9, 0.5, 0.99)),
        ("sgd", "clip", (0.1, 0.5, 1e9)),
        ("adam", "groups", tuple({"fc2": {"lr": lr}} for lr in (0.1, 0.01, 0.2))),
    ],
)
def test_options_of_an_optimizer_may_differ(optimizer: str, option: str, values: Sequence[Any]) -> None:
    assert_same_training([*CLASSES, f"optimizer={optimizer}"], {**LRS, f"optimizer.{option}": values})


@pytest.mark.parametrize(
    "options",
    [
        ("momentum", "optimizer.dampening=0.5"),
        ("adam", "optimizer.amsgrad=true"),
        ("adamw", "optimizer.amsgrad=true"),
        ("nadam", "optimizer.momentum_decay=0.1"),
        ("rmsprop", "optimizer.momentum=0.9", "optimizer.centered=true"),
        ("adagrad", "optimizer.lr_decay=0.1", "optimizer.initial_accumulator_value=0.5"),
        ("adadelta", "optimizer.rho=0.5"),
    ],
)
def test_every_option_that_a_stack_knows_acts_as_alone(options: Sequence[str]) -> None:
    name, *others = options
    columns = {**LRS, "optimizer.weight_decay": (0.0, 0.1, 0.2)}
    base = [*CLASSES, f"optimizer={name}", *(f"++{line}" for line in others)]
    assert _obstacle(configs(base, columns)[0]) is None
    assert_same_training(base, columns, epochs=3)


PENALTIES = {
    "l1": (),
    "l1 subgradient": ("penalty.l1.method=subgradient",),
    "l1 by lr": ("penalty.l1.scale_by_lr=true", "penalty.l1.biases=false"),
    "l2": (),
    "l2 without biases": ("penalty.l2.biases=false",),
    "elastic_net": (),
    "elastic_net by lr": ("penalty.elastic_net.scale_by_lr=true", "penalty.elastic_net.biases=false"),
    "jacobian": (),
    "jacobian exact": ("penalty.jacobian.projections=null",),
    "jacobian of a layer": ("penalty.jacobian.of=tanh2", "penalty.jacobian.projections=3"),
    "jacobian forward": ("penalty.jacobian.mode=forward", "penalty.jacobian.noise=sphere"),
    "jacobian_spectral": (),
    "jacobian_spectral iterated": ("penalty.jacobian_spectral.iterations=2",),
    "input_gradient": (),
    "activation_gradient": ("penalty.activation_gradient.layers=[tanh1,fc2]",),
    "activation_gradient of the batch": (
        "penalty.activation_gradient.layers=[tanh1]",
        "penalty.activation_gradient.reduction=batch",
    ),
    "weight_gradient": (),
    "large_margin": ("penalty.large_margin.layers=[inputs,tanh1]",),
    "large_margin of probabilities": ("penalty.large_margin.scores=probability", "penalty.large_margin.norm=inf"),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_every_penalty_is_the_same_in_a_stack(name: str) -> None:
    penalty = name.partition(" ")[0]
    weights = {f"penalty.{penalty}.weight": (0.01, 0.02, 0.003)}
    assert_same_training([*CLASSES, "optimizer=adam", f"penalty={penalty}", *PENALTIES[name]], {**LRS, **weights})


@pytest.mark.parametrize(
    "options",
    [
        ("penalty=tangent_prop",),
        ("penalty=tangent_prop", "penalty.tangent_prop.tangents.derivatives=2", "penalty.tangent_prop.exact=true"),
        ("penalty=[jacobian,l2]", "penalty.jacobian.every=2", "penalty.l2.warmup=2"),
        ("penalty=jacobian", "optimizer.gradient=full", "batch_size=4"),
        ("penalty=jacobian", "loss=l1", "loss.weight=2", "shuffle=false"),
        ("model.activation=gelu", "loss=sum_of_squares", "scheduler=cosine"),
        ("model.activation=softplus", "scheduler=staircase", "scheduler.steps=2"),
        ("model.widths=[]", "penalty=jacobian"),
        ("init=lsuv", "data.validation_size=2", "penalty=input_gradient"),
    ],
    ids=" ".join,
)
def test_regressions_and_the_loops_options(options: Sequence[str]) -> None:
    assert_same_training([*VALUES, "optimizer=adam", *options], LRS)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("data.seed", (0, 1, 2)),
        ("data.label_noise", (0.0, 0.2, 0.5)),
        ("data.noise", (0.1, 0.2, 0.3)),
        ("penalty.jacobian.warmup", (0.0, 1.0, 2.0)),
    ],
)
def test_each_model_has_its_own_data_and_numbers(key: str, values: Sequence[float]) -> None:
    base = [*CLASSES, "loss=nll", "model.log_softmax=true", "penalty=jacobian"]
    assert_same_training(base, {key: values})


@pytest.mark.parametrize("loss", ["cross_entropy", "mse_one_hot", "multi_margin"])
def test_every_criterion_is_the_same_in_a_stack(loss: str) -> None:
    assert_same_training([*CLASSES, f"loss={loss}", "penalty=input_gradient"], LRS)


CLIPPED = {**LRS, "optimizer.clip": (1.0, 0.5, 2.0)}


@pytest.mark.parametrize("penalty", ["jacobian_spectral", "l1"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_model_leaves_the_others_alone(penalty: str, value: float) -> None:
    """What the numbers of one model become reaches no bit of another's; its own end is that of the model alone."""
    base = [*CLASSES, "optimizer=momentum", f"penalty={penalty}"]
    alone, together, healthy = (loops(base, CLIPPED) for _ in range(3))
    stack, control = StackedLoop(together), StackedLoop(healthy)
    for loop in (stack, control, *alone):
        loop.run_epoch()
    for param in (stack.params[0][1], alone[1].params[0]):
        param.detach().fill_(value)
    for loop in (stack, control, *alone):
        loop.run_epoch()
    for loop in (stack, control, alone[0], alone[2]):
        loop.check_finite()
    with pytest.raises(Diverged) as divergence:
        alone[1].check_finite()
    assert {number: (each.step, each.last_finite) for number, each in stack.diverged.items()} == {
        1: (divergence.value.step, pytest.approx(divergence.value.last_finite))
    }
    stack.scatter()
    for number in (0, 2):
        found, expected = (numbers_in(each[number].components.model.state_dict()) for each in (together, alone))
        assert found == pytest.approx(expected, rel=TOLERANCE, abs=1e-12)
    assert all(torch.equal(one[[0, 2]], other[[0, 2]]) for one, other in zip(stack.params, control.params, strict=True))


def test_a_model_diverges_at_the_step_at_which_it_does_alone() -> None:
    """In float32: with its weight in Python's precision the objective would be finite for a step more."""
    overflow = ("penalty=l2", "penalty.l2.weight=1e38", "init=normal", "init.std=10")
    alone, together = ([Loop(build(each), each) for each in configs([*CLASSES, *overflow], LRS)] for _ in range(2))
    stack = StackedLoop(together)
    for loop in (alone[0], stack):
        loop.run_epoch()
    with pytest.raises(Diverged) as divergence:
        alone[0].check_finite()
    stack.check_finite()
    assert divergence.value.step == stack.diverged[0].step == 1


def test_on_nan_continue_goes_on() -> None:
    stack = StackedLoop(loops([*CLASSES, "optimizer=momentum", "on_nan=continue"], LRS))
    stack.params[0][1].detach().fill_(float("nan"))
    stack.run_epoch()
    means = stack.read_means()
    assert not stack.diverged
    assert torch.tensor(means["train/objective"]).isfinite().tolist() == [True, False, True]


def test_one_model_is_a_stack_too() -> None:
    one, other = (
        loops([*CLASSES, "optimizer=adam", "penalty=jacobian"], LRS)[:1],
        loops([*CLASSES, "optimizer=adam", "penalty=jacobian"], LRS),
    )
    stack = StackedLoop(one)
    for loop in (stack, other[0]):
        loop.run_epoch()
    found = {name: values[0] for name, values in stack.read_means().items()}
    assert found == pytest.approx(other[0].read_means(), rel=TOLERANCE)


def test_data_that_all_models_share_are_held_once() -> None:
    (first, *others) = (loop.components.dataset.train for loop in loops(CLASSES, LRS))
    noisy = [loop.components.dataset.train for loop in loops(CLASSES, {"data.label_noise": (0.1, 0.2, 0.3)})]
    assert len(StackedSplit.of([first, *others]).inputs) == len(first)
    split = StackedSplit.of(noisy)
    assert (len(split), len(split.inputs), len(split.targets)) == (len(first), len(first), 3 * len(first))
    chosen = split[torch.tensor([[0, 1], [2, 0], [1, 1]])]
    assert torch.equal(chosen.inputs, first.inputs[[0, 1, 2, 0, 1, 1]])
    assert torch.equal(
        chosen.targets, torch.cat([noisy[0][[0, 1]].targets, noisy[1][[2, 0]].targets, noisy[2][[1, 1]].targets])
    )


def test_a_stack_keeps_the_names_of_layers_and_parameters() -> None:
    model = stacked([loop.components.model for loop in loops(CLASSES, LRS)])
    plain = loops(CLASSES, LRS)[0].components.model
    assert [name for name, _ in model.named_modules()] == [name for name, _ in plain.named_modules()]
    assert {name: param.shape[1:] for name, param in model.named_parameters()} == {
        name: param.shape for name, param in plain.named_parameters()
    }
    assert all(isinstance(param, StackedParameter) for param in model.parameters())


@pytest.mark.parametrize("dual", ["inputs", "inputs bias", "inputs weight", "weight", "bias"])
def test_tangents_of_stacked_layers(dual: str) -> None:
    """Whichever of its arguments carry tangents: a user's attention multiplies two that do."""
    shapes = {"bias": (3, 1, 2), "inputs": (3, 5, 4), "weight": (3, 4, 2)}
    values, tangents = ({name: torch.randn(shape).double() for name, shape in shapes.items()} for _ in range(2))
    tangents = {name: tangent for name, tangent in tangents.items() if name in dual}

    def layers(given: dict[str, Tensor]) -> Tensor:
        with Watch():
            return torch.baddbmm(*{**values, **given}.values())

    found = torch.func.jvp(layers, ({name: values[name] for name in tangents},), (tangents,))
    moved = {name: tangents.get(name, torch.zeros(shape).double()) for name, shape in shapes.items()}
    expected = moved["bias"] + moved["inputs"] @ values["weight"] + values["inputs"] @ moved["weight"]
    torch.testing.assert_close(found, (values["bias"] + values["inputs"] @ values["weight"], expected))


# --- which runs make a stack ---


@pytest.fixture
def runs(tmp_path: Path) -> Callable[..., list[Run]]:
    """Return a function of overrides, and of the values of further keys, that returns a run for each value."""

    def made(*base: str, **columns: Sequence[Any]) -> list[Run]:
        shared = composer().compose([f"runs_dir={tmp_path}", "device=cpu", *base]).values
        found = []
        for values in zip(*columns.values(), strict=True):
            config = copy.deepcopy(shared)
            for path, value in zip(columns, values, strict=True):
                *nodes, key = path.split("__")
                reduce(dict.__getitem__, nodes, config)[key] = value
            found.append(Run(config))
        return found

    return made


MLP = ("data=moons", "model=mlp", "penalty=jacobian")


def sizes(stacks: Sequence[Sequence[Run]]) -> list[int]:
    return sorted(map(len, stacks))


def test_runs_that_differ_in_numbers_make_a_stack(runs: Callable[..., list[Run]]) -> None:
    numbers = {
        "seed": range(6),
        "optimizer__lr": [0.1, 0.2] * 3,
        "penalty__jacobian__weight": [1.0, 0.5, 2, 3, 4, 5],
        "data__label_noise": [0.0, 0.1] * 3,
        "data__seed": range(6),
        "penalty__jacobian__warmup": range(6),
    }
    stacks, alone = stacks_of(runs(*MLP, **numbers), n_jobs=1, largest=64)
    assert sizes(stacks) == [6]
    assert not alone


@pytest.mark.parametrize(
    ("base", "columns"),
    [
        (MLP, {"batch_size": [10, 20]}),
        (MLP, {"epochs": [3, 4]}),
        (MLP, {"penalty__jacobian__weight": [0, 1]}),  # with 0 it draws nothing
        (MLP, {"penalty__jacobian__every": [1, 2]}),
        (MLP, {"penalty__jacobian__projections": [1, 2]}),
        (MLP, {"optimizer__clip": [None, 1.0]}),
        (MLP, {"data__n": [50, 100]}),
        (MLP, {"model__widths": [[5], [6]]}),
        (("data=mnist", "model=mlp"), {"data__seed": [0, 1]}),  # each would hold its own 60,000 images
        (("data=line", "loss=mse", "model=mlp", "penalty=tangent_prop"), {"data__seed": [0, 1]}),  # fitted to its data
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_differences_make_other_stacks(
    runs: Callable[..., list[Run]], base: Sequence[str], columns: dict[str, list[Any]]
) -> None:
    stacks, alone = stacks_of(runs(*base, **columns), n_jobs=1, largest=64)
    assert not stacks
    assert [len(found) for found in alone.values()] == [2]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("data=digits", "model=mnist_convnet"), "MNISTConvnet"),
        ((*MLP, "model.dropout=0.1"), "dropout"),
        ((*MLP, "optimizer=lbfgs"), "LBFGS"),
        ((*MLP, "optimizer=rmsprop_tensorflow"), "TensorFlowRMSprop"),
        ((*MLP, "optimizer=nadam", "+optimizer.decoupled_weight_decay=true"), "optimizer.decoupled_weight_decay"),
        ((*MLP, "optimizer=adam", "+optimizer.decoupled_weight_decay=true"), "optimizer.decoupled_weight_decay"),
        ((*MLP, "+optimizer.maximize=true"), "optimizer.maximize"),
        ((*MLP, "+optimizer.differentiable=true", "+optimizer.maximize=true"), "differentiable, optimizer.maximize"),
        ((*MLP, "augment=noise"), "GaussianNoise"),
        ((*MLP, "precision=bf16"), "bf16"),
    ],
)
def test_what_cannot_be_stacked_is_told(runs: Callable[..., list[Run]], options: Sequence[str], word: str) -> None:
    jobs = [*runs(*options, seed=range(3)), *runs(*MLP, seed=range(2))]
    stacks, alone = stacks_of(jobs, n_jobs=1, largest=64)
    assert sizes(stacks) == [2]
    first, second = lines_of(stacks, alone)
    assert first == "stacks: 1 of 2 jobs"
    assert second.startswith("by themselves: 3 jobs; ")
    assert word in second


@pytest.mark.parametrize(
    ("count", "n_jobs", "largest", "expected"),
    [(64, 2, 64, [32, 32]), (200, 2, 64, [50] * 4), (5, 2, 64, [2, 3]), (3, 4, 64, [3]), (7, 1, 2, [1, 2, 2, 2])],
)
def test_the_stacks_keep_all_processes_busy(
    runs: Callable[..., list[Run]], count: int, n_jobs: int, largest: int, expected: list[int]
) -> None:
    jobs = runs(*MLP, seed=range(count))
    stacks, _ = stacks_of(jobs, n_jobs, largest)
    assert sizes(stacks) == expected
    assert {run for stack in stacks for run in stack} == {*jobs}
    again, _ = stacks_of(jobs[::-1], n_jobs, largest)  # whatever the order of the grid
    assert {frozenset(stack) for stack in again} == {frozenset(stack) for stack in stacks}
    assert [[run.run_id for run in stack] for stack in again] == [[run.run_id for run in stack] for stack in stacks]


def test_models_with_the_same_options_of_the_optimizer_are_neighbours(runs: Callable[..., list[Run]]) -> None:
    jobs = runs(*MLP, "optimizer=momentum", seed=range(6), optimizer__momentum=[0.9, 0.5] * 3)
    ((*stack,),), _ = stacks_of(jobs, n_jobs=1, largest=64)
    assert [run.config["optimizer"]["momentum"] for run in stack] == [0.5] * 3 + [0.9] * 3


def test_an_interrupted_stack_is_made_again_with_those_that_have_ended(runs: Callable[..., list[Run]]) -> None:
    jobs = runs(*MLP, seed=range(7))
    statuses = ("running", "diverged", "interrupted")
    for run, status in zip(jobs, statuses, strict=False):
        run.path.mkdir(parents=True)
        run.write_result({"status": status, "stack": "before"})
    for run, status in zip(jobs[3:5], ("interrupted", "failed"), strict=True):  # trained, and failed, by themselves
        run.path.mkdir(parents=True)
        (run.path / "checkpoint-0000000007.pt").touch()
        run.write_result({"status": status})
    stacks, alone = stacks_of(jobs, n_jobs=1, largest=64)
    assert [{*stack} for stack in stacks] == [{*jobs[:3]}, {*jobs[5:]}]
    assert alone == {"it goes on from a checkpoint of its own": jobs[3:5]}
    for run in jobs:
        run.config["force"] = True  # what has ended begins afresh
    stacks, _ = stacks_of(jobs, n_jobs=1, largest=64)
    assert [{*stack} for stack in stacks] == [{jobs[0], jobs[2]}, {jobs[1], *jobs[4:]}]
