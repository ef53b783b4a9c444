"""Measure the cost of what this repository does, as ratios of times measured side by side.

    uv run scripts/benchmark.py penalties        cost of each penalty, compared with the naive way
    uv run scripts/benchmark.py penalties --help

Each subject has its own file, `scripts/benchmark_<subject>.py`, with a function `main(arguments)`.
"""

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

HERE = Path(__file__).resolve().parent
Name = TypeVar("Name", bound=Hashable)


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


def main(arguments: list[str]) -> None:
    """Run the benchmark of the subject that the first argument names."""
    subjects = sorted(path.stem.removeprefix("benchmark_") for path in HERE.glob("benchmark_*.py"))
    if not arguments or arguments[0] not in subjects:
        sys.exit(f"usage: uv run scripts/benchmark.py {{{'|'.join(subjects)}}} [options]\n\n{__doc__}")
    sys.path.insert(0, str(HERE.parent))  # the packages: losses, models, data
    importlib.import_module(f"benchmark_{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
