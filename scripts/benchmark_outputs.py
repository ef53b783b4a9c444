"""Measure what a training step with the Jacobian penalty costs with 10, 100 and 1,000 outputs, and its peak memory.

    uv run scripts/benchmark.py outputs

A perceptron 784-200-200-C, batches of 32 random images with random labels, one thread: a step without the penalty, with
1 and 3 random projections, and exact. Its time is also given as a ratio to that of a step without, timed side by side.
The last row of each C is `probe=jacobian_norm` on 50 images, once. Each row is measured in a process of its own, and
its peak memory is what this process needs beyond the model and the data, as Linux counts it. Times are CPU seconds,
which depend least on the other work of the machine.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from benchmark import Table, compare
from benchmark_penalties import Loop
from torch import Generator

from data import Dataset, Split
from losses import Jacobian
from models import MLP
from runner.evaluation import JacobianNorm, Subject

OUTPUTS = (10, 100, 1000)
BATCH = 32
EXAMPLES = 50  # of the probe
PENALTIES = {
    "none": (),
    "1 projection": (Jacobian(),),
    "3 projections": (Jacobian(projections=3),),
    "exact": (Jacobian(projections=None),),
}
PROBE = "probe jacobian_norm"
ROUNDS = 30
FEW_ROUNDS = 2  # of the exact penalty with many outputs, which takes seconds


class Measured(NamedTuple):
    """Time of a step or of a probe, its ratio to a step without the penalty with quartiles, and its peak memory."""

    outputs: int
    what: str
    ms: float
    ratio: float  # NaN, as the quartiles, for a probe, which is no step
    low: float
    high: float
    peak_mib: float


def main(arguments: list[str]) -> list[Table]:
    """Measure all rows."""
    parser = ArgumentParser("benchmark.py outputs", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    rows = [
        [*row[:3], *((row.ratio, f"{row.low:.2f}-{row.high:.2f}") if row.what != PROBE else (None, "")), row.peak_mib]
        for row in measure()
    ]
    columns = ["outputs", "what", "ms", "ratio", "quartiles", "peak MiB"]
    return [Table("Jacobians of many outputs: a perceptron 784-200-200-C, batches of 32, one thread", columns, rows)]


def measure() -> list[Measured]:
    """Return a row for each number of outputs and thing that is measured."""
    return [in_own_process(what, outputs) for outputs in OUTPUTS for what in (*PENALTIES, PROBE)]


def in_own_process(what: str, outputs: int) -> Measured:
    """Measure one thing in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send, args=(what, outputs, sender))
    process.start()
    sender.close()  # so that a child that dies ends the wait
    row = receiver.recv()
    process.join()
    return row


def send(what: str, outputs: int, sender: multiprocessing.connection.Connection) -> None:
    """Measure one thing and send it; torch is warmed up by other work."""
    torch.set_num_threads(1)
    work("1 projection", 2)()
    runs = {"none": work("none", outputs), what: work(what, outputs)}
    before = memory("VmRSS")
    if what == PROBE:
        start = time.process_time()
        runs[PROBE]()
        times = (time.process_time() - start, *[float("nan")] * 3)
    else:
        is_slow = what == "exact" and outputs > OUTPUTS[0]
        rounds, warm_up = (FEW_ROUNDS, 0) if is_slow else (ROUNDS, 1)
        times = compare(runs, rounds, warm_up, clock=time.process_time)[what]
    sender.send(Measured(outputs, what, 1e3 * times[0], *times[1:], memory("VmHWM") - before))


def work(what: str, outputs: int) -> Callable[[], object]:
    """Return a function that does once what is measured."""
    generator = Generator().manual_seed(0)
    torch.manual_seed(0)
    model = MLP(input_shape=(1, 28, 28), outputs=outputs, widths=(200, 200))
    count = EXAMPLES if what == PROBE else BATCH
    inputs = torch.randn(count, 1, 28, 28, generator=generator)
    targets = torch.randint(outputs, (count,), generator=generator)
    if what != PROBE:
        return partial(Loop(model, inputs, targets, torch.contiguous_format).penalised_step, PENALTIES[what])
    split = Split(inputs, targets)
    dataset = Dataset(split, None, split, outputs, torch.tensor(0.0), torch.tensor(1.0))
    return partial(JacobianNorm(), Subject(model, torch.nn.CrossEntropyLoss(reduction="none"), dataset, generator))


def memory(name: str) -> float:
    """Return a number of this process's memory in MiB, as Linux counts it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return float(line.split()[1]) / 1024
