"""Measure the cost of what this repository does, as ratios of times measured side by side.

    uv run scripts/benchmark.py penalties        cost of each penalty, compared with the naive way
    uv run scripts/benchmark.py penalties --help
    uv run scripts/benchmark.py scaling --json docs/performance/scaling.json

Each subject has its own file, `scripts/benchmark_<subject>.py`, with a function `main(arguments)` that returns tables.
`--json FILE` keeps them, with the machine, the versions, the date and the load; `scripts/performance.py` makes
docs/performance.md of such files.
"""

import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

HERE = Path(__file__).resolve().parent
TRAIN = HERE.parent / "train.py"
Name = TypeVar("Name", bound=Hashable)


class Table(NamedTuple):
    """What was measured: a row of words and numbers for each thing, and what is to be known of them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    note: str = ""


class Timing(NamedTuple):
    """Time of one alternative, and its ratio to the time of the first one."""

    seconds: float  # median over the rounds
    ratio: float  # median over the rounds of its time divided by the first one's, measured just before or after
    low: float  # quartiles of that ratio; those of the first alternative show the noise of the machine
    high: float


def compare(
    alternatives: Mapping[Name, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, Timing]:
    """Time alternatives side by side: in each round each of them once, and the first one just before or after it.

    Other work of the machine slows both of a pair equally, so their ratio hardly changes.

    Args:
        alternatives: name -> function to time, without arguments; the others are compared with the first.
        rounds: number of times that each is timed (>= 2).
        warm_up: rounds before those, which are not counted (>= 0).
        clock: returns seconds; `time.process_time` counts this process only, for a machine shared with others.

    Raises:
        ValueError: for fewer than 2 rounds.
    """
    if rounds < 2:
        raise ValueError(f"rounds must be at least 2, got {rounds}")

    def timed(run: Callable[[], object]) -> float:
        start = clock()
        run()
        return clock() - start

    first = next(iter(alternatives.values()))
    pairs: dict[Name, list[tuple[float, float]]] = {name: [] for name in alternatives}
    for index in range(warm_up + rounds):
        for name, run in alternatives.items():
            if index % 2:
                base, own = timed(first), timed(run)
            else:
                own, base = timed(run), timed(first)
            pairs[name].append((own, base))
    return {name: timing_of(taken[warm_up:]) for name, taken in pairs.items()}


def timing_of(pairs: list[tuple[float, float]]) -> Timing:
    """Return medians and quartiles of pairs of seconds: of an alternative, and of the first one."""
    low, middle, high = statistics.quantiles([own / base for own, base in pairs], n=4, method="inclusive")
    return Timing(statistics.median(own for own, _ in pairs), middle, low, high)


class Elapsed(NamedTuple):
    """Time of a command, by the clock and on the processors."""

    seconds: float
    cpu_seconds: float


def sweep(arguments: Sequence[str], folder: str | None = None) -> Elapsed:
    """Run `train.py -m` in a folder, by default an empty one, with no threads given; it must succeed."""
    return train(["-m", *arguments], folder)


def train(arguments: Sequence[str], folder: str | None = None) -> Elapsed:
    """Run `train.py` in the same way."""
    if folder is None:
        with tempfile.TemporaryDirectory() as empty:
            return train(arguments, empty)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    line = [sys.executable, str(TRAIN), *arguments]
    began, before = time.perf_counter(), children_cpu()
    ran = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    taken = Elapsed(time.perf_counter() - began, children_cpu() - before)
    if ran.returncode:
        sys.exit(f"{' '.join(line)} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
    return taken


def clock_of(device: str) -> Callable[[], float]:
    """Return a clock for `compare`: CPU seconds of this process, on CUDA seconds when all that was begun has ended."""
    if device == "cpu":
        return time.process_time
    import torch

    def seconds() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return seconds


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number, for argparse."""

    def number(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < least:
            raise ArgumentTypeError(f"must be a whole number of at least {least}, got {text}")
        return int(text)

    return number


def device(name: str) -> str:
    """Check the value of an option `--device`, for argparse."""
    import torch

    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise ArgumentTypeError(f"must be cpu, or cuda where torch sees a GPU, got {name}")
    return name


def children_cpu() -> float:
    """Return the CPU seconds of all processes that this one has started and waited for."""
    times = os.times()
    return times.children_user + times.children_system


def random_images(folder: Path, count: int, classes: int = 10) -> list[str]:
    """Write random images with random labels, and return the options that read them."""
    import numpy as np

    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (count, 1, 28, 28)).astype(np.uint8)
    arrays = {"images": pixels, "labels": np.arange(count) % classes}
    np.savez(folder / "images.npz", **{f"{part}_{name}": a for part in ("train", "test") for name, a in arrays.items()})
    return ["data=npz", f"data.path={folder / 'images.npz'}", "data.validation_size=0"]


def markdown(table: Table) -> str:
    """Return a table as Markdown; numbers with three digits that count."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def facts(subject: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what measured times depend on."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in info.read_text().splitlines() if "model name" in line]
    return {
        "subject": subject,
        "arguments": ["FOLDER" if Path(argument).is_absolute() else argument for argument in arguments],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
    }


def main(arguments: list[str]) -> None:
    """Run the benchmark of the subject that the first argument names."""
    subjects = sorted(path.stem.removeprefix("benchmark_") for path in HERE.glob("benchmark_*.py"))
    usage = f"usage: uv run scripts/benchmark.py {{{'|'.join(subjects)}}} [--json FILE] [options]\n\n{__doc__}"
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage)
        return
    if not arguments or arguments[0] not in subjects:
        got = f"got {arguments[0]!r}" if arguments else "got nothing"
        sys.exit(f"the first argument must be a subject, one of {', '.join(subjects)}, {got}\n\n{usage}")
    sys.path.insert(0, str(HERE.parent))  # the packages: losses, models, data
    import runner  # noqa: F401 (before torch)

    subject, *options = arguments
    file = None
    if "--json" in options:
        place = options.index("--json")
        if place + 1 == len(options):
            sys.exit("--json must be followed by a file, got nothing: --json docs/performance/SUBJECT.json")
        file = Path(options[place + 1])
        del options[place : place + 2]
    before = os.getloadavg()[0]
    tables: list[Table] = []
    for table in importlib.import_module(f"benchmark_{subject}").main(options) or []:
        print(f"\n{table.title}\n\n{markdown(table)}\n{table.note}", flush=True)
        tables.append(table)
        if file:  # after each table: the next one may take long
            record = facts(subject, options) | {"load": [before, os.getloadavg()[0]]}
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(record | {"tables": [each._asdict() for each in tables]}, indent=1) + "\n")


if __name__ == "__main__":
    sys.modules["benchmark"] = sys.modules["__main__"]  # the subjects' files import it: the same classes
    main(sys.argv[1:])
