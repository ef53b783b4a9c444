"""Judges: other people's code, to which ours is compared. A process of its own, since JAX is slow to start:

    uv run --group judges pytest tests/judges [--table docs/correctness.md]
    uv run --group judges pytest tests/judges -m sample

Each test hands its largest differences to `judged`; `--table` writes them down. The sample is for those who have two
minutes: each row of the table in fewer cases.
"""

from __future__ import annotations

import datetime
import platform
import re
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import pytest
from support import ROOT, zoo

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports a name of scipy's that will go
    import foolbox  # noqa: F401

jax.config.update("jax_enable_x64", True)

TOLERANCE = 1e-12  # relative, in float64
PACKAGES = (
    "torch",
    "torchvision",
    "jax",
    "scikit-learn",
    "statsmodels",
    "foolbox",
    "opacus",
    "backpack-for-pytorch",
    "lightning",
    "scipy",
    "numpy",
)
HEAD = """\
# Is it right?

What other people's code says of ours: a judge computes the same number from the definition, and the table has the
largest difference over some cases. Differences are relative to the judge: of the value, and of the gradient by all
parameters, in Euclidean norm. In float64, where `tests/judges/` demands at most {tolerance:g}, unless float32 is said.
The networks of JAX are those of `tests/judges/networks.py`; the penalties, `tests/judges/definitions.py`. Both
`losses.EagerForward` and `losses.FunctionalForward` are compared with JAX.

A naive loop differentiates one output of one example at a time. The zoo is all that torch tests of its own layers,
`torch.testing._internal.common_modules`, each with up to 40 of its options, behind a linear layer and tanh: Jacobian,
tangent prop (random signs and exact) and input gradient, eager and functional. Left out are
{left_out}. Where the loop
finds that examples mix, or that torch has no derivative, a sentence must say so. Networks of torchvision's that cancel
over many layers are demanded to 1e-10.

Large margin on resnet18 was red from 2026-11-21 to 2026-12-01: the judge had `gamma` 10 written into it, the default is
5. The penalty was right.

Written by `{command}` on {date}, with
{versions}
on {machine}.

| method | judge | cases | value | gradient |
|---|---|---|---|---|
"""
WRITTEN_ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| (?!cases)", (ROOT / "docs/correctness.md").read_text(), re.M)
COMMAND = "uv run --group judges pytest tests/judges --table docs/correctness.md"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, help="file to write the table of differences to (docs/correctness.md)")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Table(config.option.table), "table of differences")


class Table:
    """Gathers the differences of all tests, from all workers, and writes them when the last one has ended."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, row in report.user_properties if report.when == "call" else []:
            if name == "judged":
                self.rows.setdefault((row["method"], row["judge"]), []).append(row)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.missing_rows(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        if self.path and self.rows and not hasattr(config, "workerinput"):
            self.path.write_text(heading() + "".join(line(*key, rows) for key, rows in sorted(self.rows.items())))
        for row in self.missing_rows(config):
            terminalreporter.write_line(f"FAILED: the sample has no case of {' by '.join(row)}: mark one of its tests")

    def missing_rows(self, config: pytest.Config) -> list[tuple[str, str]]:
        """Return the rows of the written table, method and judge, that the whole sample has no case of."""
        is_part = config.option.keyword or any(".py" in argument for argument in config.args)
        if config.option.markexpr != "sample" or is_part or hasattr(config, "workerinput"):
            return []
        return [row for row in WRITTEN_ROWS if row not in self.rows]


def heading() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    machine = f"Python {platform.python_version()}, {platform.machine()}"
    date = datetime.date.today().isoformat()
    left_out = " and\n".join(f"{name} ({why})" for name, why in zoo.LEFT_OUT.items())
    return HEAD.format(
        command=COMMAND, date=date, versions=versions, machine=machine, tolerance=TOLERANCE, left_out=left_out
    )


def line(method: str, judge: str, rows: list[dict[str, Any]]) -> str:
    cases = "; ".join(sorted({row["case"] for row in rows}))
    value, gradient = (largest([row[kind] for row in rows]) for kind in ("value", "gradient"))
    return f"| {method} | {judge} | {cases} | {value} | {gradient} |\n"


def largest(differences: list[float | None]) -> str:
    known = [difference for difference in differences if difference is not None]
    return f"{max(known):.1e}" if known else "–"


@pytest.fixture
def judged(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Return a function that notes the differences of a method to its judge in a case, and asserts that they are small.

    Its arguments: method, judge, case, and the relative differences of value and gradient (None: there is none).
    """

    def judge(
        method: str,
        judge: str,
        case: str,
        value: float | None = None,
        gradient: float | None = None,
        tolerance: float = TOLERANCE,
    ) -> None:
        row = {"method": method, "judge": judge, "case": case, "value": value, "gradient": gradient}
        record_property("judged", row)
        for difference in (value, gradient):
            assert difference is None or difference <= tolerance, row

    return judge
