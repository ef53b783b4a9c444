"""Compare runs trained as one stack with the same runs trained one after the other.

    uv run scripts/benchmark.py stacked                       training alone, by the number of models in a stack
    uv run scripts/benchmark.py stacked --sizes 8 64 --models moons
    uv run scripts/benchmark.py stacked --device cuda --sizes 8 64
    uv run scripts/benchmark.py stacked --jobs 64 --epochs 3000   whole sweeps under both launchers, starts included

The problem of the target, `line`, is the 1-100-100-1 network on the five points of data=line with Adam and the penalty
on squared derivatives. Times are CPU seconds of one thread, on CUDA seconds by the clock; those of the sweeps are CPU
and wall. Targets, with
n_jobs=2: throughput of training at least 10 times that of `local` for 64 jobs (two stacks of 32) and 256 (four of 64);
whole sweeps of 3,000 epochs at least 5 times.
"""

import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from functools import partial

import torch
from benchmark import Table, at_least, clock_of, compare, device, sweep

from runner.build import build
from runner.config.compose import project_composer
from runner.loop import CHECK_EVERY, Loop
from runner.stack.loop import StackedLoop

LINE = ("data=line", "model=mlp", "model.activation=tanh", "loss=mse", "optimizer=adam", "penalty=jacobian")
MODELS = {
    "line": LINE,
    "moons": ("data=moons", "model=mlp", "batch_size=50", "optimizer=adam"),
    "moons, jacobian": ("data=moons", "model=mlp", "batch_size=50", "optimizer=adam", "penalty=jacobian"),
    "digits": ("data=digits", "model=mlp", "batch_size=50", "optimizer=adam"),
    "digits, jacobian": ("data=digits", "model=mlp", "batch_size=50", "optimizer=adam", "penalty=jacobian"),
}
ROWS = ("histograms=false", "pictures=false", "evaluate_every=0")
STEPS = 3 * CHECK_EVERY  # of one model at least; a stack makes fewer, since each takes longer


def main(arguments: list[str]) -> list[Table]:
    """Return one of the two tables."""
    options = parsed(arguments)
    return [compare_sweeps(options) if options.jobs else compare_training(options)]


def parsed(arguments: list[str]) -> Namespace:
    parser = ArgumentParser(
        prog="benchmark.py stacked", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=at_least(2), nargs="*", default=[2, 8, 32, 64, 128])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=[*MODELS])
    parser.add_argument("--rounds", type=at_least(2), default=5)
    parser.add_argument("--jobs", type=at_least(1), help="time whole sweeps of so many jobs")
    parser.add_argument("--epochs", type=at_least(1), default=3000)
    parser.add_argument("--device", type=device, default="cpu", help="cpu (default) or cuda")
    return parser.parse_args(arguments)


def compare_training(options: Namespace) -> Table:
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
    """Return how many epochs have at least so many steps."""
    return -(-steps // loop.steps_per_epoch)


def train(loop: Loop, epochs: int) -> None:
    """Train so many epochs, with what their steps put off to a later check."""
    for _ in range(epochs):
        loop.run_epoch()
    loop.check_finite()


def loops(lines: Sequence[str], count: int, place: str) -> list[Loop]:
    """Return loops that differ in their seeds."""
    config = project_composer().compose([*lines, f"device={place}"]).values
    configs = [{**config, "seed": seed} for seed in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [Loop(build(each), each) for each in configs]


def compare_sweeps(options: Namespace) -> Table:
    """Time a sweep under both launchers, one after the other."""
    work = (*LINE, *ROWS, f"epochs={options.epochs}", f"seed=range({options.jobs})", "sweep.n_jobs=2")
    work += (f"device={options.device}",)
    stacked, local = (sweep([*work, f"hydra/launcher={launcher}"]) for launcher in ("stacked", "local"))
    ratios = [one / other for one, other in zip(local, stacked, strict=True)]
    named = {"stacked": stacked, "local": local, "local by stacked": ratios}
    rows = [[name, *(round(number, 1) for number in numbers)] for name, numbers in named.items()]
    note = f"{options.jobs} jobs of {options.epochs} epochs, n_jobs=2, starts and results included."
    return Table("Whole sweeps", ["launcher", "seconds", "CPU seconds"], rows, note)
