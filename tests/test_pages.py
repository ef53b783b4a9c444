"""README and docs: every command passes the check, every link leads somewhere, each penalty has its half page."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from support import ROOT

from runner.config import hydra_node
from runner.config.command_line import read_command
from runner.config.conf_files import CONF

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PENALTIES = sorted({path.stem for path in (CONF / "penalty").glob("*.yaml")} - {"none", "large_margin_reference"})


def commands_of(page: Path) -> list[list[str]]:
    """Return the arguments of each command of a page, but for those that need files or packages of the reader's."""
    text = page.read_text().replace("\\\n", " ")
    lines = [shlex.split(line) for line in re.findall(r"^    uv run train\.py (.*)$", text, re.M)]
    needs = ("mine", "--help", "runs_dir=$")
    return [line for line in lines if not any(word in part for part in line for word in needs)]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_passes_the_check(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hydra_node, "EXTRAS", {})  # a launcher's package may be missing here, such as Ray
    for arguments in commands_of(page):
        read_command(arguments)  # leaves if there is a mistake in it


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        if not name.startswith("http"):
            target = (page.parent / name) if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors_of(target), link


def measured_costs() -> dict[str, float]:
    """Return the costs that `scripts/benchmark.py penalties` has measured, by row."""
    record = json.loads((ROOT / "docs" / "performance" / "penalties.json").read_text())
    return {row[0]: row[1] for table in record["tables"] for row in table["rows"]}


@pytest.mark.parametrize("name", PENALTIES)
def test_each_penalty_has_its_half_page(name: str) -> None:
    page = (ROOT / "docs" / "penalties.md").read_text()
    section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert "    penalty = " in section
    assert all(f"**{part}**" in section for part in ("What it does.", "Use it", "Not", "Cost", "Command"))
    assert f"    uv run train.py penalty={name} " in section
    assert f"](results/weights_{name}.png)" in section
    assert "Source: " in section
    assert len(section.splitlines()) <= 30
    row = re.search(rf"^\| `{name}` \|.*\| ([^|]+) \| [^|]+ \|$", (ROOT / "README.md").read_text(), re.M)
    assert row, name
    (said,) = re.findall(r"\*\*Cost\*\* (.*)\*\*Command", section.replace("\n", " "))
    (cost, *_) = re.findall(r"\d+\.?\d*", row[1])
    assert cost in said  # the cost of the README's table
    assert float(cost) == pytest.approx(measured_costs()[name], rel=0.04)  # it has two digits
