"""What the tests promise of themselves: nothing is left out in silence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

TESTS = """
import pytest

def test_right():
    pass

def test_skipped():
    pytest.skip("not today")

@pytest.mark.skipif(True, reason="no GPU")
def test_of_cuda():
    pass

@pytest.mark.xfail(reason="known")
def test_known():
    raise ValueError

@pytest.mark.needs("luck")
def test_of_what_is_missing():
    raise ValueError
"""


@pytest.mark.process
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_skip_fails_and_what_is_missing_is_told(tmp_path: Path, workers: str) -> None:
    """A GPU apart: a machine without one has tested all that it can."""
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole_file.py").write_text('import pytest\npytest.importorskip("no_such_package")\n')
    (tmp_path / "luck.py").write_text("from support.skips import NEEDS\nNEEDS['luck'] = (lambda: False, 'try again')\n")
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "conftest", "-p", "luck"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", tmp_path)))}
    line = [sys.executable, "-m", "pytest", *options, "-n", workers, "--continue-on-collection-errors", str(tmp_path)]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert "FAILED test_some.py::test_skipped" in done.stdout
    assert "not today" in done.stdout
    assert "ERROR test_whole_file.py" in done.stdout
    assert "NOT RUN: 1 tests, for want of luck: try again" in done.stdout
    assert "1 failed, 1 passed, 1 skipped" in done.stdout
    assert "1 xfailed" in done.stdout
