"""Every number of docs/results.md is that of the recorded runs; a section is written once, in its place."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import reproduce

RECORDED = sorted(name for name in reproduce.BLOCKS if (ROOT / "docs" / "results" / f"{name}.csv").exists())


def section(name: str) -> str:
    text = (ROOT / "docs" / "results.md").read_text()
    found = re.search(f"<!-- begin {name} -->\n(.*?)<!-- end {name} -->", text, re.DOTALL)
    assert found, name
    return found[1]


@pytest.mark.parametrize("name", RECORDED)
def test_the_docs_hold_the_numbers_of_the_recorded_runs(name: str) -> None:
    block = reproduce.BLOCKS[name]
    runs = pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv")
    lines = [line for line in section(name).splitlines() if re.match(r"\| \w+/", line)]
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert len(cells) == sum(map(len, block.published.values()))
    for metric, value, published, median, spread, n, *_ in cells:
        ours = runs[(runs[block.key] == float(value)) & (runs.status == "done")][metric]
        assert float(published) == block.published[metric][float(value)]
        assert (median, n) == (f"{ours.median():.4f}", str(len(ours)))
        assert spread == f"{ours.mean():.4f} ({ours.std():.4f})"
        assert len(ours) >= 5
    assert f"results/{name}.png" in section(name)
    assert (ROOT / "docs" / "results" / f"{name}.png").stat().st_size < 150_000


@pytest.mark.parametrize("name", RECORDED)
def test_the_median_of_the_stable_rows_lies_within_the_tolerance(name: str) -> None:
    assert "outside" not in section(name)
    assert "inside" in section(name)


def test_a_section_is_written_in_its_place(tmp_path: Path) -> None:
    block = reproduce.BLOCKS["lecture_l2"]
    rows = [
        {block.key: weight, "seed": seed, "status": "done", "train/error": 0.0, "test/error": 0.06, "seconds": 1.0}
        for weight in reproduce.L2
        for seed in (0, 1)
    ]
    page = tmp_path / "results.md"
    reproduce.write("lecture_l2", pd.DataFrame(rows), b"", tmp_path)
    page.write_text(page.read_text() + "\nbehind\n")
    once = page.read_text()
    assert "| test/error | 0 | 0.064 | 0.0600 | 0.0600 (0.0000) | 2 | inside 0.006 |" in once
    assert "| test/error | 0.01 | 0.075 | 0.0600 | 0.0600 (0.0000) | 2 | outside 0.006 |" in once
    assert "| test/error | 0.02 | 0.101 | 0.0600 | 0.0600 (0.0000) | 2 | scatters |" in once
    reproduce.write("lecture_l2", pd.DataFrame(rows), b"", tmp_path)
    assert page.read_text() == once
    reproduce.write("lecture_l2", pd.DataFrame(rows).assign(**{"test/error": 0.5}), b"", tmp_path)
    assert page.read_text().endswith("\nbehind\n")
    assert "0.5000 (0.0000)" in page.read_text()
    assert "0.0600" not in page.read_text()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_quick_may_stand_anywhere_and_leaves_docs_alone(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    line = ["reproduce.py", "lecture_l2", "data.root=x"]
    monkeypatch.setattr(sys, "argv", [*line[:at], "--quick", *line[at:]])
    monkeypatch.setattr(reproduce.subprocess, "call", lambda command: started.append(command) or 7)
    with pytest.raises(SystemExit) as leaving:
        reproduce.main()
    assert leaving.value.code == 7  # the sweep's own
    ((_, _, *words),) = started
    assert words == ["-m", "sweep=lecture_l2", "seed=range(2)", "histograms=false", "epochs=2", "evaluate_every=0",
                     "name=lecture_l2_quick", "data.root=x"]  # fmt: skip
