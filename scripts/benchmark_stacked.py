"""Compare runs trained as one stack with the same runs trained one after the other.

    uv run scripts/benchmark.py stacked                       training alone, by the number of models in a stack
    uv run scripts/benchmark.py stacked --sizes 8 64 --models moons
    uv run scripts/benchmark.py stacked --jobs 64 --epochs 3000   whole sweeps under both launchers, starts included

The problem of the target, `line`, is the 1-100-100-1 network on the five points of data=line with Adam and the penalty
on squared derivatives. Times are CPU seconds of one thread; those of the sweeps are CPU and wall. Targets, with
n_jobs=2: throughput of training at least 10 times that of `local` for 64 jobs (two stacks of 32) and 256 (four of 64);
whole sweeps of 3,000 epochs at least 5 times.
"""

import time
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence

import torch
from benchmark import Table, compare, sweep

from runner.build import build
from runner.config.compose import project_composer
from runner.loop import Loop
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
STEPS = 128  # of one model; a stack makes fewer, since each takes longer


def main(arguments: list[str]) -> list[Table]:
    """Return one of the two tables."""
    options = parsed(arguments)
    return [compare_sweeps(options) if options.jobs else compare_training(options)]


def parsed(arguments: list[str]) -> Namespace:
    parser = ArgumentParser(
        prog="benchmark.py stacked", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[2, 8, 32, 64, 128])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=[*MODELS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, help="time whole sweeps of so many jobs")
    parser.add_argument("--epochs", type=int, default=3000)
    return parser.parse_args(arguments)


def compare_training(options: Namespace) -> Table:
    """Time steps of one loop and of stacks, side by side."""
    torch.set_num_threads(1)
    gains, singles = [], []
    for name in options.models:
        runs = {1: steps(loops(MODELS[name], 1)[0], STEPS)}
        runs |= {size: steps(StackedLoop(loops(MODELS[name], size)), made_by(size)) for size in options.sizes}
        timings = compare(runs, options.rounds, clock=time.process_time)
        gains.append([size * made_by(size) / STEPS / timings[size].ratio for size in options.sizes])
        singles.append(f"{name} {timings[1].seconds / STEPS * 1e3:.2f}")
    rows = [[size, *found] for size, *found in zip(options.sizes, *gains, strict=True)]
    note = f"By that of one model, whose step takes, in ms: {'; '.join(singles)}. One thread, CPU time, medians of "
    note += f"{options.rounds} rounds."
    return Table("Models in a stack: throughput of training", ["models", *options.models], rows, note)


def made_by(size: int) -> int:
    """Return the steps of a stack in a round."""
    return max(8, STEPS // size)


def loops(lines: Sequence[str], count: int) -> list[Loop]:
    """Return loops that differ in their seeds."""
    config = project_composer().compose([*lines, "device=cpu"]).values
    configs = [{**config, "seed": seed} for seed in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [Loop(build(each), each) for each in configs]


def steps(loop: Loop, count: int) -> Callable[[], None]:
    """Return a function that makes so many steps, epoch after epoch."""

    def made() -> None:
        left = count
        while left > 0:
            batches = list(loop.steps())[:left]
            loop.components.model.train()
            for loop.batch, batch in enumerate(batches):
                loop.step(batch)
            loop.epoch, loop.batch, left = loop.epoch + 1, 0, left - len(batches)

    return made


def compare_sweeps(options: Namespace) -> Table:
    """Time a sweep under both launchers, one after the other."""
    work = (*LINE, *ROWS, f"epochs={options.epochs}", f"seed=range({options.jobs})", "sweep.n_jobs=2", "device=cpu")
    stacked, local = (sweep([*work, f"hydra/launcher={launcher}"]) for launcher in ("stacked", "local"))
    ratios = [one / other for one, other in zip(local, stacked, strict=True)]
    named = {"stacked": stacked, "local": local, "local by stacked": ratios}
    rows = [[name, *(round(number, 1) for number in numbers)] for name, numbers in named.items()]
    note = f"{options.jobs} jobs of {options.epochs} epochs, n_jobs=2, starts and results included."
    return Table("Whole sweeps", ["launcher", "seconds", "CPU seconds"], rows, note)
