"""The benchmarks: their shared function, with a clock that the alternatives advance; files, page and pictures."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
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


@pytest.mark.parametrize("words", [["-h"], ["--help"]])
def test_help_lists_the_subjects_and_is_no_error(
    benchmark, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    benchmark.main(words)
    assert "uv run scripts/benchmark.py {outputs|penalties|" in capsys.readouterr().out


NONSENSE = ["startup --rounds 1", "runner --rounds x", "scaling --jobs 8 0", "stacked --sizes 1", "sweep --jobs 4"]
NONSENSE += ["penalties --question 1", "penalties --device tpu", "stacked --device tpu"]


@pytest.mark.parametrize("line", NONSENSE)
def test_a_number_that_cannot_be_is_refused_in_a_sentence(
    benchmark, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    with pytest.raises(SystemExit) as leaving:
        benchmark.main(line.split())
    assert leaving.value.code == 2
    assert re.search(rf"argument --\w+: must be .*, got {line.split()[-1]}$", capsys.readouterr().err.strip())


# ---- files of results, and the page made of them


@pytest.fixture
def measured(benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of a subject that measures nothing, in a folder of its own."""
    rows = [[1, 2.0, 1_234_567.0, None], [10, 0.0123456, 20.5, "quick"]]
    table = benchmark.Table("Batch size: some", ["batch size", "CPU seconds", "rate", "words"], rows, "A note.")
    quick = benchmark.subject(a={"action": "store_true"})(lambda options: [table] * options.a)
    monkeypatch.setitem(sys.modules, "benchmark_loops", Mock(scaling=quick))
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


def test_the_page_says_in_one_place_whether_cuda_was_measured(performance, tmp_path: Path) -> None:
    assert performance.page(tmp_path).count("CUDA: not measured") == 1
    table = {"title": "Costs", "columns": ["a step with", "ratio"], "rows": [["jacobian", 2.5]]}
    rows = [{"row": "tests", "verdict": "failed with code 1", "seconds": 9}]
    record = {
        "device": "NVIDIA H200",
        "machine": "x86_64, 16 cores",
        "date": "2027-01-02",
        "versions": {"torch": "2.11"},
    }
    (tmp_path / "cuda.json").write_text(json.dumps(record | {"rows": rows, "tables": [table]}))
    page = performance.page(tmp_path)
    assert "not measured." not in page
    assert "2027-01-02, NVIDIA H200, x86_64, 16 cores, torch 2.11." in page
    assert "| tests | failed with code 1 | 9 |" in page
    assert "### Costs\n\n| a step with | ratio |" in page


def test_no_other_page_says_that_cuda_was_not_measured() -> None:
    pages = [SCRIPTS.parent / "README.md", *(SCRIPTS.parent / "docs").glob("*.md")]
    assert [page.name for page in pages if re.search(r"CUDA\W+not (measured|tried)", page.read_text())] in (
        ["performance.md"],
        [],  # once there is a file
    )


# ---- the script for a GPU, with a Python that only plays


PLAYED = """#!/usr/bin/env bash
case "$*" in
    -\\ *) exec {python} "$@" ;;
    *{broken}*) echo "broken on purpose"; exit 3 ;;
    *) echo "$*" >> {folder}/played ;;
esac
"""


@pytest.fixture
def on_gpu(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs scripts/gpu.sh, where the commands with a word in them fail."""

    def ran(*arguments: str, broken: str = "nothing", **variables: str) -> subprocess.CompletedProcess[str]:
        played = tmp_path / "python"
        played.write_text(PLAYED.format(python=sys.executable, broken=broken, folder=tmp_path))
        played.chmod(0o755)
        line = ["bash", str(SCRIPTS / "gpu.sh"), *arguments]
        variables = {**os.environ, "PYTHON": str(played), "DEVICE": "cpu", **variables}
        return subprocess.run(line, env=variables, capture_output=True, text=True)

    return ran


@pytest.mark.process
@pytest.mark.parametrize("broken", ["nothing", "launcher=stacked"])
def test_a_row_that_fails_on_a_gpu_is_named(on_gpu: Callable[..., Any], tmp_path: Path, broken: str) -> None:
    done = on_gpu(broken=broken, OUT=str(tmp_path / "out.json"))
    record = json.loads((tmp_path / "out.json").read_text())
    verdicts = {row["row"]: row["verdict"] for row in record["rows"]}
    assert len(verdicts) == 6
    assert record["device"] == "cpu"
    assert record["date"] == datetime.now(UTC).strftime("%Y-%m-%d")
    failed = {} if broken == "nothing" else {"a sweep of stacks": "failed with code 3"}
    assert {row: verdict for row, verdict in verdicts.items() if verdict != "passed"} == failed
    assert done.returncode == bool(failed)
    assert ("failed: a sweep of stacks" in done.stderr) == bool(failed)
    assert "test_gpu.py" in (tmp_path / "played").read_text()


@pytest.mark.process
def test_packages_for_the_gpu_come_from_a_folder_alone(on_gpu: Callable[..., Any], tmp_path: Path) -> None:
    on_gpu("some/wheels", OUT=str(tmp_path / "out.json"))
    assert "pip install --quiet --no-index --find-links some/wheels hydra-core" in (tmp_path / "played").read_text()


@pytest.mark.process
def test_the_cpu_does_not_overwrite_the_record_of_a_gpu(on_gpu: Callable[..., Any], tmp_path: Path) -> None:
    done = on_gpu()
    assert (done.returncode, "DEVICE=cpu needs OUT=FILE" in done.stderr) == (2, True)
    assert not (tmp_path / "played").exists()


# ---- the page of the repository


def test_the_page_of_the_repository_is_that_of_its_files(performance) -> None:
    """No number on it is typed by hand."""
    assert performance.page(performance.FOLDER) == (performance.FOLDER.parent / "performance.md").read_text()
    for record in performance.records(performance.FOLDER).values():
        for table in performance.tables_of(record):
            picture = performance.picture_of(table)
            if picture is not None:
                assert performance.growth_of(table).axes[0].lines
                assert (performance.FOLDER / f"{picture}.png").stat().st_size < 150_000
