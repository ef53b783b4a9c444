"""Measure how time grows: with the batch size, the training size, the width, the penalties, the outputs, the jobs.

    uv run scripts/benchmark.py scaling                        random images
    uv run scripts/benchmark.py scaling --only around --root data_root
    uv run scripts/benchmark.py scaling --rounds 3 --examples 2000 --jobs 16 64 --only batch jobs

One thread; times are CPU seconds, which depend least on other work, if not said otherwise; those of jobs are of all
their processes. The limit is this machine's own: the rate at which it multiplies matrices of 1,024 x 1,024 numbers.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmark import TRAIN, Table, at_least, children_cpu, compare, random_images, train
from benchmark_penalties import Loop as Step
from torch import nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from losses import L2, ActivationGradient, InputGradient, Jacobian, LargeMargin, WeightGradient
from models import MLP
from runner.build import build
from runner.config.compose import project_composer
from runner.evaluation.evaluate import BATCH, evaluate
from runner.loop import Loop
from runner.system import keep_freed_memory

PENALTIES = (L2(), Jacobian(), InputGradient(), WeightGradient(), ActivationGradient(layers=["fc1"]), LargeMargin())
TINY = ("data=line", "model=mlp", "loss=mse", "epochs=2", "device=cpu")
QUIET = ("histograms=false", "pictures=false", "evaluate_every=0")
MOST_EXACT = 100  # outputs: with 1,000 a step takes seconds
Kinds = Mapping[str, str]
OF_THE_PROFILE: Kinds = {  # part of a step -> part of the names of torch's operations
    "convolutions, backward": "convolution_backward",
    "convolutions": "convolution",
    "matrix products": "addmm|aten::mm",
    "pooling": "pool",
    "activations and loss": "relu|threshold|softmax|nll|clamp",
    "gathering the batch": "aten::index",
    "update": "_foreach|add_",
}


def main(arguments: list[str]) -> Iterator[Table]:
    """Measure what the arguments select, table by table."""
    parser = ArgumentParser("benchmark.py scaling", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=at_least(2), default=5, help="timed rounds (>= 2, default 5)")
    parser.add_argument("--examples", type=at_least(1), default=6000, help="images of an epoch (default 6,000)")
    parser.add_argument("--jobs", type=at_least(1), nargs="+", default=[64, 250, 1000, 4000], help="of the sweeps")
    parser.add_argument("--root", help="folder of MNIST, for what is around the training (default: random images)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only tables with one of these words in the name")
    options = parser.parse_args(arguments)
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


def loop_of(*options: str) -> Loop:
    config = project_composer().compose(["device=cpu", *options]).values
    return Loop(build(config), config)


def images_loop(options: Namespace, *more: str) -> Loop:
    with tempfile.TemporaryDirectory() as folder:
        return loop_of(*random_images(Path(folder), options.examples), "optimizer=sgd", *more)


def bare_epoch(loop: Loop, batch_size: int) -> Callable[[], None]:
    """Return the shortest loop that trains the same network on the same data."""
    model, train = loop.components.model, loop.components.dataset.train
    optimizer, inputs, targets = loop.components.optimizer, train.inputs, train.targets

    def epoch() -> None:
        for indices in torch.randperm(len(inputs)).split(batch_size):
            optimizer.zero_grad()
            cross_entropy(model(inputs[indices]), targets[indices]).backward()
            optimizer.step()

    return epoch


def products_per_second() -> float:
    """Return the floating-point operations a second of this machine's best matrix product, the best of 20."""
    left, right = torch.randn(2, 1024, 1024)
    best = min(_seconds(lambda: left @ right) for _ in range(20))
    return 2 * 1024**3 / best


def _seconds(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


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
        seconds, ratio, low, high = timings["ours"]
        rate = operations / timings["bare"].seconds / limit
        rows.append([size, seconds, options.examples / seconds, ratio, f"{low:.2f}-{high:.2f}", rate])
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
        step = Step(c.model, inputs, targets, torch.contiguous_format)
        step.criterion, step.optimizer = c.criterion, torch.optim.Adam(step.params, lr=1e-3)
        work = partial(step.penalised_step, [term.penalty for term in c.terms])
        if not c.terms:
            work = partial(step.step, lambda model, inputs, targets, by=c.criterion: by(model(inputs), targets).mean())
        runs = {"bare": partial(_often, work), "ours": partial(_often, ours.run_epoch)}
        timings = compare(runs, 2 * options.rounds, clock=time.process_time)
        seconds, ratio, low, high = timings["ours"]
        rows.append([penalty, 1e3 * seconds / 100, ratio, f"{low:.2f}-{high:.2f}"])
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
    rows = [[name, t.seconds, t.ratio, f"{t.low:.2f}-{t.high:.2f}"] for name, t in timings.items()]
    return Table(f"Evaluation of {len(split)} images", ["what", "CPU seconds", "of bare", "quartiles"], rows)


def around_training(options: Namespace) -> Table:
    """Runs as a user starts them, with pictures and histograms: their time over that of their training alone."""
    rows = []
    for training, epochs, every in ((1_000, 20, "null"), (1_000, 20, "1"), (10_000, 10, "null"), (10_000, 10, "1")):
        with tempfile.TemporaryDirectory() as folder:
            if options.root:
                data = ["data=mnist", f"data.root={Path(options.root).resolve()}", "data.validation_size=0"]
            else:
                data = [*random_images(Path(folder), 10_000), "optimizer.lr=0.001"]
            own = [f"data.train_size={training}", f"epochs={epochs}", f"evaluate_every={every}"]
            line = [*data, *own, "batch_size=100", "threads=1", "device=cpu"]
            found = [_seconds_of(line, examples=training * epochs) for _ in range(options.rounds)]
        whole, alone = (statistics.median(column) for column in zip(*found, strict=True))
        rows.append([training, epochs, every, whole, alone, statistics.median(each / own for each, own in found)])
    columns = ["training images", "epochs", "evaluate_every", "seconds", "training alone", "ratio"]
    note = "Of a test on 10,000 images, no validation split; by the clock, from the first evaluation to the result."
    title = f"Around the training: runs of `train.py` after their start, one thread, medians of {options.rounds}"
    return Table(title, columns, rows, note)


def _seconds_of(line: list[str], examples: int) -> tuple[float, float]:
    """Return the seconds of a run after its start, and those of its training, by its own record."""
    with tempfile.TemporaryDirectory() as folder:
        train([*line, "runs_dir=."], folder)
        (path,) = Path(folder).glob("train/*/result.json")
        result = json.loads(path.read_text())
    return result["seconds"], examples / result["examples_per_second"]


def training_sizes(options: Namespace) -> Table:
    rows = []
    for count in (1000, 2000, 4000, 8000, 16000):
        epoch = images_loop(Namespace(examples=count), "batch_size=100").run_epoch
        seconds = min(_seconds(epoch) for _ in range(3))
        rows.append([count, seconds, 1e6 * seconds / count])
    return Table("Training size: an epoch", ["training size", "CPU seconds", "microseconds an example"], rows)


def step_seconds(model: nn.Module, used: list[Any], outputs: int, options: Namespace) -> float:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(100, 1, 28, 28, generator=generator)
    targets = torch.randint(outputs, (100,), generator=generator)
    step = partial(Step(model, inputs, targets, torch.contiguous_format).penalised_step, used)
    step()
    return min(_seconds(step) for _ in range(4 * options.rounds))


def perceptron(width: int = 200, outputs: int = 10) -> nn.Module:
    torch.manual_seed(0)
    return MLP(input_shape=(1, 28, 28), outputs=outputs, widths=(width, width))


def widths(options: Namespace) -> Table:
    rows, limit = [], products_per_second()
    for width in (50, 100, 200, 400, 800, 1600):
        model, plain = perceptron(width), step_seconds(perceptron(width), [], 10, options)
        batch = torch.randn(100, 1, 28, 28)
        operations = operations_of(lambda model=model, batch=batch: model(batch).sum().backward())
        jacobian = step_seconds(model, [Jacobian()], 10, options)
        rows.append([width, 1e3 * plain, 1e3 * jacobian, operations / plain / limit])
    columns = ["width", "ms a step", "ms with the Jacobian penalty", "step, of the limit"]
    return Table("Width: a perceptron 784-w-w-10, batches of 100", columns, rows)


def penalties(options: Namespace) -> Table:
    rows = []
    for count in range(len(PENALTIES) + 1):
        name = "none" if not count else f"+ {type(PENALTIES[count - 1]).__name__}"
        rows.append([count, name, 1e3 * step_seconds(perceptron(), list(PENALTIES[:count]), 10, options)])
    return Table("Penalties at once: a perceptron 784-200-200-10", ["penalties", "the last one", "ms a step"], rows)


def outputs(options: Namespace) -> Table:
    rows = []
    for count in (10, 30, 100, 300, 1000):
        plain, projected = (step_seconds(perceptron(200, count), used, count, options) for used in ([], [Jacobian()]))
        exact = None
        if count <= MOST_EXACT:
            exact = 1e3 * step_seconds(perceptron(200, count), [Jacobian(projections=None)], count, Namespace(rounds=1))
        rows.append([count, 1e3 * plain, 1e3 * projected, exact])
    columns = ["outputs", "ms a step", "ms with the Jacobian penalty", "ms with the exact one"]
    return Table("Outputs: a perceptron 784-200-200-C, batches of 100", columns, rows)


def jobs(options: Namespace, launcher: str = "local") -> Table:
    """Sweeps of tiny jobs: trained, and the same command again, which checks and summarises them."""
    rows = []
    for count in options.jobs:
        with tempfile.TemporaryDirectory() as folder:
            line = [*TINY, *QUIET, f"seed=range({count})", f"hydra/launcher={launcher}"]
            (trained, wall, memory), (again, again_wall, later) = (_sweep(line, folder) for _ in range(2))
        rows.append([count, trained, wall, memory, again, again_wall, later])
    again = "again, CPU seconds", "again, seconds", "again, MiB"
    columns = ["jobs", "CPU seconds", "seconds", "MiB", *again]
    title = "Jobs in a sweep" if launcher == "local" else "Jobs in a sweep of stacks"
    (few, *_, many) = rows if len(rows) > 1 else rows * 2
    each = (many[2] - few[2]) / max(1, many[0] - few[0])
    note = "Starts included; MiB of the command's own process. `again` is the same command once more, which trains "
    note += f"nothing. Each further job takes {each:.3g} s by the clock."
    return Table(f"{title}: five points, {TINY[3]}", columns, rows, note)


def _sweep(line: list[str], folder: str) -> tuple[float, float, float]:
    """Return the CPU seconds of a sweep with all its processes, its seconds, and the peak memory of its own process."""
    main = "import resource, runpy, sys, json, atexit; sys.path.insert(0, sys.argv[1].rpartition('/')[0]); "
    main += "peak = lambda: open('peak', 'w').write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)); "
    main += "atexit.register(peak); del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    began, cpu = time.perf_counter(), children_cpu()
    command = [sys.executable, "-c", main, str(TRAIN), "-m", *line]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"{line} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    peak = json.loads(Path(folder, "peak").read_text()) / 1024
    return children_cpu() - cpu, time.perf_counter() - began, peak
