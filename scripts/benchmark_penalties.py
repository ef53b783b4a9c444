"""Measure the cost of each penalty, and of the naive ways, as a ratio to a plain training step.

    uv run scripts/benchmark.py penalties                          random images, 20 rounds
    uv run scripts/benchmark.py penalties --root data_root         MNIST
    uv run scripts/benchmark.py penalties --only tangent_prop jacobian --rounds 50
    uv run scripts/benchmark.py penalties --device cuda

The lecture's MNIST network, batches of 100, one thread. A step is always the forward pass, the penalty, the backward
pass to the parameters and an SGD step; both memory layouts are timed in the same rounds. Times are CPU seconds of this
process, which depend least on the other work of the machine; on CUDA they are seconds until the device has ended.
"""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import naive_penalties as naive
import torch
from benchmark import Table, Timing, at_least, clock_of, compare, device
from torch import Generator, Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy

import data
from losses import (
    L1,
    L2,
    ActivationGradient,
    EagerForward,
    ElasticNet,
    InputGradient,
    Jacobian,
    JacobianSpectral,
    LargeMargin,
    Penalty,
    TangentProp,
    WeightGradient,
)
from models import MNISTConvnet

HIDDEN = ["relu1", "relu2"]
MARGIN_REFERENCE: dict[str, Any] = {"scores": "probability", "norm": "inf", "gamma": 1e4, "differentiate_norm": False}
# Ratio to a plain step that each penalty should reach; for the naive ways, the ratio that was measured.
TARGETS = {
    "jacobian": "<= 2.6",
    "jacobian exact": "<= 16",
    "tangent_prop": "<= 2.3",
    "activation_gradient": "<= 1.5",
    "input_gradient": "<= 2.5",
    "large_margin reference": "<= 2.0",
    "large_margin reference, hidden": "<= 1.3",
    "l1": "<= 1.1",
    "l2": "<= 1.1",
    "jacobian every 8": "<= 1.2",
    "naive: jacobian as published": "about 3",
    "naive: tangents one by one": ">= 10",
    "naive: question's large margin": "about 785",
}


class Loop:
    """A model, an optimizer and a batch in one memory layout, with the two kinds of step to time.

    The learning rate is 0: the work is the same, and the weights stay equal for everything that is timed.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, targets: Tensor, layout: torch.memory_format) -> None:
        self.model = deepcopy(model).to(memory_format=layout)
        self.inputs, self.targets = inputs.to(memory_format=layout), targets
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.params = list(self.model.parameters())
        self.criterion = nn.CrossEntropyLoss(reduction="none")
        self.generator = Generator(inputs.device).manual_seed(0)

    def step(self, objective: naive.Objective) -> None:
        """Make a step as it is written without this repository."""
        self.optimizer.zero_grad()
        objective(self.model, self.inputs, self.targets).backward()
        self.optimizer.step()

    def penalised_step(self, penalties: Sequence[Penalty]) -> None:
        """Make a step as the runner does."""
        forward = EagerForward(self.model, self.criterion, self.inputs, self.targets, penalties, self.generator)
        objective = forward.losses.mean()
        for penalty in penalties:
            with torch.set_grad_enabled(penalty.in_objective):
                value = penalty(forward).mean()
            if penalty.in_objective:
                objective = objective + 0.01 * value
        self.optimizer.zero_grad()
        objective.backward(inputs=self.params)
        self.optimizer.step()
        for penalty in penalties:
            penalty.prox_(self.params, weight=0.0, lr=0.1)

    def every(self, steps: int, penalty: Penalty) -> None:
        """Make some steps, with the penalty in the first one only."""
        for index in range(steps):
            self.penalised_step([penalty] if index == 0 else [])


class Timed(NamedTuple):
    """Something to time: a number of steps of a loop."""

    run: Callable[[Loop], None]
    steps: int = 1


def main(arguments: list[str]) -> list[Table]:
    """Time what the arguments select."""
    options = parse(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, targets = (part.to(options.device) for part in batch_of(options.root))
    model = MNISTConvnet(input_shape=(1, 28, 28), outputs=10).to(options.device)
    clock = clock_of(options.device)
    loops = [Loop(model, inputs, targets, layout) for layout in (torch.contiguous_format, torch.channels_last)]
    timed = {"plain": PLAIN, **chosen(all_timed(inputs), options.only)}
    runs = {(name, loop): partial(each.run, loop) for loop in loops for name, each in timed.items()}
    timings = compare(runs, options.rounds, clock=clock)
    tables = [report(options.device, timed, *({name: timings[name, loop] for name in timed} for loop in loops))]
    if options.question:
        timed = {"plain": PLAIN, "naive: question's large margin": naively(naive.question_large_margin)}
        runs = {name: partial(each.run, loops[0]) for name, each in timed.items()}
        tables.append(report(options.device, timed, compare(runs, options.question, warm_up=0, clock=clock)))
    return tables


def parse(arguments: list[str]) -> Namespace:
    parser = ArgumentParser("benchmark.py penalties", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of MNIST (default: random images)")
    parser.add_argument("--rounds", type=at_least(2), default=20, help="timed rounds (>= 2, default 20)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="time only what has one of these words in its name")
    parser.add_argument("--question", type=at_least(2), default=0, help="rounds of the question's slow loop (>= 2)")
    parser.add_argument("--device", type=device, default="cpu", help="cpu (default) or cuda")
    return parser.parse_args(arguments)


def batch_of(root: str | None, size: int = 100) -> tuple[Tensor, Tensor]:
    """Return the first training digits, or blurred noise: the content of the images does not change the cost."""
    if root is None:
        images = avg_pool2d(torch.randn(size, 1, 28, 28), 5, 1, 2).clamp(min=0)
        return (images - images.mean()) / images.std(), torch.randint(10, (size,))
    raw = data.MNIST(root).load()
    options = {"train_size": size, "validation_size": 0, "normalize": "scalar", "label_noise": 0.0, "seed": 0}
    part = data.prepare(raw, **options, device="cpu").train
    return part.inputs, part.targets


PLAIN = Timed(lambda loop: loop.step(lambda model, inputs, targets: cross_entropy(model(inputs), targets)))


def ours(*penalties: Penalty) -> Timed:
    return Timed(lambda loop: loop.penalised_step(penalties))


def naively(objective: naive.Objective) -> Timed:
    return Timed(lambda loop: loop.step(objective))


def all_timed(inputs: Tensor) -> dict[str, Timed]:
    """Return every penalty, each followed by the naive ways to compute it."""
    tangents = data.Tangents().fit(inputs)
    return {
        "no penalty": ours(),
        "l2": ours(L2()),
        "l1": ours(L1()),
        "l1 subgradient": ours(L1(method="subgradient")),
        "elastic_net": ours(ElasticNet()),
        "jacobian": ours(Jacobian()),
        "naive: jacobian as published": naively(naive.published_jacobian),
        "naive: jacobian, own pass": naively(naive.own_pass_jacobian),
        "jacobian every 8": Timed(lambda loop: loop.every(8, Jacobian()), steps=8),
        "jacobian 3 projections": ours(Jacobian(projections=3)),
        "jacobian exact": ours(Jacobian(projections=None)),
        "naive: jacobian exact by vmap": naively(naive.mapped_jacobian),
        "jacobian_spectral": ours(JacobianSpectral()),
        "jacobian_spectral 1 iteration": ours(JacobianSpectral(iterations=1)),
        "input_gradient": ours(InputGradient()),
        "naive: input gradient, own pass": naively(naive.own_pass_input_gradient),
        "activation_gradient": ours(ActivationGradient(layers=HIDDEN)),
        "naive: activation gradient, own pass": naively(naive.own_pass_activation_gradient),
        "weight_gradient": ours(WeightGradient()),
        "tangent_prop": ours(TangentProp(tangents=tangents)),
        "tangent_prop exact": ours(TangentProp(tangents=tangents, exact=True)),
        "naive: tangents one by one": naively(naive.tangents_one_by_one(tangents)),
        "naive: tangents by rows of J": naively(naive.tangents_by_rows(tangents)),
        "large_margin": ours(LargeMargin()),
        "large_margin reference": ours(LargeMargin(layers=["inputs", *HIDDEN], **MARGIN_REFERENCE)),
        "large_margin reference, hidden": ours(LargeMargin(layers=HIDDEN, **MARGIN_REFERENCE)),
        "large_margin with hidden": ours(LargeMargin(layers=["inputs", *HIDDEN])),
    }


def chosen(timed: dict[str, Timed], words: Iterable[str] | None) -> dict[str, Timed]:
    """Return those with one of the words in their names; without words, all."""
    return {name: each for name, each in timed.items() if not words or any(word in name for word in words)}


def report(
    place: str, timed: dict[str, Timed], first: dict[str, Timing], last: dict[str, Timing] | None = None
) -> Table:
    """Return the ratios to the plain contiguous step, their quartiles, and the milliseconds in each layout."""
    rows = []
    for name, each in timed.items():
        seconds, ratio, low, high = (value / each.steps for value in first[name])
        other = 1e3 * last[name].seconds / each.steps if last else None
        rows.append([name, ratio, f"{low:.2f}-{high:.2f}", TARGETS.get(name, ""), 1e3 * seconds, other])
    columns = ["a step with", "ratio", "quartiles", "wanted", "ms", "ms, channels_last"]
    where = "one thread, CPU time" if place == "cpu" else "CUDA, seconds by the clock"
    return Table(f"Penalties: a step of the lecture's network, batches of 100, {where}", columns, rows)
