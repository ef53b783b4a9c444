"""Measure the time that a launcher adds to each job of a sweep, and compare jobs in parallel with one at a time.

    uv run scripts/benchmark.py sweep                          40 tiny runs with each launcher, one round
    uv run scripts/benchmark.py sweep --jobs 12 --rounds 3 --launchers local basic
    uv run scripts/benchmark.py sweep --root data_root         MNIST's first 1,000 digits instead of random images

All rounds start `train.py -m` in an empty folder, with one launcher after the other. Targets: with `local`, less than
0.3 s for each further job; n_jobs=2 has at least 1.3 times the throughput of n_jobs=1 with as many threads as cores.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import numpy as np
from benchmark import HERE

TRAIN = HERE.parent / "train.py"
LAUNCHERS = ("local", "basic", "joblib_jobs", "submitit_machine")
QUIET = ("histograms=false", "pictures=false", "evaluate_every=0", "device=cpu")
TINY = ("data=line", "model=mlp", "loss=mse", "epochs=2", *QUIET)
FEW = 4  # jobs of the short sweep, which separates the start from the time that each job adds


def main(arguments: list[str]) -> None:
    """Print both tables."""
    options = parsed(arguments)
    compare_launchers(options)
    compare_jobs_at_a_time(options)


def parsed(arguments: list[str]) -> Namespace:
    parser = ArgumentParser(prog="benchmark.py sweep", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="folder of MNIST (default: random images)")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--launchers", nargs="*", default=LAUNCHERS)
    return parser.parse_args(arguments)


def compare_launchers(options: Namespace) -> None:
    """Time a short and a long sweep of the same tiny runs with each launcher."""
    taken: dict[str, list[tuple[float, float]]] = {launcher: [] for launcher in options.launchers}
    for _ in range(options.rounds):
        for launcher in options.launchers:
            few, all_jobs = (
                elapsed([*TINY, f"hydra/launcher={launcher}", f"seed=range({jobs})"]) for jobs in (FEW, options.jobs)
            )
            taken[launcher].append((few, all_jobs))
    print(f"{options.jobs} runs on {os.cpu_count()} cores, medians of {options.rounds}")
    print(f"{'launcher':<20}{'seconds':>9}{'of the first':>14}{'each further job':>18}")
    first = taken[options.launchers[0]]
    for launcher, pairs in taken.items():
        total = statistics.median(long for _, long in pairs)
        ratio = statistics.median(long / base for (_, long), (_, base) in zip(pairs, first, strict=True))
        further = statistics.median((long - few) / (options.jobs - FEW) for few, long in pairs)
        print(f"{launcher:<20}{total:>9.1f}{ratio:>14.2f}{further:>18.3f}")


def compare_jobs_at_a_time(options: Namespace) -> None:
    """Time the lecture's network on 1,000 images: as many jobs as cores with one thread each, or the reverse."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        work = [*images(options.root, Path(folder)), "epochs=10", *QUIET, f"seed=range({2 * cores})"]
        taken = [
            (elapsed([*work, f"sweep.n_jobs={cores}"]), elapsed([*work, "sweep.n_jobs=1"]))
            for _ in range(options.rounds)
        ]
    ratio = statistics.median(alone / together for together, alone in taken)
    print(f"\n{2 * cores} runs on 1,000 images, starts included")
    for name, seconds in zip((f"n_jobs={cores}", "n_jobs=1"), zip(*taken, strict=True), strict=True):
        print(f"{name:<20}{statistics.median(seconds):>9.1f}")
    print(f"throughput of n_jobs={cores} by that of n_jobs=1: {ratio:.2f}")


def images(root: str | None, folder: Path) -> list[str]:
    """Return the options of the data: MNIST's first 1,000 digits, or 1,000 random images."""
    if root:
        return ["data=mnist", f"data.root={Path(root).resolve()}", "data.train_size=1000"]
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (1000, 1, 28, 28)).astype(np.uint8)
    labels = np.arange(1000) % 10
    np.savez(folder / "images.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    return ["data=npz", f"data.path={folder / 'images.npz'}"]


def elapsed(arguments: list[str]) -> float:
    """Return the seconds of a sweep in its own folder, which must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        line = [sys.executable, str(TRAIN), "-m", *arguments]
        ran = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if ran.returncode:
        sys.exit(f"{' '.join(line)} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return seconds
