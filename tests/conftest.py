"""Shared by the tests: a run in this process, and one by the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tests are small, and may share their cores with others."""
    torch.set_num_threads(1)


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
def train(composed: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Return a function of overrides that trains in this process and returns the result."""
    from runner.run import train_run

    def trained(*overrides: str) -> dict[str, Any]:
        return train_run(composed("histograms=false", "pictures=false", *overrides))

    return trained


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function of arguments that runs train.py in a temporary folder, as a user does."""

    def ran(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        line = [sys.executable, str(ROOT / "train.py"), *arguments]
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=timeout)

    return ran
