"""docs/results.md says what the recorded numbers say; a section is written once, in its place."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from support import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import reproduce
from studies import GROUPS, STUDIES, Study
from studies.comparison import arrow, differences, table_of_readme
from studies.study import epochs_of, runs_of
from studies.style import MOST_BYTES
from studies.tables import verdict

from runner.storage import members
from runner.storage.directory import Run

RESULTS = ROOT / "docs" / "results"
PUBLISHED = [("lecture_l2", 0.01, 10), ("lecture_l1", 5e-5, 8), ("jacobian_package", 0.05, 2)]


def section(name: str) -> str:
    text = (ROOT / "docs" / "results.md").read_text()
    found = re.search(f"<!-- begin {name} -->\n(.*?)<!-- end {name} -->", text, re.DOTALL)
    assert found, name
    return found[1]


@pytest.mark.parametrize("name", STUDIES)
def test_a_section_is_what_its_numbers_say(name: str) -> None:
    numbers = pd.read_csv(RESULTS / f"{name}.csv")
    *lines, measured, _ = section(name).split("\n")
    assert lines == reproduce.section_of(name, numbers)
    assert measured.startswith("Measured 20")


def test_the_words_beside_the_modules_are_those_of_the_studies() -> None:
    files = (ROOT / "scripts" / "studies").glob("*.yaml")
    assert sorted(name for file in files for name in yaml.safe_load(file.read_text())) == sorted(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_section_shows_its_pictures(name: str) -> None:
    shown = re.findall(r"!\[.+\]\(results/(.*)\)", section(name))
    pictures = {suffix: f"{name}{suffix}.png" for suffix in STUDIES[name].pictures}
    assert shown == [pictures[suffix] for suffix in STUDIES[name].captions]
    assert all((RESULTS / picture).stat().st_size <= MOST_BYTES for picture in pictures.values())


def test_no_file_of_results_is_left_from_an_earlier_study() -> None:
    pages = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    numbers = {f"{name}.csv" for name in STUDIES}
    left = [path.name for path in RESULTS.iterdir() if path.name not in numbers and path.name not in pages]
    assert not left


@pytest.mark.parametrize(("name", "largest", "rows"), PUBLISHED)
def test_the_median_lies_within_the_tolerance_of_the_published_number(name: str, largest: float, rows: int) -> None:
    cells = re.findall(r"^\| (?:test|train|probe)/\S+ \| (\S+) \| .* \| (.*) \|$", section(name), re.MULTILINE)
    verdicts = [verdict for value, verdict in cells if float(value) <= largest]
    assert len(verdicts) == rows
    assert all(verdict.startswith("inside 0.") for verdict in verdicts)


@pytest.mark.parametrize(
    ("published", "said"), [(0.105, "inside 0.01"), (0.12, "within our range"), (0.14, "outside our range")]
)
def test_a_published_number_has_one_rule(published: float, said: str) -> None:
    ours = pd.Series([0.08, 0.09, 0.1, 0.11, 0.13])
    assert verdict(ours, published, 0.01) == said
    assert not verdict(ours[:4], published, 0.01)  # as of --quick


@pytest.mark.parametrize("name", [name for name in STUDIES if STUDIES[name].sweeps])
def test_at_least_five_seeds_stand_behind_a_result(name: str) -> None:
    numbers = pd.read_csv(RESULTS / f"{name}.csv")
    assert numbers["seed"].nunique() >= 5


def test_the_readme_begins_with_the_recorded_comparison() -> None:
    runs = pd.read_csv(RESULTS / "compare_digits.csv")
    lines, readme = table_of_readme(runs), (ROOT / "README.md").read_text()
    assert "\n".join(lines) in readme
    assert len(lines) > 5
    assert f"Of the {runs['arm'].nunique() - 1} methods" in readme


def test_what_lowers_the_error_on_mnist_is_what_the_readme_says() -> None:
    found = differences(pd.read_csv(RESULTS / "compare_mnist.csv"), "test/error")
    lower = {arm for arm in found.index if "↓" in arrow(found, arm)}
    assert lower == {"distorted_inputs", "label_smoothing", "adversarial_fgsm", "adversarial_pgd"}
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert "distorted images, label smoothing and adversarial training lower" in readme


def test_a_study_takes_the_runs_of_the_last_command_in_its_folder(composed: Callable[..., Run], tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "train"

    def run_sweep(epochs: int, seeds: Sequence[int]) -> None:
        index = members.SweepIndex(folder, [f"epochs={epochs}"])
        index.start()
        for seed in seeds:
            run = composed(f"epochs={epochs}", f"seed={seed}")
            run.write_config()
            run.write_result({"status": "done", "seed": seed})
            (run.path / "metrics.csv").write_text(f"epoch,test/error\n{epochs},0.5\n")
            index.add([run])

    for epochs, seeds in ((2, [0, 1]), (25, [0]), (2, [0, 1])):
        run_sweep(epochs, seeds)
        assert runs_of(folder, "epochs")[["epochs", "seed"]].to_numpy().tolist() == [[epochs, seed] for seed in seeds]
        assert epochs_of(folder)[["epoch", "seed"]].to_numpy().tolist() == [[epochs, seed] for seed in seeds]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    made = Study(
        title="A title",
        source="a source (published)",
        about="What it is about.",
        numbers=lambda folders: pd.DataFrame({"seed": [0, 1], "error": [0.25, 0.75], "seconds": [1.0, 2.0]}),
        text=lambda numbers: [f"The mean is {numbers['error'].mean():.2f}. " + "word " * 40, "", "| a |", "|---|"],
        pictures={"": lambda numbers, folders: Figure((1, 1))},
        captions={"": "A caption."},
    )
    monkeypatch.setitem(STUDIES, "a_study", made)
    return made


def test_a_section_is_written_in_its_place_and_only_once(study: Study, tmp_path: Path) -> None:
    reproduce.write("a_study", study.numbers({}), {}, tmp_path)
    page = tmp_path / "results.md"
    once = page.read_text()
    assert "The mean is 0.50. word" in once
    assert "3 s of training in all" in once
    assert max(map(len, once.splitlines())) <= 120
    assert (tmp_path / "results" / "a_study.png").read_bytes().startswith(b"\x89PNG")
    reproduce.write("lecture_minima", STUDIES["lecture_minima"].numbers({}), {}, tmp_path)
    both = page.read_text()
    assert both.index("begin lecture_minima") < both.index("begin a_study")  # in the order of the studies
    reproduce.write("a_study", study.numbers({}).assign(error=0.5), {}, tmp_path)
    assert page.read_text() == both
    reproduce.write_section("a_study", study.numbers({}).assign(error=0.1), tmp_path)
    assert "The mean is 0.10." in page.read_text()
    assert page.read_text().count("3 s of training in all") == 1  # what was measured stays


def test_a_quick_page_says_that_it_is_quick(study: Study, tmp_path: Path) -> None:
    reproduce.write("a_study", study.numbers({}), {}, tmp_path, is_quick=True)
    section = (tmp_path / "results.md").read_text().partition("## A title")[2]
    assert section.startswith("\n\nQUICK: fewer epochs, seeds or examples")
    assert "\n    uv run scripts/reproduce.py a_study --quick\n" in section
    reproduce.write("a_study", study.numbers({}), {}, tmp_path)
    assert "QUICK" not in (tmp_path / "results.md").read_text()


def test_the_index_has_the_groups_of_studies_in_the_order_of_the_sections() -> None:
    assert list(STUDIES) == [name for studies in GROUPS.values() for name in studies]
    lists = reproduce.index_of(["weights", "lecture_l1", "lecture_surfaces"])
    assert [each.partition(":")[0] for each in lists] == ["The lecture", "Comparisons"]
    assert lists[0].index("Lecture 5.1") < lists[0].index("Lecture 5.4")
    lectures = [study.title.split()[1].rstrip(":") for study in GROUPS["The lecture"].values()]
    assert lectures == sorted(lectures)


def test_a_picture_that_is_too_large_for_a_page_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.style.MOST_BYTES", 100)
    with pytest.raises(ValueError, match="at most 100 bytes"):
        reproduce.png(Figure((1, 1)))


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
    assert words == ["-m", "sweep=lecture_l2", "seed=0", "histograms=false", "evaluate_every=0",
                     "name=lecture_l2_quick", "data.root=x"]  # fmt: skip
