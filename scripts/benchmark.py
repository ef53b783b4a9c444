"""Measure the cost of what this repository does, as ratios of times measured side by side.

    uv run scripts/benchmark.py penalties        cost of each penalty, compared with the naive way
    uv run scripts/benchmark.py penalties --help
    uv run scripts/benchmark.py scaling --json docs/performance/scaling.json

Each subject is a function of that name in one of the files `scripts/benchmark_*.py`, and returns tables. `--json FILE`
keeps them, with the machine, the versions, the date and the load; `scripts/performance.py` makes docs/performance.md of
such files.
"""

import importlib
import inspect
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

HERE = Path(__file__).resolve().parent
TRAIN = HERE.parent / "train.py"
MODULES = {  # of the subjects
    "outputs": "benchmark_steps",
    "penalties": "benchmark_steps",
    "runner": "benchmark_loops",
    "scaling": "benchmark_loops",
    "stacked": "benchmark_loops",
    "startup": "benchmark_processes",
    "sweep": "benchmark_processes",
}
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

    @property
    def row(self) -> list[str | float]:
        return [self.seconds, self.ratio, f"{self.low:.2f}-{self.high:.2f}"]


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


def train(arguments: Sequence[str], folder: str | None = None, before: Sequence[str] = ()) -> Elapsed:
    """Run `train.py` in a folder, by default an empty one, with no threads given; it must succeed.

    Args:
        arguments: of the command.
        folder: where it runs.
        before: options of Python, such as -c and code that runs `train.py`.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as empty:
            return train(arguments, empty, before)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    line = [sys.executable, *before, str(TRAIN), *arguments]
    began, cpu = time.perf_counter(), children_cpu()
    ran = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    taken = Elapsed(time.perf_counter() - began, children_cpu() - cpu)
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
    import torch

    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        raise ArgumentTypeError(f"must be cpu, or cuda where torch sees a GPU, got {name}")
    return name


def number(least: int, default: int | Sequence[int] | None, about: str, **more: Any) -> dict[str, Any]:
    """Declare an option that is a whole number, or with nargs some of them."""
    return {"type": at_least(least), "default": default, "help": f"{about} (default: {default})", **more}


ROOT = {"help": "folder of MNIST (default: random images)"}
DEVICE = {"type": device, "default": "cpu", "help": "cpu (default) or cuda"}


class Subject(NamedTuple):
    """Something to measure: a function, whose docstring is the help, and the arguments of argparse for its options."""

    measure: Callable[[Namespace], Iterable[Table]]
    options: Mapping[str, Mapping[str, Any]]

    def tables(self, arguments: Sequence[str]) -> Iterable[Table]:
        name, about = f"benchmark.py {self.measure.__name__}", inspect.getdoc(self.measure)
        parser = ArgumentParser(name, description=about, formatter_class=RawDescriptionHelpFormatter)
        for option, declared in self.options.items():
            parser.add_argument(f"--{option}", **declared)
        return self.measure(parser.parse_args(arguments))


def subject(**options: Mapping[str, Any]) -> Callable[[Callable[[Namespace], Iterable[Table]]], Subject]:
    return lambda measure: Subject(measure, options)


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the CPU seconds of this process that some work takes."""
    began = time.process_time()
    run()
    return time.process_time() - began


def children_cpu() -> float:
    """Return the CPU seconds of all processes that this one has started and waited for."""
    times = os.times()
    return times.children_user + times.children_system


def images_file(folder: Path, count: int, root: str | None = None) -> list[str]:
    """Write MNIST's first digits and its test, or random images with random labels; return the options that read them.

    Args:
        folder: where the file is written.
        count: of images to train on.
        root: folder of MNIST; None: random images, as many to test on.
    """
    import numpy as np
    import torch

    import data

    pixels = np.random.RandomState(0).randint(0, 256, (count, 1, 28, 28)).astype(np.uint8)
    train = test = data.Split(torch.tensor(pixels), torch.arange(count) % 10)
    if root:
        raw = data.MNIST(root).load()
        train, test = data.Split(raw.train.inputs[:count], raw.train.targets[:count]), raw.test
    arrays = {"train_images": train.inputs, "train_labels": train.targets}
    arrays |= {"test_images": test.inputs, "test_labels": test.targets}
    np.savez(folder / "images.npz", **{name: array.numpy() for name, array in arrays.items()})
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
    usage = f"usage: uv run scripts/benchmark.py {{{'|'.join(MODULES)}}} [--json FILE] [options]\n\n{__doc__}"
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage)
        return
    if not arguments or arguments[0] not in MODULES:
        got = f"got {arguments[0]!r}" if arguments else "got nothing"
        sys.exit(f"the first argument must be a subject, one of {', '.join(MODULES)}, {got}\n\n{usage}")
    sys.path.insert(0, str(HERE.parent))  # the packages: losses, models, data
    import runner  # noqa: F401 (before torch)

    common = ArgumentParser(add_help=False, allow_abbrev=False)
    common.add_argument("--json", type=Path, metavar="FILE")
    name, (given, options) = arguments[0], common.parse_known_args(arguments[1:])
    before = os.getloadavg()[0]
    tables: list[Table] = []
    for table in getattr(importlib.import_module(MODULES[name]), name).tables(options):
        print(f"\n{table.title}\n\n{markdown(table)}\n{table.note}", flush=True)
        tables.append(table)
        if given.json:  # after each table: the next one may take long
            record = facts(name, options) | {"load": [before, os.getloadavg()[0]]}
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(record | {"tables": [each._asdict() for each in tables]}, indent=1) + "\n")


if __name__ == "__main__":
    sys.modules["benchmark"] = sys.modules["__main__"]  # the subjects' files import it: the same classes
    main(sys.argv[1:])
