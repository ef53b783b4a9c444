"""The report of some runs: a table and an answer on the terminal, and files of numbers and pictures."""

import csv
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from runner.config.text import near
from runner.storage.atomic import write_atomic
from runner.storage.identity import LONGEST_NAME
from runner.storage.members import Member
from runner.summary import curves, figure, forest, table, trials
from runner.summary.answer import answer_of
from runner.summary.compare import Difference, differences_of
from runner.summary.groups import summarize
from runner.summary.rows import NothingToShow, Summary


def report(
    folders: Sequence[Path],
    metric: str | None = None,
    out: Path | None = None,
    members: Sequence[Member] | None = None,
    baseline: str | None = None,
) -> Summary:
    """Summarise folders of runs: write the tables and pictures, print the table and, with a baseline, the answer.

    Args:
        folders: of sweeps; the first one is also where the files go, if it is the only one.
        metric: what the picture shows and the table shows first; null: test/error, or test/loss for regression.
        out: folder of the files; null: the one folder, or beside the first one a folder named after all of them.
        members: what the runs are in their sweep for (null: as the lists in the folders say).
        baseline: what rows are compared with, an arm or KEY=VALUE (null: as the sweep says, or what has no penalty).

    Raises:
        NothingToShow: if there is no run, or no such metric.
        WriteError: if a file cannot be written.
    """
    summary = summarize(*folders, members=members, baseline=baseline)
    if not (summary.rows or summary.others or summary.trials):
        raise NothingToShow(f"there are no runs in {', '.join(map(str, folders))}: give a folder such as runs/<name>")
    if metric is not None and metric not in summary.metrics:
        raise NothingToShow(f"metric must be one of {near(metric, summary.metrics)}, got {metric!r}")
    if out is None:
        names = "+".join(folder.name for folder in folders)
        names = names if len(names) <= LONGEST_NAME else f"{folders[0].name}+{len(folders) - 1}_more"
        out = folders[0] if len(folders) == 1 else folders[0].parent / names
    metric = metric or summary.metric
    unfinished = _unfinished(summary, [member for member in members or () if not member.path.exists()])
    found = differences_of(summary, metric) if not unfinished else []
    table.write(summary, out, metric, unfinished or answer_of(summary, found, str(metric)))
    _draw(summary, found, out, metric)
    table.show(summary, out, metric)
    for line in unfinished or answer_of(summary, found, str(metric), is_short=True):
        print(line, flush=True)
    return summary


def _unfinished(summary: Summary, missing: Sequence[Member]) -> list[str]:
    counts = Counter(run.status for run in summary.others if run.status in table.UNFINISHED)
    counts += Counter({"not started": len(missing)})
    if not counts:
        return []
    ended = sum(len(row.done) for row in (*summary.rows, *summary.trials))
    runs = ended + len(summary.others) + len(missing)
    words = ", ".join(f"{count} {status}" for status, count in counts.items())
    return [f"{counts.total()} of {runs} runs have not ended ({words}): no answer before; the same command goes on."]


def _draw(summary: Summary, found: Sequence[Difference], out: Path, metric: str | None) -> None:
    _write(figure.figure_of(summary, metric), out / "summary.png")
    if found:
        _write(forest.figure_of(summary, found, str(metric)), out / "differences.png")
    if tried := trials.figure_of(summary):
        _write(tried, out / "trials.png")
    epochs = _epochs_of(summary, metric)
    if epochs is not None:
        _write(curves.curves(epochs, str(metric), "row"), out / "curves.png")


def _epochs_of(summary: Summary, metric: str | None) -> pd.DataFrame | None:
    """Return the metric of each run and epoch; None if there are no two epochs, or more rows than can be told apart."""
    rows = [row for row in summary.rows if metric in row.metrics]
    if not 1 <= len(rows) <= curves.MOST_CURVES:
        return None
    found = [
        {"path": str(run.path), "row": summary.short_label(row), "epoch": epoch, str(metric): value}
        for row in rows
        for run in row.done
        for epoch, value in _values_of(run.path / "metrics.csv", str(metric))
    ]
    return pd.DataFrame(found) if len({value["epoch"] for value in found}) > 1 else None


def _values_of(path: Path, metric: str) -> list[tuple[float, float]]:
    """Return epochs and values of a metric in a file of a run; pandas is slow for few rows."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [(float(line["epoch"]), float(line[metric])) for line in csv.DictReader(file) if line.get(metric)]


def _write(picture: Figure, path: Path) -> None:
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in a script that the font lacks
        picture.savefig(png, format="png")
    write_atomic(path, png.getvalue())
