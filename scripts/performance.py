"""Make docs/performance.md, and its pictures, of the files that `scripts/benchmark.py SUBJECT --json` has written.

    uv run scripts/benchmark.py scaling --json docs/performance/scaling.json
    uv run scripts/performance.py

No number on the page is typed by hand: what must not be said of old measurements is measured again.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # scripts' own modules; the packages

import runner  # noqa: E402, F401 (before torch)

# isort: split
from benchmark import Table, markdown  # noqa: E402
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator  # noqa: E402
from studies.style import figure, look, png  # noqa: E402

FOLDER = HERE.parent / "docs" / "performance"
ORDER = ("runner", "startup", "sweep", "scaling", "penalties", "outputs", "stacked")
HEAD = (FOLDER / "introduction.md").read_text()
NO_GPU = "CUDA: not measured. On a machine with a GPU `bash scripts/gpu.sh` does it.\n"

GROWTH: Mapping[str, tuple[str, list[tuple[str, str]]]] = {
    # title of a table -> its first column, and the columns drawn against it with their labels; none: all others
    "Batch size": ("batch size", [("CPU seconds", "CPU seconds an epoch")]),
    "Training size": ("training size", [("CPU seconds", "CPU seconds an epoch")]),
    "Width": ("width", [("ms a step", "step"), ("ms with the Jacobian penalty", "with the Jacobian penalty")]),
    "Penalties at once": ("penalties", [("ms a step", "ms a step")]),
    "Outputs": (
        "outputs",
        [("ms a step", "step"), ("ms with the Jacobian penalty", "1 projection"), ("ms with the exact one", "exact")],
    ),
    "Jobs in a sweep": ("jobs", [("seconds", "trained"), ("again, seconds", "the same command again")]),
    "Jobs in a sweep of stacks": ("jobs", [("seconds", "trained"), ("again, seconds", "the same command again")]),
    "Models in a stack": ("models", []),
}
LITTLE = 3  # ratio of the largest number to the smallest, up to which a curve is drawn from 0


def main() -> None:
    (FOLDER.parent / "performance.md").write_text(page(FOLDER))
    for record in records(FOLDER).values():
        for table in tables_of(record):
            if (drawn := growth_of(table)) is not None:
                (FOLDER / f"{picture_of(table)}.png").write_bytes(png(drawn))


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what was measured, by the file's name, in the page's order: a subject may have more than one file."""
    files = (file for file in folder.glob("*.json") if file.stem != "cuda")
    files = sorted(files, key=lambda file: (ORDER.index(file.stem.partition("_")[0]), file.stem))
    return {file.stem: json.loads(file.read_text()) for file in files}


def tables_of(record: Mapping[str, Any]) -> list[Table]:
    return [Table(**table) for table in record["tables"]]


def page(folder: Path) -> str:
    measured = records(folder)
    lacking = [name for name in ORDER if not any(file.partition("_")[0] == name for file in measured)]
    sections = [section(name, record) for name, record in measured.items()]
    return "\n".join([HEAD, cuda(folder), *sections, f"## Not measured yet\n\n{', '.join(lacking) or 'Nothing'}.\n"])


def cuda(folder: Path) -> str:
    """Return the section on CUDA, the one place that says whether it was tried: what `scripts/gpu.sh` has written."""
    if not (folder / "cuda.json").exists():
        return f"## CUDA\n\n{NO_GPU}"
    record = json.loads((folder / "cuda.json").read_text())
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    parts = [f"## CUDA\n\n{record['date']}, {record['device']}, {record['machine']}, {versions}.\n"]
    rows = [[row["row"], row["verdict"], row["seconds"]] for row in record["rows"]]
    parts.append(markdown(Table("", ["row of `scripts/gpu.sh`", "verdict", "seconds"], rows)) + "\n")
    return "\n".join([*parts, *(f"### {table.title}\n\n{markdown(table)}\n" for table in tables_of(record))])


def section(name: str, record: Mapping[str, Any]) -> str:
    """Return the tables of one file, with when and on what they were measured."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    before, after = record["load"]
    command = " ".join(["uv run scripts/benchmark.py", record["subject"], *record["arguments"]])
    facts = f"{record['date']}, {record['machine']}, {versions}; load average {before:.1f} before, {after:.1f} after."
    parts = [f"## {name}\n\n{facts}\n\n    {command}\n"]
    for table in tables_of(record):
        parts.append(f"### {table.title}\n\n{markdown(table)}\n")
        if table.note:
            parts.append(f"{table.note}\n")
        if picture_of(table):
            parts.append(f"![{table.title}](performance/{picture_of(table)}.png)\n")
    return "\n".join(parts)


def picture_of(table: Table) -> str | None:
    title = table.title.partition(":")[0].partition(",")[0]
    return title.lower().replace(" ", "_") if title in GROWTH else None


def growth_of(table: Table) -> Any:
    """Return the picture of a table, or None: axes are logarithmic, that of seconds only if they vary by much."""
    title = table.title.partition(":")[0].partition(",")[0]
    if title not in GROWTH:
        return None
    across, curves = GROWTH[title]
    made, ((axes,),) = figure(height=3.0)
    x = [row[table.columns.index(across)] for row in table.rows]
    drawn = curves or [(column, column) for column in table.columns if column != across]
    for index, (column, label) in enumerate(drawn):
        axes.plot(x, [row[table.columns.index(column)] for row in table.rows], **look(index), label=label)
    if across != "penalties":  # which begin with 0
        axes.set_xscale("log")
        axes.set_xticks(x, [f"{each:,}" for each in x], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        y = [number for line in axes.lines for number in line.get_ydata() if number is not None]
        if max(y) > LITTLE * min(y):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(bottom=0)
    ylabel = "throughput by that of one model" if not curves else curves[0][0]
    axes.set(xlabel=across, ylabel=ylabel if len(curves) < 2 else ylabel.partition(" ")[0])
    axes.set_title(table.title, fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return made


if __name__ == "__main__":
    main()
