"""Commands as a user types them: by `uv run`, in a clone, on a terminal of 80 columns, with the defaults.

Most tests fork their runs, with one thread, on the CPU, and in lines of any length: none of that holds here.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT
from support.forked import wait_until

from runner.system import cores

SMALL = "data=line model=mlp loss=mse"
Started = Callable[[str], subprocess.Popen[str]]
pytestmark = pytest.mark.process


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with all that is in the clone, but without its runs."""
    for path in ROOT.iterdir():
        if path.name not in ("runs", ".venv", ".git"):
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture
def start(clone: Path) -> Iterator[Started]:
    """Start a command line in the clone, as by a person at a terminal; uv takes the environment of the tests."""
    assert shutil.which("uv"), "the README's commands begin with uv: pip install uv"
    ours = ("OMP", "GOMP", "MKL", "OPENBLAS", "CUDA", "PYTHON", "PYTEST", "UV_", "COLUMNS", "VIRTUAL_ENV")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment = {**inherited, "COLUMNS": "80", "UV_PROJECT_ENVIRONMENT": sys.prefix, "UV_NO_SYNC": "1"}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = []

    def starting(line: str) -> subprocess.Popen[str]:
        words = shlex.split(line)  # a shell in between would die of Ctrl-C before it has passed on an exit code
        started.append(subprocess.Popen(words, cwd=clone, env=environment, start_new_session=True, **streams))
        return started[-1]

    yield starting
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """Return what a process has printed when it has ended."""
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    return said


def results(clone: Path, name: str = "train") -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(clone.glob(f"runs/{name}/*/result.json"))]


def test_a_run_ends_in_the_seven_lines_of_the_readme(start: Started, clone: Path) -> None:
    said = ended(start(f"uv run train.py {SMALL} epochs=2"))
    last = [line.split("  ")[0] for line in said.splitlines()[-7:]]
    assert last == ["loss, last", "loss, best", "seconds", "examples/s", "directory", "look at it", "in a browser"]
    (result,) = results(clone)
    assert result["status"] == "done"
    assert result["threads"] == cores()
    assert (result["device"] == "cpu") != torch.cuda.is_available()


def test_a_sweep_shares_the_cores_and_shows_numbers_in_80_columns(start: Started, clone: Path) -> None:
    said = ended(start(f"uv run train.py -m {SMALL} epochs=2 penalty=l2 penalty.l2.weight=0.1,0.2 'seed=range(2)'"))
    assert [result["status"] for result in results(clone)] == ["done"] * 4
    assert {result["threads"] for result in results(clone)} == {max(1, cores() // min(4, cores()))}
    for weight in ("0.1", "0.2"):
        assert re.search(rf"^[* ] +{weight} .* \d\.\d+ ± \d\.\d+ ", said, re.M), said


def test_the_command_that_ctrl_c_prints_goes_on_as_it_stands(start: Started, clone: Path) -> None:
    process = start(f"uv run train.py {SMALL} epochs=1000000 checkpoint_seconds=0.1 'name=two words'")
    wait_until(lambda: [*clone.glob("runs/two words/*/checkpoint-*")], lambda: process.poll() is None)
    os.killpg(process.pid, signal.SIGINT)
    said = ended(process, code=130)
    (command,) = re.findall(r"^stopped by SIGINT; go on with: (.+)$", said, re.M)
    assert command.startswith("uv run train.py ")
    again = start(command)
    (log,) = clone.glob("runs/two words/*/train.log")
    wait_until(lambda: "resumed at epoch" in log.read_text(), lambda: again.poll() is None)
    os.killpg(again.pid, signal.SIGINT)
    ended(again, code=130)
