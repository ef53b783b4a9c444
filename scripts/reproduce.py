"""Repeat an experiment of a source, and put our numbers beside the published ones, into docs/.

    uv run scripts/reproduce.py lecture_l2 data.root=FOLDER
    uv run scripts/reproduce.py lecture_l1 data.root=FOLDER --quick

It runs the study's sweeps by `train.py`, which go on where they were killed and train nothing twice, with further
overrides if any are given. Then it writes docs/results/NAME.csv (the numbers of every run), the pictures beside it and
the section of docs/results.md: our median, mean and range beside the published value, and whether that lies within the
tolerance or at least our range. `--quick` does the same with few epochs and seeds, in a minute or two, and writes it
into the folder of the runs instead of docs/. `--text` trains nothing: it writes the section again from the csv that
is there. The studies are the modules of scripts/studies/.
"""

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import runner  # noqa: E402, F401 (before torch)

# isort: split
import pandas as pd  # noqa: E402
from studies import GROUPS, STUDIES, Folders, Study  # noqa: E402
from studies.style import png  # noqa: E402
from studies.tables import review_of  # noqa: E402

DOCS = ROOT / "docs"
INTRODUCTION = Path(__file__).with_name("studies").joinpath("introduction.md").read_text()


def main() -> None:
    """Run the sweeps of a study, and write its numbers, its pictures and its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=STUDIES, metavar="NAME", help=f"one of {', '.join(STUDIES)}")
    parser.add_argument("overrides", nargs="*", help="further overrides of train.py, such as data.root=FOLDER")
    parser.add_argument("--quick", action="store_true", help="few epochs and seeds; docs/ is left as it is")
    parser.add_argument("--text", action="store_true", help="only write the section again, from the numbers of docs/")
    options = parser.parse_intermixed_args()  # the flags may stand anywhere
    study = STUDIES[options.name]
    if options.text:
        if not (DOCS / "results" / f"{options.name}.csv").exists():
            sys.exit(f"--text must name a study with numbers in docs/results, got {options.name}: leave out --text")
        write_section(options.name, pd.read_csv(DOCS / "results" / f"{options.name}.csv"), DOCS)
        return
    folders = run_sweeps(study, options.overrides, options.quick)
    docs = runs_dir(options.overrides) / f"{options.name}_quick" if options.quick else DOCS
    write(options.name, study.numbers(folders), folders, docs, options.quick)
    written = [f"{options.name}.csv", *(f"{options.name}{suffix}.png" for suffix in study.pictures)]
    print(f"written: {docs / 'results.md'}, and in {docs / 'results'}: {', '.join(written)}")


def run_sweeps(study: Study, overrides: list[str], quick: bool) -> Folders:
    """Run each sweep of a study and return their folders. Runs that diverge are results, too."""
    folders = {}
    for name, own in study.sweeps.items():
        folder = f"{name}_quick" if quick else name
        given = [*own, *(study.quick if quick else ()), f"name={folder}", *overrides]
        lines = {line.partition("=")[0]: line for line in given}.values()  # the last ones win
        code = subprocess.call([sys.executable, str(ROOT / "train.py"), "-m", *lines])
        if code not in (0, 1):
            sys.exit(code)
        folders[name] = runs_dir(overrides) / folder
    return folders


def runs_dir(overrides: list[str]) -> Path:
    return Path(next((line.partition("=")[2] for line in overrides if line.startswith("runs_dir=")), "runs"))


def write(name: str, numbers: pd.DataFrame, folders: Folders, docs: Path, is_quick: bool = False) -> None:
    (docs / "results").mkdir(parents=True, exist_ok=True)
    path = docs / "results" / f"{name}.csv"
    numbers.to_csv(path, index=False, lineterminator="\n", float_format="%.6g")
    numbers = pd.read_csv(path)  # what the section and the pictures show is what is kept
    for suffix, draw in STUDIES[name].pictures.items():
        (docs / "results" / f"{name}{suffix}.png").write_bytes(png(draw(numbers, folders)))
    write_section(name, numbers, docs, measured_now(numbers), is_quick)


def measured_now(numbers: pd.DataFrame) -> str:
    seconds = f"; {numbers['seconds'].sum():.0f} s of training in all" if "seconds" in numbers else ""
    return f"Measured {datetime.date.today()} on {os.cpu_count()} {platform.machine()} cores{seconds}."


def write_section(
    name: str, numbers: pd.DataFrame, docs: Path, measured: str | None = None, is_quick: bool = False
) -> None:
    """Put a study's section in its place in results.md: in the order of the studies.

    Args:
        name: of the study.
        numbers: of its csv.
        docs: folder of results.md, made with its introduction if absent.
        measured: when and where; None: as the section says already.
        is_quick: whether the numbers are of fewer epochs and seeds.
    """
    page = docs / "results.md"
    text = page.read_text() if page.exists() else INTRODUCTION
    sections = dict(re.findall(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->\n", text, re.DOTALL))
    if measured is None:
        (measured,) = re.findall(r"^Measured .*", sections[name], re.MULTILINE)
    sections[name] = "\n".join([*section_of(name, numbers, is_quick), measured, ""])
    ordered = [other for other in STUDIES if other in sections]
    parts = [f"<!-- begin {other} -->\n{sections[other]}<!-- end {other} -->\n" for other in ordered]
    page.write_text("\n".join([INTRODUCTION, *index_of(sections), *parts]))


def index_of(sections: Collection[str]) -> list[str]:
    lists = []
    for group, studies in GROUPS.items():
        links = [f"- [{study.title}](#{anchor(study.title)})\n" for name, study in studies.items() if name in sections]
        if links:
            lists.append("".join([f"{group}:\n\n", *links]))
    return lists


def anchor(title: str) -> str:
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


QUICK = (
    "QUICK: fewer epochs, seeds or examples than the section of docs/results.md; not to be compared with published "
    "numbers."
)


def section_of(name: str, numbers: pd.DataFrame, is_quick: bool = False) -> list[str]:
    """Return a study's section but for its last line: what was run, tables and findings, the pictures."""
    study = STUDIES[name]
    command = " ".join(["uv run scripts/reproduce.py", name, *study.inputs.split(), *["--quick"] * is_quick])
    lines = [f"## {study.title}", "", *[QUICK, ""] * is_quick]
    lines += [f"Source: {study.source}. {study.about}", "", f"    {command}", ""]
    lines += [*study.text(numbers), *([] if is_quick else review_of(name)), ""]
    for suffix, caption in study.captions.items():
        lines += [f"![{caption}](results/{name}{suffix}.png)", "", caption, ""]
    return [part for line in lines for part in _wrapped(line)]


def _wrapped(line: str) -> list[str]:
    return [line] if not line or line.startswith(("|", " ", "!", "#")) else textwrap.wrap(line, 120)


if __name__ == "__main__":
    main()
