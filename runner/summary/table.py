"""A summary in words and numbers: on the terminal, as Markdown for people, as CSV, with everything, for programs."""

import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.storage.atomic import write_atomic
from runner.summary.columns import Column, fitting
from runner.summary.rows import Row, Summary
from runner.summary.runs import RunRecord

WIDTH = 100  # characters of the table where there is no terminal
DIGITS = 4  # that count, of the largest number of a column
MOST_NAMED = 4  # rows in a sentence
MANY = 6  # rows, from which on the best of them is told to be lucky
MOST_LEFT_OUT = 8  # columns in a sentence
MOST_SHOWN = 20  # runs listed on the terminal; the Markdown lists all
GOING_ON = ("running", "waiting")
UNFINISHED = (*GOING_ON, "interrupted", "lost")
ENDS = {"": "", "least": "↓", "largest": "↑"}  # marks of what was chosen at an end of what was tried
RANKS = {"test": 2, "train": 3, "probe": 4, "seconds": 5, "best": 6}  # of metrics, by what they begin with


def columns_of(summary: Summary, metric: str | None) -> list[Column]:
    """Return the columns of the table for people, in their order."""
    rows = summary.rows
    columns = [Column("", ["*" if row in summary.best else "" for row in rows], 0, False)]
    for key in summary.columns:
        cells = values_of(rows, key)
        if key == "chosen":
            cells = [f"{cell} {ENDS[summary.end_of(row)]}".rstrip() for cell, row in zip(cells, rows, strict=True)]
        columns.append(Column(key, cells, 0, is_number=key not in ("arm", "chosen"), is_key=True))
    columns.append(Column("n", [str(len(row.done)) for row in rows], 0))
    for status in ("diverged", "failed"):
        if any(row.count(status) for row in rows):
            columns.append(Column(status, [str(row.count(status) or "") for row in rows], 0))
    for name in of_interest(summary, metric):
        rank = 0 if name == metric else 1 if name == summary.monitor else RANKS.get(name.partition("/")[0], 2)
        columns.append(Column(name, spreads(rows, name), rank))
        if name == metric:
            columns.append(Column(f"{name}\nmedian", medians(rows, name), 4))
    return columns


def values_of(rows: Sequence[Row], key: str) -> list[str]:
    """Return the cells of a swept key; numbers that a search has drawn with 4 digits, if these still differ."""
    typed = [row.typed(key) for row in rows]
    values = [row.keys.get(key) for row in rows]
    short = [
        f"{value:.{DIGITS}g}" if isinstance(value, float) else cell for value, cell in zip(values, typed, strict=True)
    ]
    return short if len({*short}) == len({*typed}) else typed


def of_interest(summary: Summary, metric: str | None) -> list[str]:
    """Return the metrics for people: of all parts, at the end and at the best epoch, the probes, the seconds."""
    kind = "error" if "test/error" in summary.metrics else "loss"
    names = [f"{part}/{kind}" for part in ("train", "validation", "test", "best/test")]
    probes = [name for name in summary.metrics if name.startswith("probe/")]
    wanted = [*names[:3], *([] if metric in names else [metric]), names[3], *probes, "seconds"]
    return [name for name in dict.fromkeys(wanted) if name in summary.metrics]


def spreads(rows: Sequence[Row], metric: str) -> list[str]:
    """Return a cell `mean ± deviation` for each row, all with the same decimals."""
    found = [row.metrics.get(metric) for row in rows]
    form = form_for([number for spread in found if spread for number in (spread.mean, spread.deviation)])
    cells = []
    for spread in found:
        deviation = f" ± {spread.deviation:{form}}" if spread and not math.isnan(spread.deviation) else ""
        cells.append(f"{spread.mean:{form}}{deviation}" if spread else "")
    return cells


def medians(rows: Sequence[Row], metric: str) -> list[str]:
    """Return a cell with the median for each row."""
    found = [row.metrics[metric].median if metric in row.metrics else None for row in rows]
    form = form_for([number for number in found if number is not None])
    return ["" if number is None else f"{number:{form}}" for number in found]


def form_for(numbers: Sequence[float]) -> str:
    """Return the format of a column: as many decimals as give its largest number four digits."""
    largest = max((abs(number) for number in numbers if math.isfinite(number)), default=0.0) or 1.0
    if not 1e-3 <= largest < 1e7:
        return f".{DIGITS - 2}e"
    return f".{max(0, min(DIGITS, DIGITS - 1 - math.floor(math.log10(largest))))}f"


def notes_of(summary: Summary) -> list[str]:
    """Return what a reader of the table has to know."""
    notes = ["Mean ± sample standard deviation over the n runs that ended well, of different seeds."]
    notes += notes_on_best(summary)
    if any(row.diverged for row in summary.rows):
        notes.append("Runs that diverged are counted, but are in no mean.")
    if any(summary.end_of(row) for row in summary.rows):
        notes.append("↓, ↑: chosen is the least, or the largest, that the trials tried: the best may lie beyond.")
    return notes + _note_on_luck(summary)


def notes_on_best(summary: Summary) -> list[str]:
    """Return by what the marked rows are the best, among which rows, and whether they tie."""
    if not summary.best or summary.monitor is None:
        return []
    by = f"* least {summary.monitor}{' among the rows of each criterion' if summary.ranks_by_criterion else ''}"
    notes = [f"{by}{_doubt_of(summary.monitor, summary.objective)}."]
    if len(summary.criteria) > 1:
        notes.append("Losses of different criteria cannot be compared.")
    if tied := summary.tied:
        undecided = all(row in summary.best for row in tied)
        loss = f"{summary.monitor.partition('/')[0]}/loss{' of their criterion' if len(summary.criteria) > 1 else ''}"
        marked = "all of them" if undecided else f"those with the least {loss}"
        names = "; ".join(map(summary.short_label, tied[:MOST_NAMED])) + ("; ..." if len(tied) > MOST_NAMED else "")
        notes.append(f"{len(tied)} rows tie in {summary.monitor}: {marked} are marked. The rows are {names}.")
    return notes


def _doubt_of(monitor: str, objective: str | None) -> str:
    if monitor == objective:
        is_test = monitor.startswith(("test/", "best/test/"))
        return ", as objective_metric says" + (": the test set has chosen, its errors are too low" if is_test else "")
    return "" if "validation" in monitor else ", as there are no validation examples"


def _note_on_luck(summary: Summary) -> list[str]:
    rows = [row for row in summary.rows if row.done]
    if len(rows) < MANY or summary.trials or not summary.best:
        return []
    folder = summary.best[0].done[0].path.parent
    again = f"uv run scripts/runs.py best {min(os.path.relpath(folder), str(folder), key=len)} --seeds 10"
    return [f"The best of {len(rows)} noisy rows looks better than it is; on fresh seeds:\n    {again}"]


def listed(run: RunRecord) -> str:
    """Return a run that is in no mean, with the reason, in one line."""
    seed = f" (seed {run.result['seed']})" if "seed" in run.result else ""
    return f"{run.status}{seed}: {run.reason}"


def table_of(columns: Sequence[Column]) -> Table:
    """Return the table as the terminal shows it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column.title), justify="right" if column.is_number else "left", no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells), style="bold" if cells[0] else None)
    return table


def show(summary: Summary, folder: Path, metric: str | None, console: Console | None = None) -> None:
    """Print the table, as wide as the terminal at most, and below it the runs that are in no mean."""
    is_known = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = console or Console(highlight=False, width=None if is_known else WIDTH)
    columns = columns_of(summary, metric)
    shown, left_out = fitting(columns, console.width)
    if summary.rows:
        console.print(table_of(shown))
    elif summary.trials:
        console.print(Text("There are trials, and no run of the comparison."))
    notes = notes_of(summary) if summary.rows else []
    if left_out:
        more = f" and {len(left_out) - MOST_LEFT_OUT} more" if len(left_out) > MOST_LEFT_OUT else ""
        notes.append(f"No room here, but in summary.md: {', '.join(left_out[:MOST_LEFT_OUT])}{more}.")
    for line in "\n".join(notes).split("\n"):
        console.print(Text(line, style="dim"), soft_wrap=line.startswith("    "))  # a command stays whole
    if any(run.status in (*GOING_ON, "lost") for run in summary.others):
        console.print(Text(_counts(summary)))
    for run in summary.others[:MOST_SHOWN]:
        console.print(Text(listed(run), style="" if run.status in GOING_ON else "red"), soft_wrap=True)
        console.print(Text(f"    {run.log}"), soft_wrap=True)
    if len(summary.others) > MOST_SHOWN:
        console.print(Text(f"and {len(summary.others) - MOST_SHOWN} more in summary.md"))
    console.print(Text(f"tables and pictures are in {folder}"), soft_wrap=True)


def _counts(summary: Summary) -> str:
    found = Counter(run.status for run in summary.others)
    found["done"] = sum(len(row.done) for row in (*summary.rows, *summary.trials))
    order = ["done", *GOING_ON, "lost"]
    return ", ".join(f"{found[status]} {status}" for status in [*order, *sorted({*found} - {*order})] if found[status])


def markdown(summary: Summary, title: str, metric: str | None, answer: Sequence[str] = ()) -> str:
    """Return the table, the answer and the list as Markdown."""
    columns = columns_of(summary, metric)
    lines = [f"# {title}", ""]
    if summary.rows:
        lines += [line_of([one_line(column.title) for column in columns])]
        lines += [line_of(["--:" if column.is_number else ":-:" for column in columns])]
        lines += [line_of(cells) for cells in zip(*(column.cells for column in columns), strict=True)]
        lines += ["", " ".join(escaped(note) for note in notes_of(summary)), ""]
        lines += ["![The metric against what was swept](summary.png)", ""]
    if len(answer) > 1:
        lines += ["```", *answer, "```", "", "![Differences to the baseline](differences.png)", ""]
    else:
        lines += [*map(escaped, answer), ""]
    if summary.others:
        lines += ["Runs that are in no mean:", ""]
        lines += [f"- {escaped(listed(run))}; log: `{run.log}`" for run in summary.others]
    return "\n".join(lines).rstrip() + "\n"


def one_line(title: str) -> str:
    return title.replace("\n", " ")


def line_of(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"


def escaped(cell: str) -> str:
    return cell.replace("|", r"\|").replace("*", r"\*").replace("<", "&lt;")


def groups_csv(summary: Summary) -> str:
    """Return all metrics of all groups: mean, standard deviation and median, with all digits."""
    lines = []
    for row in summary.rows:
        keys = {key: row.typed(key) for key in summary.columns}
        line: dict[str, object] = {
            **keys,
            "best": int(row in summary.best),
            "n": len(row.done),
            "diverged": row.diverged,
        }
        for metric, spread in row.metrics.items():
            line |= {f"{metric} mean": spread.mean, f"{metric} sd": spread.deviation, f"{metric} median": spread.median}
        lines.append(line)
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def values_csv(summary: Summary) -> str:
    """Return every number of every run in a line of its own, with all digits: the long form that plotting takes."""
    lines = [
        {
            **({"stage": stage} if summary.trials else {}),
            **{key: row.typed(key) for key in summary.columns},
            "seed": run.seeds[0],
            "data.seed": run.seeds[1],
            "status": run.status,
            "metric": metric,
            "value": value,
        }
        for stage, rows in (("comparison", summary.rows), ("trial", summary.trials))
        for row in rows
        for run in row.runs
        for metric, value in run.numbers.items()
    ]
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def write(summary: Summary, folder: Path, metric: str | None, answer: Sequence[str]) -> None:
    """Write summary.csv, groups.csv and summary.md, each whole or not at all.

    Raises:
        WriteError: if the system refuses.
    """
    write_atomic(folder / "summary.csv", values_csv(summary))
    write_atomic(folder / "groups.csv", groups_csv(summary))
    write_atomic(folder / "summary.md", markdown(summary, folder.name, metric, answer))
