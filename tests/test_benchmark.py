"""The benchmarks' one shared function, with a clock that the alternatives advance themselves."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "benchmark", raising=False)
    import benchmark

    return benchmark


def test_ratios_hold_although_the_machine_slows_down(benchmark) -> None:
    """What slows first and other alike leaves no trace in the ratio: they are run side by side."""
    now, calls = [0.0], []

    def takes(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            now[0] += seconds * (1 + len(calls) // 4)  # ever slower, in steps of two pairs

        return run

    runs = {"plain": takes("plain", 1.0), "thrice": takes("thrice", 3.0)}
    timings = benchmark.compare(runs, rounds=6, warm_up=1, clock=lambda: now[0])
    assert timings["plain"].ratio == pytest.approx(1)
    assert timings["thrice"].ratio == pytest.approx(3, rel=0.3)
    assert timings["thrice"].low <= timings["thrice"].ratio <= timings["thrice"].high
    assert calls.count("thrice") == 7
    assert calls.count("plain") == 3 * 7  # by itself, and beside the other


def test_timing_is_of_medians_and_quartiles(benchmark) -> None:
    timing = benchmark.timing_of([(2.0, 1.0), (3.0, 1.0), (40.0, 1.0), (4.0, 1.0), (5.0, 1.0)])
    assert timing == (4.0, 4.0, 3.0, 5.0)


def test_one_round_is_refused(benchmark) -> None:
    with pytest.raises(ValueError, match=r"^rounds must be at least 2, got 1$"):
        benchmark.compare({"plain": lambda: None}, rounds=1)


def test_an_unknown_subject_lists_those_that_there_are(benchmark) -> None:
    with pytest.raises(SystemExit, match=r"usage: uv run scripts/benchmark.py \{.*penalties.*\}"):
        benchmark.main(["everything"])
