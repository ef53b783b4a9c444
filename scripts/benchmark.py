"""Cost of what this repository does, as ratios of times measured side by side.

    uv run scripts/benchmark.py penalties        cost of each penalty, beside the naive way
    uv run scripts/benchmark.py penalties --help

Each subject is a file of its own, `scripts/benchmark_<subject>.py`, with a function `main(arguments)`.
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
    """Seconds of one alternative, and what it takes compared with the first."""

    seconds: float  # median over the rounds
    ratio: float  # median over the rounds of its time by that of the first, run just beside it
    low: float  # quartiles of that ratio; those of the first by itself tell how noisy the machine is
    high: float


def compare(
    alternatives: Mapping[Name, Callable[[], object]],
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, Timing]:
    """Time alternatives side by side: in each round, each of them once, and the first just before or after it.

    What else goes on in the machine hits the two of a pair alike, so that it hardly touches their ratio.

    Args:
        alternatives: name -> what to time, without arguments; the first is what the others are compared with.
        rounds: how often each is timed, at least 2.
        warm_up: rounds before those, not counted.
        clock: seconds; `time.process_time` for work in this process alone, on a machine shared with others.

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
    """Return medians and quartiles of pairs of seconds, an alternative's and the first's beside it."""
    low, middle, high = statistics.quantiles([own / base for own, base in pairs], n=4, method="inclusive")
    return Timing(statistics.median(own for own, _ in pairs), middle, low, high)


def main(arguments: list[str]) -> None:
    """Hand over to the file of the subject that the first argument names."""
    subjects = sorted(path.stem.removeprefix("benchmark_") for path in HERE.glob("benchmark_*.py"))
    if not arguments or arguments[0] not in subjects:
        sys.exit(f"usage: uv run scripts/benchmark.py {{{'|'.join(subjects)}}} [options]\n\n{__doc__}")
    sys.path.insert(0, str(HERE.parent))  # the packages: losses, models, data
    importlib.import_module(f"benchmark_{arguments[0]}").main(arguments[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
