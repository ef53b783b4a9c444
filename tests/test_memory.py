"""Memory: flat over epochs and over jobs in one process; for lack of it a job fails in one sentence, alone."""

from __future__ import annotations

import gc
import mmap
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import ROOT
from support.forked import Forks

from runner.run import Session, train_run

Composed = Callable[..., Any]
SHORT = ("data.train_size=100", "data.validation_size=50", "batch_size=25", "optimizer.lr=1e-5")
PENALTIES = "penalty=[jacobian,large_margin]"
RISE = 3_000_000  # bytes from one epoch or job to the next; a process that has imported torch has 500 million


def resident() -> int:
    """Return this process's resident memory in bytes, less what is garbage."""
    gc.collect()
    return psutil.Process().memory_info().rss


def assert_flat(sizes: list[int]) -> None:
    """After a time to warm up, memory does not rise from one size to the next: the median of the differences.

    Not the largest size: other tests may have left gigabytes to this process, which the C library gives back at
    any time, and a fall by one gigabyte would hide a leak of 40 MB an epoch.
    """
    sizes = sizes[len(sizes) // 5 :]
    print([size // 2**20 for size in sizes], "MiB")
    assert statistics.median(later - before for before, later in pairwise(sizes)) <= RISE


def sizes_of_epochs(composed: Composed, monkeypatch: pytest.MonkeyPatch, epochs: int, *overrides: str) -> list[int]:
    """Train so many epochs, each evaluated, saved and recorded with histograms and pictures; return all sizes."""
    sizes: list[int] = []
    evaluate = Session.evaluate

    def measured(self: Session, means: dict[str, float]) -> None:
        evaluate(self, means)
        sizes.append(resident())

    monkeypatch.setattr(Session, "evaluate", measured)
    assert (
        train_run(composed(*SHORT, f"epochs={epochs}", "checkpoint_seconds=1e-6", PENALTIES, *overrides))["status"]
        == "done"
    )
    return sizes


def sizes_of_jobs(composed: Composed, jobs: int, *overrides: str) -> list[int]:
    """Train so many runs one after the other in this process; return the size after each."""
    sizes = []
    for seed in range(jobs):
        assert train_run(composed(*SHORT, f"seed={seed}", "epochs=1", PENALTIES, *overrides))["status"] == "done"
        sizes.append(resident())
    return sizes


def test_memory_is_flat_over_epochs(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_flat(sizes_of_epochs(composed, monkeypatch, 8))


def test_memory_is_flat_over_jobs(composed: Composed) -> None:
    assert_flat(sizes_of_jobs(composed, 8))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_memory_is_flat_over_epochs_whole(composed: Composed, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    assert_flat(sizes_of_epochs(composed, monkeypatch, 30, f"optimizer={optimizer}"))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "large_margin_convnet"])
def test_memory_is_flat_over_jobs_whole(composed: Composed, model: str) -> None:
    assert_flat(sizes_of_jobs(composed, 50, f"model={model}", "batch_norm=frozen"))


def test_a_leak_shows(composed: Composed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: 40 MB kept at each epoch, from the system: the C library may have as much of its own."""
    kept = []
    evaluate = Session.evaluate

    def leaking(*given: Any) -> None:
        evaluate(*given)
        block = mmap.mmap(-1, 40_000_000)
        for place in range(0, len(block), mmap.PAGESIZE):
            block[place] = 1
        kept.append(block)

    monkeypatch.setattr(Session, "evaluate", leaking)
    sizes = sizes_of_epochs(composed, monkeypatch, 8, "model=mlp", "histograms=false", "pictures=false")
    with pytest.raises(AssertionError):
        assert_flat(sizes)


SHARED = """
import gc
from runner.system import importing_much, share_with_forks
with importing_much("torch"):
    assert not gc.isenabled()
    import torch._dynamo
assert gc.isenabled()
print(gc.get_count(), gc.get_freeze_count() > 0)
share_with_forks()
with importing_much("a module that nobody has imported"):  # leaves what is shared as it is
    pass
print(gc.get_freeze_count() > 300_000)
"""


def said_by(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "leaked" not in done.stderr  # native modules look for it at the exit
    return done.stdout


def test_searches_for_garbage_leave_out_what_was_imported() -> None:
    counts, shared = said_by(SHARED).splitlines()
    assert re.fullmatch(r"\(\d{1,3}, 0, 0\) False", counts)  # of young objects, and of searches through these
    assert shared == "True"


def test_lack_of_memory_is_told_with_the_batch_size(forks: Forks, tmp_path: Path) -> None:
    """A model that does not fit, from the command line; then in a sweep, whose other job is not touched by it."""
    (tmp_path / "own" / "loss").mkdir(parents=True)
    (tmp_path / "own" / "loss" / "greedy.yaml").write_text("_target_: greedy.Greedy\nexabytes: 1\n")
    (tmp_path / "greedy.py").write_text(
        "import torch\n"
        "from losses import MSE\n"
        "class Greedy(MSE):\n"
        "    def __init__(self, exabytes: int = 1):\n"
        "        self.exabytes = exabytes\n"
        "    def losses(self, outputs, targets):\n"
        "        torch.empty(self.exabytes << 60)\n"
        "        return super().losses(outputs, targets)\n"
    )
    line = ("--config-dir=own", "allow_targets=[greedy]", "data=line", "model=mlp", "loss=greedy", "epochs=2")
    quiet = (*line, "threads=1", "device=cpu", "histograms=false", "pictures=false", "batch_size=4")
    assert forks.run(*quiet) == 1
    said = forks.said()
    assert "out of memory with batch_size=4: lower it" in said
    assert "Traceback" not in said
    assert forks.run("-m", *quiet, "loss.exabytes=0,1", "name=sweep") == 1
    statuses = [path.read_text() for path in tmp_path.glob("runs/sweep/*/result.json")]
    assert sorted('"status": "done"' in text for text in statuses) == [False, True]
    assert sum("out of memory with batch_size=4" in text for text in statuses) == 1
