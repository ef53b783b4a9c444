"""The cost of whole processes: their start, the jobs of a sweep, and what a run does around its training."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmark import HERE, ROOT, TRAIN, Table, children_cpu, compare, images_file, number, subject, train

QUIET = ("histograms=false", "pictures=false", "evaluate_every=0")
TINY = ("data=line", "model=mlp", "loss=mse", "epochs=2", "device=cpu", *QUIET)
LINE = ("data=line", "model=mlp", "model.activation=tanh", "loss=mse", "optimizer=adam", "penalty=jacobian")
# Code before which `train.py` is an argument: Python then runs it as if by its name.
AS_MAIN = """
import os, runpy, sys
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
{prepare}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


# ---- starts

BARE_START = """
import torch
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(2, 4)).sum().backward()
optimizer.step()
"""
# train.py itself, which ends as soon as the first optimizer's first step has ended.
FIRST_STEP = AS_MAIN.format(
    prepare="""
import importlib.machinery
class Ending:
    def find_spec(self, name, path=None, target=None):
        if name != "runner.training.loop":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            step = module.Loop.step
            module.Loop.step = lambda *arguments: (step(*arguments), os._exit(0))
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Ending())
"""
)


@subject(
    rounds=number(2, 5, "timed rounds"),
    wall={"action": "store_true", "help": "the clock on the wall instead of CPU seconds"},
)
def startup(options: Namespace) -> list[Table]:
    """Measure the time from the command to the end of the first step, and to the answers that need no training.

        uv run scripts/benchmark.py startup                        5 rounds
        uv run scripts/benchmark.py startup --rounds 9 --wall      by the clock on the wall, on a quiet machine

    A bare script that imports torch and makes one step of an optimizer is the limit: nothing that trains can be faster.
    Times are CPU seconds of the processes unless --wall is given. Targets: the first step at most 1.25 of the bare
    script; `--help` under 0.2 s; a misspelt key under 0.5 s.
    """
    clock = time.perf_counter if options.wall else children_cpu
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as folder:
        run = partial(subprocess.run, cwd=folder, env=environment, capture_output=True, check=False)
        alternatives = {
            "bare script": partial(run, [sys.executable, "-c", BARE_START]),
            "first step": partial(run, [sys.executable, "-c", FIRST_STEP, str(TRAIN), "force=true"]),
            "--help": partial(run, [sys.executable, str(TRAIN), "--help"]),
            "misspelt key": partial(run, [sys.executable, str(TRAIN), "epoch=3"]),
        }
        timings = compare(alternatives, options.rounds, clock=clock)
    unit = "seconds" if options.wall else "CPU seconds"
    rows = [[name, *timing.row] for name, timing in timings.items()]
    return [Table("Start: from the command", ["to", unit, "of the bare script", "quartiles"], rows)]


# ---- sweeps

EPOCHS = 20
BARE = """
import sys, torch, numpy as np
from torch.nn.functional import cross_entropy
from models import MNISTConvnet
path, runs, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
file = np.load(path)
images, labels, test = (torch.tensor(file[name]) for name in ("train_images", "train_labels", "test_images"))
normalised = lambda images: ((images.float() / 255 - 0.13) / 0.31).contiguous(memory_format=torch.channels_last)
inputs, test = normalised(images), normalised(test)
for seed in range(runs):
    torch.manual_seed(seed)
    model = MNISTConvnet(input_shape=(1, 28, 28), outputs=10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        for indices in torch.randperm(len(inputs)).split(100):
            optimizer.zero_grad()
            cross_entropy(model(inputs[indices]), labels[indices]).backward()
            optimizer.step()
    with torch.no_grad():
        for part in (inputs, test):
            for batch in part.split(1000):
                model(batch)
"""
FEW = 4  # jobs of the short sweep, which separates the start from the time that each job adds


@subject(
    root=ROOT,
    rounds=number(1, 1, "timed rounds"),
    jobs=number(FEW + 1, 40, "tiny runs of a launcher"),
    runs=number(1, 24, "on 1,000 images, a multiple of the cores"),
    launchers={"nargs": "*", "default": ("local", "stacked")},
)
def sweep(options: Namespace) -> list[Table]:
    """Measure the time that a launcher adds to each job of a sweep, and compare jobs in parallel with one at a time.

        uv run scripts/benchmark.py sweep                          40 tiny runs with each launcher, one round; 24 others
        uv run scripts/benchmark.py sweep --jobs 12 --rounds 3 --launchers local stacked
        uv run scripts/benchmark.py sweep --root data_root         MNIST's first 1,000 digits instead of random images

    All rounds start `train.py -m` in an empty folder, with one launcher after the other. Targets: with `local`, less
    than 0.05 s for each further job; n_jobs=2 takes at most 1.1 times as long as two bare one-thread loops side by
    side.
    """
    return [compare_launchers(options), compare_jobs_at_a_time(options)]


def seconds_of(launcher: str, jobs: int) -> float:
    return train(["-m", *TINY, f"hydra/launcher={launcher}", f"seed=range({jobs})"]).seconds


def compare_launchers(options: Namespace) -> Table:
    """Time a short and a long sweep of the same tiny runs with each launcher."""
    taken: dict[str, list[tuple[float, float]]] = {launcher: [] for launcher in options.launchers}
    for _ in range(options.rounds):
        for launcher in options.launchers:
            taken[launcher].append((seconds_of(launcher, FEW), seconds_of(launcher, options.jobs)))
    first = taken[options.launchers[0]]
    rows = []
    for launcher, pairs in taken.items():
        total = statistics.median(long for _, long in pairs)
        ratio = statistics.median(long / base for (_, long), (_, base) in zip(pairs, first, strict=True))
        further = statistics.median((long - few) / (options.jobs - FEW) for few, long in pairs)
        rows.append([launcher, total, ratio, further])
    title = f"Launchers: {options.jobs} tiny runs on {os.cpu_count()} cores, medians of {options.rounds}"
    return Table(title, ["launcher", "seconds", "of the first", "each further job"], rows)


def compare_jobs_at_a_time(options: Namespace) -> Table:
    """Time the lecture's network on 1,000 images: in bare loops, as many jobs as cores, and one job at a time.

    The bare loops are as many scripts side by side as there are cores, with one thread each, each for its share of the
    runs: torch, the images, and for each run the network, the optimizer, the epochs, and at the end one pass over the
    training and the test images, as the runs evaluate.
    """
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        images = images_file(Path(folder), 1000, options.root)
        own = [f"epochs={EPOCHS}", "batch_size=100", "device=cpu", f"seed=range({options.runs})"]
        work = ["-m", *images, *QUIET, *own]
        ways: dict[str, Callable[[], float]] = {
            "bare loops": lambda: bare_loops(images, cores, options.runs // cores),
            f"n_jobs={cores}": lambda: train([*work, f"sweep.n_jobs={cores}"]).seconds,
            "n_jobs=1": lambda: train([*work, "sweep.n_jobs=1"]).seconds,
        }
        taken = {name: [way() for _ in range(options.rounds)] for name, way in ways.items()}
    bare = statistics.median(taken["bare loops"])
    rows = [[name, statistics.median(times), statistics.median(times) / bare] for name, times in taken.items()]
    title = f"{options.runs} runs of {EPOCHS} epochs on 1,000 images, starts included, medians of {options.rounds}"
    return Table(title, ["way", "seconds", "of the bare loops"], rows)


def bare_loops(images: Sequence[str], processes: int, runs: int) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    line = [sys.executable, "-c", BARE, images[1].partition("=")[2], str(runs), str(EPOCHS)]
    began = time.perf_counter()
    started = [subprocess.Popen(line, env=environment) for _ in range(processes)]
    if any(process.wait() for process in started):
        sys.exit("a bare loop failed")
    return time.perf_counter() - began


def jobs(options: Namespace, launcher: str = "local") -> Table:
    """Sweeps of tiny jobs: trained, and the same command again, which checks and summarises them."""
    rows = []
    for count in options.jobs:
        with tempfile.TemporaryDirectory() as folder:
            line = [*TINY, f"seed=range({count})", f"hydra/launcher={launcher}"]
            rows.append([count, *measured_sweep(line, folder), *measured_sweep(line, folder)])
    again = "again, CPU seconds", "again, seconds", "again, MiB"
    columns = ["jobs", "CPU seconds", "seconds", "MiB", *again]
    title = "Jobs in a sweep" if launcher == "local" else "Jobs in a sweep of stacks"
    (few, *_, many) = rows if len(rows) > 1 else rows * 2
    each = (many[2] - few[2]) / max(1, many[0] - few[0])
    note = "Starts included; MiB of the command's own process. `again` is the same command once more, which trains "
    note += f"nothing. Each further job takes {each:.3g} s by the clock."
    return Table(f"{title}: five points, {TINY[3]}", columns, rows, note)


# Keeps the peak memory of the command's own process, in KiB: the kernel's, since getrusage's holds its parent's, too.
PEAK = AS_MAIN.format(
    prepare="""
import atexit
status = lambda: dict(line.split(":", 1) for line in open("/proc/self/status"))
atexit.register(lambda: open("peak", "w").write(status()["VmHWM"].split()[0]))
"""
)


def measured_sweep(line: Sequence[str], folder: str) -> tuple[float, float, float]:
    """Return the CPU seconds of a sweep with all its processes, its seconds, and the MiB of its own process."""
    taken = train(["-m", *line], folder, before=("-c", PEAK))
    return taken.cpu_seconds, taken.seconds, int(Path(folder, "peak").read_text()) / 1024


def stacked_sweeps(options: Namespace) -> Table:
    work = ("-m", *LINE, *QUIET, f"epochs={options.epochs}", f"seed=range({options.jobs})", "sweep.n_jobs=2")
    work += (f"device={options.device}",)
    stacked, local = (train([*work, f"hydra/launcher={launcher}"]) for launcher in ("stacked", "local"))
    ratios = [one / other for one, other in zip(local, stacked, strict=True)]
    named = {"stacked": stacked, "local": local, "local by stacked": ratios}
    rows = [[name, *(round(number, 1) for number in numbers)] for name, numbers in named.items()]
    note = f"{options.jobs} jobs of {options.epochs} epochs, n_jobs=2, starts and results included."
    return Table("Whole sweeps", ["launcher", "seconds", "CPU seconds"], rows, note)


def around_training(options: Namespace) -> Table:
    """Runs as a user starts them, with pictures and histograms: their time over that of their training alone."""
    rows = []
    for training, epochs, every in ((1_000, 20, "null"), (1_000, 20, "1"), (10_000, 10, "null"), (10_000, 10, "1")):
        with tempfile.TemporaryDirectory() as folder:
            images = images_file(Path(folder), 10_000, options.root)
            own = ["optimizer.lr=0.001", f"data.train_size={training}", f"epochs={epochs}", f"evaluate_every={every}"]
            line = [*images, *own, "batch_size=100", "threads=1", "device=cpu"]
            found = [seconds_of_training(line, examples=training * epochs) for _ in range(options.rounds)]
        whole, alone = (statistics.median(column) for column in zip(*found, strict=True))
        rows.append([training, epochs, every, whole, alone, statistics.median(each / own for each, own in found)])
    columns = ["training images", "epochs", "evaluate_every", "seconds", "training alone", "ratio"]
    note = "Of a test on 10,000 images, no validation split; by the clock, from the first evaluation to the result."
    title = f"Around the training: runs of `train.py` after their start, one thread, medians of {options.rounds}"
    return Table(title, columns, rows, note)


def seconds_of_training(line: list[str], examples: int) -> tuple[float, float]:
    """Return the seconds of a run after its start, and those of its training, by its own record."""
    with tempfile.TemporaryDirectory() as folder:
        train([*line, "runs_dir=."], folder)
        (path,) = Path(folder).glob("train/*/result.json")
        result = json.loads(path.read_text())
    return result["seconds"], examples / result["examples_per_second"]
