"""Shared by the tests: a run in this process, one by the command line, and one in a forked process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import runner  # noqa: F401 (before torch)

# isort: split
import pytest
import torch
from support import ROOT
from support.forked import Forks, forking
from support.skips import (  # noqa: F401  (pytest calls them)
    deselect_unmet,
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from support.sweeps import Sweeps

# Whoever uses one of these starts processes; the other tests that do so are marked where they stand.
STARTING = {"command", "forking_process", "board"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that start processes, and leave out the slow ones unless `-m` names them."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if STARTING & fixtures:
            item.add_marker("process")
        if "gpu" in fixtures:
            item.add_marker("gpu")
    if hasattr(config, "workerinput"):  # the long ones first, so that no worker ends long after the other
        items.sort(key=lambda item: item.get_closest_marker("process") is None)
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow and "slow" not in config.option.markexpr:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    deselect_unmet(config, items)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests are small, and may share their cores with others."""
    torch.set_num_threads(1)


@pytest.fixture
def gpu() -> str:
    """Return the device of the tests that are for a GPU: cuda, unless the variable DEVICE says cpu."""
    device = os.environ.get("DEVICE", "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here: scripts/gpu.sh runs this test on one")
    return device


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., Any]:
    """Return a function of overrides that returns the checked directory of a run, below a temporary folder."""
    from runner.config.check import problems_of
    from runner.config.compose import Composer, loader_with, project_composer
    from runner.storage.directory import Run

    def run(*overrides: str, folder: str | None = None) -> Run:
        lines = [f"runs_dir={tmp_path / 'runs'}", "threads=1", "device=cpu", *overrides]
        composed = (Composer(loader_with(folder)) if folder else project_composer()).compose(lines)
        assert not problems_of(composed), problems_of(composed)
        return Run(composed.values, composed.overrides)

    return run


@pytest.fixture
def write(composed: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the two files of a run of a sweep, and returns the run's directory."""
    from runner.storage.directory import Run

    bases: dict[tuple[str, ...], Any] = {}

    def written(*overrides: str, seed: int = 0, folder: str = "a", status: str = "done", **result: Any) -> Path:
        base = bases.setdefault(overrides, bases.get(overrides) or composed(*overrides))
        directory = Run({**base.config, "seed": seed, "name": folder}, {})
        directory.write_config()
        seeds = {"seed": seed, "data_seed": directory.config["data"]["seed"]}
        directory.write_result({"status": status, **seeds, **{k.replace("_", "/"): v for k, v in result.items()}})
        return directory.path

    return written


@pytest.fixture
def train(composed: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Return a function of overrides that trains in this process and returns the result."""
    from runner.run import train_run

    def trained(*overrides: str) -> dict[str, Any]:
        return train_run(composed("histograms=false", "pictures=false", *overrides))

    return trained


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function of arguments that runs train.py in a folder as a user does: ten seconds if torch is needed."""

    def ran(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        line = [sys.executable, str(ROOT / "train.py"), *arguments]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout)

    return ran


@pytest.fixture(scope="session")
def forking_process() -> Iterator[Any]:
    """The process that all runs of `forks` come from."""
    with forking() as process:
        yield process


@pytest.fixture
def forks(forking_process: Any, tmp_path: Path) -> Forks:
    """Runs of train.py in a temporary folder, in processes that start at once and may be killed."""
    return Forks(forking_process, tmp_path)


@pytest.fixture
def sweeps(forks: Forks) -> Sweeps:
    return Sweeps(forks)
