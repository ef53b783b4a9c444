"""No test is left out in silence: a skip fails, and what this machine lacks is told in the closing lines.

`@pytest.mark.needs(NAME)` marks tests of something that few machines have, a name in `NEEDS`: they are deselected where
it is missing. A test that needs a GPU is skipped as usual, for the reason "no GPU".
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

UNMET = pytest.StashKey[Counter[str]]()  # by name, how many tests were deselected


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of that size at a path."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@cache
def may_mount() -> bool:
    """Tell whether this process may mount a file system."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder, "disk"), "1m"):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


NEEDS: dict[str, tuple[Callable[[], bool], str]] = {  # whether it is there, and how to have it
    "ray": (lambda: importlib.util.find_spec("ray") is not None, "uv run --extra ray pytest -m slow tests/test_ray.py"),
    "postgresql": (lambda: "POSTGRES" in os.environ, "bash scripts/clusters.sh search FOLDER"),
    "libgomp": (lambda: sys.platform == "linux", "torch has it on Linux alone"),
    "mount": (may_mount, "run pytest as root, with the right to mount"),
}


def deselect_unmet(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need what is missing here."""
    needs = {item: {mark.args[0] for mark in item.iter_markers("needs")} for item in items}
    missing = {name for name in set().union(*needs.values()) if not NEEDS[name][0]()}
    unmet = [item for item in items if needs[item] & missing]
    config.stash[UNMET] = Counter(name for item in unmet for name in needs[item] & missing)
    if unmet:
        config.hook.pytest_deselected(items=unmet)
        items[:] = [item for item in items if item not in unmet]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    return failed_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    return failed_if_skipped((yield))


def failed_if_skipped(report: Any) -> Any:
    """Return the report of a test or of a file; one that was skipped has failed, unless for want of a GPU."""
    if report.skipped and not hasattr(report, "wasxfail") and "no GPU" not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr}: a skip counts as a failure, see tests/support/skips.py"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["unmet"] = dict(session.config.stash.get(UNMET, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """All workers of pytest-xdist collect the same tests: one of them tells the process that prints."""
    node.config.stash[UNMET] = Counter(getattr(node, "workeroutput", {}).get("unmet"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, count in sorted(config.stash.get(UNMET, Counter()).items()):
        terminalreporter.write_line(f"NOT RUN: {count} tests, for want of {name}: {NEEDS[name][1]}")
