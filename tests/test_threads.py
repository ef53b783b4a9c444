"""Idle threads of torch sleep soon, in each process of ours: libgomp itself says how they wait when it is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.sweeps import TINY

OURS = "3000"
PROCESSES = {
    "a run": ["train.py", *TINY, "epochs=1"],
    "jobs of a sweep": ["train.py", "-m", *TINY, "epochs=1", "seed=0,1"],
    "a stack": ["train.py", "-m", *TINY, "epochs=1", "seed=0,1", "hydra/launcher=stacked"],
    "a job of a cluster": ["-c", "import runner.sweep.job, torch"],  # what Slurm's and Ray's unpickle is found there
    "a notebook": ["-c", "import runner.results, torch"],
    "a benchmark": ["scripts/benchmark.py", "penalties", "--help"],
    "a study": ["scripts/reproduce.py", "--help"],
    "a page": ["-c", f"import runpy; runpy.run_path({str(ROOT / 'scripts' / 'performance.py')!r})"],
    "a test": ["-m", "pytest", "-s", "--collect-only", "-q", "-n", "0", "tests/test_map.py"],
}

pytestmark = [
    pytest.mark.process,
    pytest.mark.needs("libgomp"),
]


def spin_counts(line: list[str], folder: Path, **variables: str) -> set[str]:
    """Run Python, and return the spin counts that libgomp shows: once in each process that loads it."""
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "PYTEST_"))}
    path = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    line = [str(ROOT / word) if word.endswith(".py") else word for word in line]
    done = subprocess.run(
        [sys.executable, *line],
        cwd=ROOT if "pytest" in line else folder,
        env={**usual, **path, "OMP_DISPLAY_ENV": "VERBOSE", **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stdout + done.stderr))


@pytest.mark.parametrize("process", PROCESSES)
def test_idle_threads_sleep_in(process: str, tmp_path: Path) -> None:
    assert spin_counts(PROCESSES[process], tmp_path) == {OURS}


@pytest.mark.parametrize(
    ("name", "value", "shown"), [("GOMP_SPINCOUNT", "7", "7"), ("OMP_WAIT_POLICY", "PASSIVE", "0")]
)
def test_the_users_own_setting_wins(name: str, value: str, shown: str, tmp_path: Path) -> None:
    assert spin_counts(PROCESSES["a notebook"], tmp_path, **{name: value}) == {shown}


def test_by_itself_torch_would_have_them_spin(tmp_path: Path) -> None:
    """The control: without us, and where torch is loaded before this package."""
    for code in ("import torch", "import torch, runner"):
        (shown,) = spin_counts(["-c", code], tmp_path)
        assert int(shown) > 100_000
