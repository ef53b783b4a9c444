"""The cost of the runner's loop: of epochs, of steps by size, of evaluations, and of models in a stack."""

import os
import tempfile
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark import DEVICE, ROOT, Table, clock_of, compare, cpu_seconds, images_file, number, subject
from benchmark_processes import LINE, around_training, jobs, stacked_sweeps
from benchmark_steps import Step, perceptron, random_batch
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from losses import L2, ActivationGradient, InputGradient, Jacobian, LargeMargin, Penalty, WeightGradient
from runner.config.compose import project_composer
from runner.evaluation.evaluate import BATCH, evaluate
from runner.stack.loop import StackedLoop
from runner.system import keep_freed_memory
from runner.training.build import build
from runner.training.loop import CHECK_EVERY, Loop


def loop_of(*options: str) -> Loop:
    config = project_composer().compose(["device=cpu", *options]).values
    return Loop(build(config), config)


def images_loop(options: Namespace, *more: str) -> Loop:
    with tempfile.TemporaryDirectory() as folder:
        images = images_file(Path(folder), options.examples, getattr(options, "root", None))
        return loop_of(*images, "optimizer=sgd", *more)


def bare_epoch(loop: Loop, batch_size: int, bf16: bool = False) -> Callable[[], None]:
    """Return the shortest loop that trains the same network on the same data: no validation, nothing recorded."""
    model, train = loop.components.model, loop.components.dataset.train
    optimizer, inputs, targets = loop.components.optimizer, train.inputs, train.targets

    def epoch() -> None:
        for indices in torch.randperm(len(inputs)).split(batch_size):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = cross_entropy(model(inputs[indices]).float(), targets[indices])
            loss.backward()
            optimizer.step()

    return epoch


# ---- an epoch beside a bare loop and beside the usual DataLoader


@subject(
    root=ROOT,
    rounds=number(2, 5, "timed rounds"),
    examples=number(1, 60_000, "images of an epoch"),
    threads=number(1, os.cpu_count() or 1, "of torch"),
)
def runner(options: Namespace) -> list[Table]:
    """Compare an epoch of the runner with a bare hand-written loop and with the usual DataLoader loop.

    Also measure the share of a step that the check for NaN takes.

        uv run scripts/benchmark.py runner                          random images
        uv run scripts/benchmark.py runner --root data_root         MNIST
        uv run scripts/benchmark.py runner --rounds 3 --examples 20000 --threads 2

    All loops train the lecture's MNIST network with SGD, batches of 100 and all cores. The DataLoader loop is that of
    pytorch/examples: ToTensor and Normalize on each image when it is fetched. Targets: the runner takes at most 1.05
    times the time of the bare loop, and at most 0.45 (fp32) and 0.33 (bf16) times that of the DataLoader loop; the
    check for NaN takes less than 1 % of a step.
    """
    torch.set_num_threads(options.threads)
    bare, loop, bare16, loop16, loader = (
        images_loop(options, "batch_size=100", "optimizer.lr=0.1", f"precision={precision}")
        for precision in ("fp32", "fp32", "bf16", "bf16", "fp32")
    )
    loops = {
        "bare loop": bare_epoch(bare, 100),
        "runner": loop.run_epoch,
        "runner bf16": loop16.run_epoch,
        "bare loop bf16": bare_epoch(bare16, 100, bf16=True),
        "DataLoader loop": loader_epoch(loader, options),
    }
    timings = compare(loops, options.rounds)
    keep_freed_memory()  # as train.py does; it cannot be undone, so it comes last
    kept = compare({name: loops[name] for name in ("runner", "runner bf16")}, options.rounds)
    usual, rows = timings["DataLoader loop"].ratio, []
    for name, timing in timings.items():
        rows.append([name, timing.seconds, timing.ratio, timing.ratio / usual, timing.row[-1]])
    for name, timing in kept.items():
        ratio = timing.seconds / timings["bare loop"].seconds
        rows.append([f"{name}, as run", timing.seconds, ratio, ratio / usual, None])
    share = seconds_of_check(loop) * loop.steps_per_epoch / kept["runner"].seconds
    return [
        Table(
            f"Epochs: {options.examples} images, batches of 100, {options.threads} threads",
            ["epoch", "seconds", "of bare loop", "of DataLoader loop", "quartiles"],
            rows,
            f"The check for NaN takes {share:.3%} of a step, as run.",
        ),
    ]


def seconds_of_check(loop: Loop, times: int = 1000) -> float:
    """Return the seconds per step that the check for NaN and the means take: the mean over some checks."""
    objectives = [torch.zeros(())] * CHECK_EVERY
    began = time.perf_counter()
    for _ in range(times):
        loop.unchecked, loop.means.values = objectives, {"train/objective": objectives}
        loop.check_finite()
    return (time.perf_counter() - began) / times / CHECK_EVERY


def loader_epoch(loop: Loop, options: Namespace) -> Callable[[], object]:
    """Return the loop of pytorch/examples: a DataLoader that transforms each image when it is fetched."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    with tempfile.TemporaryDirectory() as folder:
        images_file(Path(folder), options.examples, options.root)
        with np.load(Path(folder, "images.npz")) as arrays:
            images, labels = arrays["train_images"], arrays["train_labels"]
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    class Images(Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return transform(Image.fromarray(images[index, 0])), int(labels[index])

    model, optimizer = loop.components.model, loop.components.optimizer
    loader = DataLoader(Images(), batch_size=100, shuffle=True)

    def epoch() -> None:
        model.train()
        for inputs, targets in loader:
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    return epoch


# ---- models in a stack

JACOBIAN = "penalty=jacobian"
SMALL = ("model=mlp", "batch_size=50", "optimizer=adam")
MODELS = {
    "line": LINE,
    "moons": ("data=moons", *SMALL),
    "moons, jacobian": ("data=moons", *SMALL, JACOBIAN),
    "digits": ("data=digits", *SMALL),
    "digits, jacobian": ("data=digits", *SMALL, JACOBIAN),
}
STEPS = 3 * CHECK_EVERY  # of one model at least; a stack makes fewer, since each takes longer


@subject(
    sizes=number(2, [2, 8, 32, 64, 128], "models in a stack", nargs="*"),
    models={"nargs": "*", "choices": MODELS, "default": [*MODELS]},
    rounds=number(2, 5, "timed rounds"),
    jobs=number(1, None, "time whole sweeps of so many jobs"),
    epochs=number(1, 3000, "of the sweeps"),
    device=DEVICE,
)
def stacked(options: Namespace) -> list[Table]:
    """Compare runs trained as one stack with the same runs trained one after the other.

        uv run scripts/benchmark.py stacked                       training alone, by the number of models in a stack
        uv run scripts/benchmark.py stacked --sizes 8 64 --models moons
        uv run scripts/benchmark.py stacked --device cuda --sizes 8 64
        uv run scripts/benchmark.py stacked --jobs 64 --epochs 3000   whole sweeps under both launchers, starts included

    The problem of the target, `line`, is the 1-100-100-1 network on the five points of data=line with Adam and the
    penalty on squared derivatives. Times are CPU seconds of one thread, on CUDA seconds by the clock; those of the
    sweeps are CPU and wall. Targets, with n_jobs=2: throughput of training at least 10 times that of `local` for 64
    jobs (two stacks of 32) and 256 (four of 64); whole sweeps of 3,000 epochs at least 5 times.
    """
    return [stacked_sweeps(options) if options.jobs else stacked_training(options)]


def stacked_training(options: Namespace) -> Table:
    """Time steps of one loop and of stacks, side by side."""
    torch.set_num_threads(1)
    gains, singles = [], []
    for name in options.models:
        trained = {1: loops(MODELS[name], 1, options.device)[0]}
        trained |= {size: StackedLoop(loops(MODELS[name], size, options.device)) for size in options.sizes}
        epochs = {size: epochs_of(loop, STEPS if size == 1 else CHECK_EVERY) for size, loop in trained.items()}
        runs = {size: partial(train, loop, epochs[size]) for size, loop in trained.items()}
        timings = compare(runs, options.rounds, clock=clock_of(options.device))
        gains.append([size * epochs[size] / epochs[1] / timings[size].ratio for size in options.sizes])
        singles.append(f"{name} {timings[1].seconds / (epochs[1] * trained[1].steps_per_epoch) * 1e3:.2f}")
    rows = [[size, *found] for size, *found in zip(options.sizes, *gains, strict=True)]
    where = "One thread, CPU time" if options.device == "cpu" else "CUDA, by the clock"
    note = f"By that of one model, whose step takes, in ms: {'; '.join(singles)}. {where}, medians of "
    note += f"{options.rounds} rounds."
    return Table("Models in a stack: throughput of training", ["models", *options.models], rows, note)


def epochs_of(loop: Loop, steps: int) -> int:
    return -(-steps // loop.steps_per_epoch)


def train(loop: Loop, epochs: int) -> None:
    """Train so many epochs, with what their steps put off to a later check."""
    for _ in range(epochs):
        loop.run_epoch()
    loop.check_finite()


def loops(lines: Sequence[str], count: int, place: str) -> list[Loop]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [loop_of(*lines, f"device={place}", f"seed={seed}") for seed in range(count)]


# ---- growth

PENALTIES = (L2(), Jacobian(), InputGradient(), WeightGradient(), ActivationGradient(layers=["fc1"]), LargeMargin())
MOST_EXACT = 100  # outputs: with 1,000 a step takes seconds
OF_THE_PROFILE = {  # part of a step -> part of the names of torch's operations
    "convolutions, backward": "convolution_backward",
    "convolutions": "convolution",
    "matrix products": "addmm|aten::mm",
    "pooling": "pool",
    "activations and loss": "relu|threshold|softmax|nll|clamp",
    "gathering the batch": "aten::index",
    "update": "_foreach|add_",
}


@subject(
    rounds=number(2, 5, "timed rounds"),
    examples=number(1, 6000, "images of an epoch"),
    jobs=number(1, [64, 250, 1000, 4000], "of the sweeps", nargs="+"),
    root=ROOT | {"help": "folder of MNIST, for what is around the training (default: random images)"},
    only={"nargs": "+", "metavar": "WORD", "help": "only the tables of these names"},
)
def scaling(options: Namespace) -> Iterator[Table]:
    """Measure how time grows: with the batch size, the training size, the width, the penalties, the outputs, the jobs.

        uv run scripts/benchmark.py scaling                        random images
        uv run scripts/benchmark.py scaling --only around --root data_root
        uv run scripts/benchmark.py scaling --rounds 3 --examples 2000 --jobs 16 64 --only batch jobs

    One thread; times are CPU seconds, which depend least on other work, if not said otherwise; those of jobs are of all
    their processes. The limit is this machine's own: the rate at which it multiplies matrices of 1,024 x 1,024 numbers.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    tables: dict[str, Callable[[Namespace], Table]] = {
        "batch": batch_sizes,
        "profile": profiled,
        "small": small_problem,
        "around": around_training,
        "evaluation": evaluation,
        "training": training_sizes,
        "width": widths,
        "penalties": penalties,
        "outputs": outputs,
        "jobs": jobs,
        "stacks": partial(jobs, launcher="stacked"),
    }
    for name, make in tables.items():
        if not options.only or name in options.only:
            yield make(options)


def products_per_second() -> float:
    """Return the floating-point operations a second of this machine's best matrix product, the best of 20."""
    left, right = torch.randn(2, 1024, 1024)
    best = min(cpu_seconds(lambda: left @ right) for _ in range(20))
    return 2 * 1024**3 / best


def operations_of(run: Callable[[], object]) -> int:
    """Return the floating-point operations of the matrix products and convolutions in some work."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def batch_sizes(options: Namespace) -> Table:
    rows, limit = [], products_per_second()
    for size in (10, 50, 100, 500, 1000):
        bare, ours = (images_loop(options, f"batch_size={size}") for _ in range(2))
        runs = {"bare": bare_epoch(bare, size), "ours": ours.run_epoch}
        timings, operations = compare(runs, options.rounds, clock=time.process_time), operations_of(runs["bare"])
        seconds, *ratios = timings["ours"].row
        rate = operations / timings["bare"].seconds / limit
        rows.append([size, seconds, options.examples / seconds, *ratios, rate])
    return Table(
        f"Batch size: an epoch of {options.examples} images, the lecture's network",
        ["batch size", "CPU seconds", "examples a second", "of a bare loop", "quartiles", "bare loop, of the limit"],
        rows,
        f"The limit is {limit / 1e9:.0f} GFLOP/s, the rate of a matrix product on one thread.",
    )


def profiled(options: Namespace) -> Table:
    """Return where a step of the bare loop and of ours spends its time, by torch's own profiler."""
    rows: dict[str, list[float]] = {name: [] for name in (*OF_THE_PROFILE, "other operations", "outside operations")}
    for size in (10, 100, 1000):
        loop = images_loop(options, f"batch_size={size}")
        for epoch in (bare_epoch(loop, size), loop.run_epoch):
            epoch()
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                began = time.perf_counter()
                epoch()
                whole = 1e6 * (time.perf_counter() - began)
            found = [(each.key, each.self_cpu_time_total) for each in profiler.key_averages()]
            events = [pair for pair in found if not pair[0].startswith("Optimizer.")]  # it holds the Python within
            for name, share in _shares(events, whole).items():
                rows[name].append(100 * share)
    columns = ["per cent of an epoch", *(f"{size}, {who}" for size in (10, 100, 1000) for who in ("bare", "runner"))]
    return Table("Where a step's time goes, by batch size", columns, [[name, *shares] for name, shares in rows.items()])


def _shares(events: list[tuple[str, float]], whole: float) -> dict[str, float]:
    found = dict.fromkeys((*OF_THE_PROFILE, "other operations"), 0.0)
    for key, microseconds in events:
        kinds = [name for name, words in OF_THE_PROFILE.items() if any(word in key for word in words.split("|"))]
        found[kinds[0] if kinds else "other operations"] += microseconds / whole
    return found | {"outside operations": 1 - sum(found.values())}


def small_problem(options: Namespace) -> Table:
    """Five points, one step an epoch: what the loop itself adds to the pass, the backward pass and the update."""
    rows = []
    for penalty in ("none", "tangent_prop", "jacobian", "l2"):
        lines = ("data=line", "model=mlp", "model.activation=tanh", "loss=mse", "optimizer=adam", f"penalty={penalty}")
        bare, ours = loop_of(*lines), loop_of(*lines)
        c = bare.components
        inputs, targets = c.dataset.train.inputs, c.dataset.train.targets
        step = Step(c.model, inputs, targets)
        step.criterion, step.optimizer = c.criterion, torch.optim.Adam(step.params, lr=1e-3)
        work = partial(step.penalised_step, [term.penalty for term in c.terms])
        if not c.terms:
            work = partial(step.step, lambda model, inputs, targets, by=c.criterion: by(model(inputs), targets).mean())
        runs = {"bare": partial(_often, work), "ours": partial(_often, ours.run_epoch)}
        timings = compare(runs, 2 * options.rounds, clock=time.process_time)
        seconds, *ratios = timings["ours"].row
        rows.append([penalty, 1e3 * seconds / 100, *ratios])
    return Table("Five points, one step an epoch, Adam", ["penalty", "ms a step", "of bare", "quartiles"], rows)


def _often(work: Callable[[], object]) -> None:
    for _ in range(100):
        work()


def evaluation(options: Namespace) -> Table:
    loop = images_loop(options)
    c, split = loop.components, loop.components.dataset.train

    @torch.no_grad()
    def bare() -> None:
        c.model.eval()
        for inputs in split.inputs.split(BATCH):
            c.model(inputs)

    ours = lambda: evaluate(c.model, c.criterion, split, c.dataset.classes).metrics("train")  # noqa: E731
    timings = compare({"bare passes": bare, "evaluation": ours}, options.rounds, clock=time.process_time)
    rows = [[name, *timing.row] for name, timing in timings.items()]
    return Table(f"Evaluation of {len(split)} images", ["what", "CPU seconds", "of bare", "quartiles"], rows)


def training_sizes(options: Namespace) -> Table:
    rows = []
    for count in (1000, 2000, 4000, 8000, 16000):
        epoch = images_loop(Namespace(examples=count), "batch_size=100").run_epoch
        seconds = min(cpu_seconds(epoch) for _ in range(3))
        rows.append([count, seconds, 1e6 * seconds / count])
    return Table("Training size: an epoch", ["training size", "CPU seconds", "microseconds an example"], rows)


def step_ms(used: Sequence[Penalty], rounds: int, width: int = 200, outputs: int = 10) -> float:
    """Return the CPU milliseconds of a perceptron's step with some penalties, the least of some."""
    step = partial(Step(perceptron(width, outputs), *random_batch(100, outputs)).penalised_step, used)
    step()
    return 1e3 * min(cpu_seconds(step) for _ in range(4 * rounds))


def widths(options: Namespace) -> Table:
    rows, limit = [], products_per_second()
    for width in (50, 100, 200, 400, 800, 1600):
        plain, jacobian = (step_ms(used, options.rounds, width) for used in ([], [Jacobian()]))
        model, batch = perceptron(width), torch.randn(100, 1, 28, 28)
        operations = operations_of(lambda model=model, batch=batch: model(batch).sum().backward())
        rows.append([width, plain, jacobian, operations / (1e-3 * plain) / limit])
    columns = ["width", "ms a step", "ms with the Jacobian penalty", "step, of the limit"]
    return Table("Width: a perceptron 784-w-w-10, batches of 100", columns, rows)


def penalties(options: Namespace) -> Table:
    rows = []
    for count in range(len(PENALTIES) + 1):
        name = "none" if not count else f"+ {type(PENALTIES[count - 1]).__name__}"
        rows.append([count, name, step_ms(PENALTIES[:count], options.rounds)])
    return Table("Penalties at once: a perceptron 784-200-200-10", ["penalties", "the last one", "ms a step"], rows)


def outputs(options: Namespace) -> Table:
    rows = []
    for count in (10, 30, 100, 300, 1000):
        plain, projected = (step_ms(used, options.rounds, outputs=count) for used in ([], [Jacobian()]))
        exact = step_ms([Jacobian(projections=None)], 1, outputs=count) if count <= MOST_EXACT else None
        rows.append([count, plain, projected, exact])
    columns = ["outputs", "ms a step", "ms with the Jacobian penalty", "ms with the exact one"]
    return Table("Outputs: a perceptron 784-200-200-C, batches of 100", columns, rows)
