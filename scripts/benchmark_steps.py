"""The cost of one training step: of each penalty and of the naive ways, and of the Jacobian with many outputs."""

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import naive_penalties as naive
import torch
from benchmark import DEVICE, ROOT, Table, Timing, clock_of, compare, cpu_seconds, number, subject
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
from models import MLP, MNISTConvnet
from runner.evaluation import JacobianNorm, Subject

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


class Step:
    """A model, an optimizer and a batch in one memory layout, with the two kinds of step to time.

    The learning rate is 0: the work is the same, and the weights stay equal for everything that is timed.
    """

    def __init__(
        self, model: nn.Module, inputs: Tensor, targets: Tensor, layout: Any = torch.contiguous_format
    ) -> None:
        self.model = deepcopy(model).to(memory_format=layout)
        self.inputs, self.targets = inputs.to(memory_format=layout), targets
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.params = list(self.model.parameters())
        self.criterion = nn.CrossEntropyLoss(reduction="none")
        self.generator = Generator(inputs.device).manual_seed(0)

    def step(self, objective: naive.Objective) -> None:
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
        for index in range(steps):
            self.penalised_step([penalty] if index == 0 else [])


class Timed(NamedTuple):
    """Something to time, and its number of steps."""

    run: Callable[[Step], None]
    steps: int = 1


def batch_of(root: str | None, size: int = 100) -> tuple[Tensor, Tensor]:
    """Return the first training digits, or blurred noise: the content of the images does not change the cost."""
    if root is None:
        images = avg_pool2d(torch.randn(size, 1, 28, 28), 5, 1, 2).clamp(min=0)
        return (images - images.mean()) / images.std(), torch.randint(10, (size,))
    raw = data.MNIST(root).load()
    options = {"train_size": size, "validation_size": 0, "normalize": "scalar", "label_noise": 0.0, "seed": 0}
    part = data.prepare(raw, **options, device="cpu").train
    return part.inputs, part.targets


PLAIN = Timed(lambda step: step.step(lambda model, inputs, targets: cross_entropy(model(inputs), targets)))


def ours(*penalties: Penalty) -> Timed:
    return Timed(lambda step: step.penalised_step(penalties))


def naively(objective: naive.Objective) -> Timed:
    return Timed(lambda step: step.step(objective))


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
        "jacobian every 8": Timed(lambda step: step.every(8, Jacobian()), steps=8),
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


@subject(
    root=ROOT,
    rounds=number(2, 20, "timed rounds"),
    only={"nargs": "+", "metavar": "WORD", "help": "time only what has one of these words in its name"},
    question=number(2, 0, "rounds of the question's slow loop"),
    device=DEVICE,
)
def penalties(options: Namespace) -> list[Table]:
    """Measure the cost of each penalty, and of the naive ways, as a ratio to a plain training step.

        uv run scripts/benchmark.py penalties                          random images, 20 rounds
        uv run scripts/benchmark.py penalties --root data_root         MNIST
        uv run scripts/benchmark.py penalties --only tangent_prop jacobian --rounds 50
        uv run scripts/benchmark.py penalties --device cuda

    The lecture's MNIST network, batches of 100, one thread. A step is always the forward pass, the penalty, the
    backward pass to the parameters and an SGD step; both memory layouts are timed in the same rounds. Times are CPU
    seconds of this process, which depend least on the other work of the machine; on CUDA they are seconds until the
    device has ended.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs, targets = (part.to(options.device) for part in batch_of(options.root))
    model = MNISTConvnet(input_shape=(1, 28, 28), outputs=10).to(options.device)
    steps = [Step(model, inputs, targets, layout) for layout in (torch.contiguous_format, torch.channels_last)]
    words = options.only or [""]
    timed = {name: way for name, way in all_timed(inputs).items() if any(word in name for word in words)}
    tables = [timings_of({"plain": PLAIN, **timed}, steps, options, options.rounds)]
    if options.question:
        timed = {"plain": PLAIN, "naive: question's large margin": naively(naive.question_large_margin)}
        tables.append(timings_of(timed, steps[:1], options, options.question, warm_up=0))
    return tables


def timings_of(timed: dict[str, Timed], steps: list[Step], options: Namespace, rounds: int, warm_up: int = 1) -> Table:
    """Return the ratios to the plain contiguous step, their quartiles, and the milliseconds in each layout."""
    runs = {(name, step): partial(way.run, step) for step in steps for name, way in timed.items()}
    timings, rows = compare(runs, rounds, warm_up, clock_of(options.device)), []
    for name, way in timed.items():
        first, *last = (Timing(*(value / way.steps for value in timings[name, step])) for step in steps)
        rows.append([name, *first.row[1:], TARGETS.get(name, ""), *(1e3 * timing.seconds for timing in (first, *last))])
    columns = ["a step with", "ratio", "quartiles", "wanted", "ms", "ms, channels_last"][: 4 + len(steps)]
    where = "one thread, CPU time" if options.device == "cpu" else "CUDA, seconds by the clock"
    return Table(f"Penalties: a step of the lecture's network, batches of 100, {where}", columns, rows)


# ---- the Jacobian with many outputs

OUTPUTS = (10, 100, 1000)
EXAMPLES = 50  # of the probe
PENALTIES = {
    "none": (),
    "1 projection": (Jacobian(),),
    "3 projections": (Jacobian(projections=3),),
    "exact": (Jacobian(projections=None),),
}
PROBE = "probe jacobian_norm"


class Measured(NamedTuple):
    """Time of a step or of a probe, its ratio to a step without the penalty with quartiles, and its peak memory."""

    outputs: int
    what: str
    ms: float
    ratio: float  # NaN, as the quartiles, for a probe, which is no step
    low: float
    high: float
    peak_mib: float


@subject()
def outputs(options: Namespace) -> list[Table]:
    """Measure what a training step with the Jacobian penalty costs with 10, 100 and 1,000 outputs, and its peak memory.

        uv run scripts/benchmark.py outputs

    A perceptron 784-200-200-C, batches of 32 random images with random labels, one thread: a step without the penalty,
    with 1 and 3 random projections, and exact. Its time is also given as a ratio to that of a step without, timed side
    by side. The last row of each C is `probe=jacobian_norm` on 50 images, once. Each row is measured in a process of
    its own, and its peak memory is what this process needs beyond the model and the data, as Linux counts it. Times are
    CPU seconds, which depend least on the other work of the machine.
    """
    rows = [
        [*row[:3], *((row.ratio, f"{row.low:.2f}-{row.high:.2f}") if row.what != PROBE else (None, "")), row.peak_mib]
        for row in measure_outputs()
    ]
    columns = ["outputs", "what", "ms", "ratio", "quartiles", "peak MiB"]
    return [Table("Jacobians of many outputs: a perceptron 784-200-200-C, batches of 32, one thread", columns, rows)]


def measure_outputs() -> list[Measured]:
    """Return a row for each number of outputs and thing that is measured, each from a fresh process."""
    rows = []
    for size in OUTPUTS:
        for what in (*PENALTIES, PROBE):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                rows.append(process.submit(measured, what, size).result())
    return rows


def measured(what: str, size: int) -> Measured:
    """Measure one thing in this process; torch is warmed up by other work."""
    torch.set_num_threads(1)
    work("1 projection", 2)()
    runs = {"none": work("none", size), what: work(what, size)}
    before = memory("VmRSS")
    if what == PROBE:
        times = (cpu_seconds(runs[PROBE]), *[float("nan")] * 3)
    else:
        is_slow = what == "exact" and size > OUTPUTS[0]  # seconds a step
        times = compare(runs, *((2, 0) if is_slow else (30, 1)), clock=time.process_time)[what]
    return Measured(size, what, 1e3 * times[0], *times[1:], memory("VmHWM") - before)


def work(what: str, size: int) -> Callable[[], object]:
    model, count = perceptron(outputs=size), EXAMPLES if what == PROBE else 32
    inputs, targets = random_batch(count, size)
    if what != PROBE:
        return partial(Step(model, inputs, targets).penalised_step, PENALTIES[what])
    split = data.Split(inputs, targets)
    dataset = data.Dataset(split, None, split, size, torch.tensor(0.0), torch.tensor(1.0))
    criterion = nn.CrossEntropyLoss(reduction="none")
    return partial(JacobianNorm(), Subject(model, criterion, dataset, Generator().manual_seed(0)))


def perceptron(width: int = 200, outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return MLP(input_shape=(1, 28, 28), outputs=outputs, widths=(width, width))


def random_batch(count: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(0)
    return torch.randn(count, 1, 28, 28, generator=generator), torch.randint(classes, (count,), generator=generator)


def memory(name: str) -> float:
    """Return a number of this process's memory in MiB, as Linux counts it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return float(line.split()[1]) / 1024
