"""The report of some runs: a table and an answer on the terminal, and files of numbers and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from runner.storage.atomic import write_atomic
from runner.storage.members import Member
from runner.summary import curves, figure, forest, table, trials
from runner.summary.answer import answer_of
from runner.summary.compare import Difference, differences_of
from runner.summary.groups import NothingToShow, Summary, summarize


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
        raise NothingToShow(f"metric must be one of {', '.join(summary.metrics)}, got {metric!r}")
    if out is None:
        out = folders[0] if len(folders) == 1 else folders[0].parent / "+".join(folder.name for folder in folders)
    metric = metric or summary.metric
    found = differences_of(summary, metric)
    answer = answer_of(summary, found, str(metric))
    table.write(summary, out, metric, answer)
    _draw(summary, found, out, metric)
    table.show(summary, out, metric)
    for line in answer:
        print(line, flush=True)
    return summary


def _draw(summary: Summary, found: Sequence[Difference], out: Path, metric: str | None) -> None:
    """Write the pictures for which there is something to show."""
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
        {"path": str(run.path), "row": summary.label(row), "epoch": epoch, str(metric): value}
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
    """Write a picture, whole or not at all."""
    png = io.BytesIO()
    picture.savefig(png, format="png")
    write_atomic(path, png.getvalue())
