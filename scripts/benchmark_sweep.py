"""Measure the time that a launcher adds to each job of a sweep, and compare jobs in parallel with one at a time.

    uv run scripts/benchmark.py sweep                          40 tiny runs with each launcher, one round; 24 others
    uv run scripts/benchmark.py sweep --jobs 12 --rounds 3 --launchers local stacked
    uv run scripts/benchmark.py sweep --root data_root         MNIST's first 1,000 digits instead of random images

All rounds start `train.py -m` in an empty folder, with one launcher after the other. Targets: with `local`, less than
0.05 s for each further job; n_jobs=2 takes at most 1.1 times as long as two bare one-thread loops side by side.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path

from benchmark import HERE, Table, at_least, random_images, sweep

LAUNCHERS = ("local", "stacked")
QUIET = ("histograms=false", "pictures=false", "evaluate_every=0", "device=cpu")
TINY = ("data=line", "model=mlp", "loss=mse", "epochs=2", *QUIET)
EPOCHS = 20
BARE = """
import sys, torch, numpy as np
from torch.nn.functional import cross_entropy
from models import MNISTConvnet
path, runs, epochs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if path.endswith(".npz"):
    file = np.load(path)
    images, labels, test = (torch.tensor(file[name]) for name in ("train_images", "train_labels", "test_images"))
else:
    import data
    raw = data.MNIST(path).load()
    images, labels, test = raw.train.inputs[:1000], raw.train.targets[:1000], raw.test.inputs
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


def main(arguments: list[str]) -> list[Table]:
    """Time the launchers, then jobs in parallel."""
    options = parsed(arguments)
    return [compare_launchers(options), compare_jobs_at_a_time(options)]


def parsed(arguments: list[str]) -> Namespace:
    parser = ArgumentParser(prog="benchmark.py sweep", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of MNIST (default: random images)")
    parser.add_argument("--rounds", type=at_least(1), default=1)
    parser.add_argument("--jobs", type=at_least(FEW + 1), default=40)
    parser.add_argument("--runs", type=at_least(1), default=24, help="on 1,000 images (a multiple of the cores)")
    parser.add_argument("--launchers", nargs="*", default=LAUNCHERS)
    return parser.parse_args(arguments)


def compare_launchers(options: Namespace) -> Table:
    """Time a short and a long sweep of the same tiny runs with each launcher."""
    taken: dict[str, list[tuple[float, float]]] = {launcher: [] for launcher in options.launchers}
    for _ in range(options.rounds):
        for launcher in options.launchers:
            few, all_jobs = (
                sweep([*TINY, f"hydra/launcher={launcher}", f"seed=range({jobs})"]).seconds
                for jobs in (FEW, options.jobs)
            )
            taken[launcher].append((few, all_jobs))
    first = taken[options.launchers[0]]
    rows = []
    for launcher, pairs in taken.items():
        total = statistics.median(long for _, long in pairs)
        ratio = statistics.median(long / base for (_, long), (_, base) in zip(pairs, first, strict=True))
        rows.append(
            [launcher, total, ratio, statistics.median((long - few) / (options.jobs - FEW) for few, long in pairs)]
        )
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
        data = images(options.root, Path(folder))
        work = [
            *data,
            f"epochs={EPOCHS}",
            "data.validation_size=0",
            "batch_size=100",
            *QUIET,
            f"seed=range({options.runs})",
        ]
        ways: dict[str, Callable[[], float]] = {
            "bare loops": lambda: bare_loops(data, cores, options.runs // cores),
            f"n_jobs={cores}": lambda: sweep([*work, f"sweep.n_jobs={cores}"]).seconds,
            "n_jobs=1": lambda: sweep([*work, "sweep.n_jobs=1"]).seconds,
        }
        taken = {name: [way() for _ in range(options.rounds)] for name, way in ways.items()}
    bare = statistics.median(taken["bare loops"])
    rows = [[name, statistics.median(times), statistics.median(times) / bare] for name, times in taken.items()]
    title = f"{options.runs} runs of {EPOCHS} epochs on 1,000 images, starts included, medians of {options.rounds}"
    return Table(title, ["way", "seconds", "of the bare loops"], rows)


def bare_loops(data: list[str], processes: int, runs: int) -> float:
    """Return the seconds of scripts side by side that train without the runner."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}
    line = [sys.executable, "-c", BARE, data[1].partition("=")[2], str(runs), str(EPOCHS)]
    began = time.perf_counter()
    started = [subprocess.Popen(line, env=environment) for _ in range(processes)]
    if any(process.wait() for process in started):
        sys.exit("a bare loop failed")
    return time.perf_counter() - began


def images(root: str | None, folder: Path) -> list[str]:
    """Return the options of the data: MNIST's first 1,000 digits, or 1,000 random images."""
    if root:
        return ["data=mnist", f"data.root={Path(root).resolve()}", "data.train_size=1000"]
    return random_images(folder, 1000)
