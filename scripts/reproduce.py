"""Repeat an experiment of a source, and put our numbers beside the published ones, into docs/.

    uv run scripts/reproduce.py lecture_l2 data.root=FOLDER
    uv run scripts/reproduce.py lecture_l1 data.root=FOLDER --quick

It runs a sweep of `train.py`, which goes on where it was killed and trains nothing twice, with further overrides if any
are given. Then it writes docs/results/NAME.csv (the numbers of every run), docs/results/NAME.png and the section of
docs/results.md: our median, mean and spread beside the published value, inside or outside the tolerance. `--quick` does
the same with few epochs and seeds, in a minute or two, and writes all of it into the sweep's folder instead of docs/.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("epochs=2", "seed=range(2)", "evaluate_every=0")


@dataclass(frozen=True)
class Block:
    """A source's table, and the sweep that repeats it.

    Args:
        title: of the section.
        source: of the published values, and what they are of.
        sweep: the preset.
        overrides: beside the preset's own values.
        key: what was swept.
        published: metric -> value of the key -> published number.
        tolerance: metric -> largest difference of our median to the published number that counts as the same.
        also: metrics that the csv has beside the published ones.
        unstable: values of the key at which runs scatter from seed to seed, so that one published run says little.
        note: what a reader should know.
    """

    title: str
    source: str
    sweep: str
    overrides: tuple[str, ...]
    key: str
    published: Mapping[str, Mapping[float, float]]
    tolerance: Mapping[str, float]
    note: str
    unstable: tuple[float, ...] = ()
    also: tuple[str, ...] = ()


L2 = (0, 0.001, 0.002, 0.004, 0.01, 0.02)
L1 = (0, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4)
BLOCKS = {
    "lecture_l2": Block(
        title="Lecture 5.4: L2",
        source="EE-559, lecture 5.4 (published, one run for each weight)",
        sweep="lecture_l2",
        overrides=("seed=range(10)", "histograms=false"),
        key="penalty.l2.weight",
        published={
            "train/error": dict(zip(L2, (0, 0, 0, 0.005, 0.022, 0.048), strict=True)),
            "test/error": dict(zip(L2, (0.064, 0.063, 0.064, 0.065, 0.075, 0.101), strict=True)),
        },
        tolerance={"train/error": 0.006, "test/error": 0.006},
        unstable=(0.02,),
        note="1,000 training digits of MNIST, 10,000 test digits, 25 epochs of SGD.",
    ),
    "lecture_l1": Block(
        title="Lecture 5.4: L1",
        source="EE-559, lecture 5.4 (published, one run for each weight)",
        sweep="lecture_l1",
        overrides=("seed=range(10)", "histograms=false"),
        key="penalty.l1.weight",
        published={
            "train/error": dict(zip(L1, (0, 0, 0, 0.004, 0.087, 0.057, 0.496), strict=True)),
            "test/error": dict(zip(L1, (0.064, 0.063, 0.067, 0.068, 0.128, 0.101, 0.516), strict=True)),
        },
        tolerance={"train/error": 0.006, "test/error": 0.006},
        unstable=(1e-4, 2e-4, 5e-4),
        note="The same network and data; after each step a soft threshold equal to the weight. The "
        "fraction of parameters that are exactly 0 is `probe/zeros/all` of the csv.",
        also=("probe/zeros/all",),
    ),
    "jacobian_package": Block(
        title="Jacobian: the example of its package",
        source="jacobian_regularizer, examples/mnist.py (Hoffman, Roberts, Yaida 2019; published, one run, seed 1)",
        sweep="jacobian_package",
        overrides=(),
        key="penalty.jacobian.weight",
        published={"test/error": {0.05: 0.030}, "probe/penalty_value/test": {0.05: 1.96}},
        tolerance={"test/error": 0.004, "probe/penalty_value/test": 0.2},
        note="All of MNIST, a perceptron, 5 epochs. `probe/penalty_value/test` is the mean of the exact ||J||^2 over "
        "the test examples; the published .98 is half of it, on the last batch of them. Their lambda .1 multiplies "
        "||J||^2 / 2, so it is the weight .05 here.",
        also=("train/error", "probe/penalty_value/train"),
    ),
}


def main() -> None:
    """Run the sweep, and write its numbers, its picture and its section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BLOCKS, metavar="NAME", help=f"one of {', '.join(BLOCKS)}")
    parser.add_argument("overrides", nargs="*", help="further overrides of train.py, such as data.root=FOLDER")
    parser.add_argument("--quick", action="store_true", help="few epochs and seeds; docs/ is left as it is")
    options = parser.parse_intermixed_args()  # --quick may stand anywhere
    block = BLOCKS[options.name]
    name = f"{options.name}_quick" if options.quick else options.name
    given = [*block.overrides, *(QUICK if options.quick else ()), f"name={name}", *options.overrides]
    lines = list({line.partition("=")[0]: line for line in given}.values())  # the last ones win
    if code := subprocess.call([sys.executable, str(ROOT / "train.py"), "-m", f"sweep={block.sweep}", *lines]):
        sys.exit(code)
    folder = Path(next((line.partition("=")[2] for line in lines if line.startswith("runs_dir=")), "runs"), name)
    docs = folder if options.quick else ROOT / "docs"
    write(options.name, runs_of(block, folder), (folder / "summary.png").read_bytes(), docs)
    print(f"{docs / 'results.md'}, {docs / 'results' / options.name}.csv and .png are written")


def runs_of(block: Block, folder: Path) -> pd.DataFrame:
    """Return a row for each run: the swept key, the seed, its metrics and seconds."""
    sys.path.insert(0, str(ROOT))
    from runner.results import load_runs

    runs = load_runs(folder)
    columns = [block.key, "seed", "status", *block.published, *block.also, "seconds"]
    return runs[columns].sort_values([block.key, "seed"], ignore_index=True)


def write(name: str, runs: pd.DataFrame, picture: bytes, docs: Path) -> None:
    """Write the numbers and the picture, and put the section in its place in results.md."""
    (docs / "results").mkdir(parents=True, exist_ok=True)
    runs.to_csv(docs / "results" / f"{name}.csv", index=False, lineterminator="\n")
    (docs / "results" / f"{name}.png").write_bytes(picture)
    page = docs / "results.md"
    text = page.read_text() if page.exists() else INTRODUCTION
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->\n"
    new = begin + section_of(name, runs) + end
    if begin in text:
        text = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: new, text, flags=re.DOTALL)
    else:
        text = f"{text}\n{new}"
    page.write_text(text)


INTRODUCTION = """# Results: ours beside the published ones

`scripts/reproduce.py NAME` runs the sweep of a section and writes it, with the numbers of all runs in
docs/results/NAME.csv. "Published" is from the source itself. Inside: our median lies within the tolerance of the
published number. Where runs scatter from seed to seed, one published run says little, and there is no verdict.
"""


def section_of(name: str, runs: pd.DataFrame) -> str:
    """Return a block's section: what was run, the table, the picture."""
    block = BLOCKS[name]
    command = f"uv run scripts/reproduce.py {name} data.root=FOLDER"
    seconds = f"{runs['seconds'].sum():.0f} s of training in all, on {os.cpu_count()} {platform.machine()} cores"
    about = textwrap.wrap(f"Source: {block.source}. {block.note}", 120)
    lines = [f"## {block.title}", "", *about, "", f"    {command}", ""]
    lines += [*table_of(block, runs), "", f"![{block.title}](results/{name}.png)", ""]
    return "\n".join([*lines, f"Measured {datetime.date.today()}; {seconds}.", ""])


def table_of(block: Block, runs: pd.DataFrame) -> list[str]:
    """Return the table: a row for each metric and value of the key."""
    lines = [
        f"| metric | {block.key} | published | our median | mean (sd) | n | tolerance |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    done = runs[runs["status"] == "done"]
    for metric, published in block.published.items():
        for value, number in published.items():
            ours = done[done[block.key] == value][metric]
            median, spread = ours.median(), f"{ours.mean():.4f} ({ours.std():.4f})"
            verdict = "inside" if abs(median - number) <= block.tolerance[metric] else "outside"
            verdict = "scatters" if value in block.unstable else f"{verdict} {block.tolerance[metric]:g}"
            lines.append(f"| {metric} | {value:g} | {number:.3f} | {median:.4f} | {spread} | {len(ours)} | {verdict} |")
    return lines


if __name__ == "__main__":
    main()
