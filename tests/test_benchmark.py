"""The benchmarks: their shared function, with a clock that the alternatives advance; files, page and pictures."""

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from unittest.mock import Mock

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "benchmark", raising=False)
    import benchmark

    return benchmark


@pytest.fixture
def performance(benchmark):
    import performance

    return performance


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


# ---- files of results, and the page made of them


@pytest.fixture
def measured(benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of a subject that measures nothing, in a folder of its own."""
    rows = [[1, 2.0, 1_234_567.0, None], [10, 0.0123456, 20.5, "quick"]]
    table = benchmark.Table("Batch size: some", ["batch size", "CPU seconds", "rate", "words"], rows, "A note.")
    monkeypatch.setitem(
        sys.modules, "benchmark_scaling", Mock(main=lambda options: [table] if options == ["--a"] else [])
    )
    benchmark.main(["scaling", "--json", str(tmp_path / "new" / "scaling.json"), "--a"])
    return tmp_path / "new" / "scaling.json"


def test_a_file_says_what_its_numbers_depend_on(measured: Path) -> None:
    record = json.loads(measured.read_text())
    assert (record["subject"], record["arguments"]) == ("scaling", ["--a"])
    assert record["date"] == datetime.now(UTC).strftime("%Y-%m-%d")
    assert record["versions"]["torch"] == version("torch")
    assert str(os.cpu_count()) in record["machine"]
    assert len(record["load"]) == 2
    assert record["tables"][0]["rows"][0][:2] == [1, 2.0]


def test_the_page_says_what_the_files_say(measured: Path, performance) -> None:
    page = performance.page(measured.parent)
    assert "| 1 | 2 | 1,234,567 |  |\n| 10 | 0.0123 | 20.5 | quick |" in page
    assert "A note." in page
    assert "uv run scripts/benchmark.py scaling --a" in page
    assert page.endswith("## Not measured yet\n\nrunner, startup, sweep, penalties, outputs, stacked.\n")
    assert "(performance/batch_size.png)" in page
    (table,) = performance.tables_of(performance.records(measured.parent)["scaling"])
    (axes,) = performance.growth_of(table).axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 2.0], [10, 0.0123456]]


def test_the_page_of_the_repository_is_that_of_its_files(performance) -> None:
    """No number on it is typed by hand."""
    assert performance.page(performance.FOLDER) == (performance.FOLDER.parent / "performance.md").read_text()
    for record in performance.records(performance.FOLDER).values():
        for table in performance.tables_of(record):
            picture = performance.picture_of(table)
            if picture is not None:
                assert performance.growth_of(table).axes[0].lines
                assert (performance.FOLDER / f"{picture}.png").stat().st_size < 150_000
