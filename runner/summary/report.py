"""The report of some runs: a table on the terminal, summary.csv, summary.md and summary.png."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runner.summary import figure, table
from runner.summary.groups import NothingToShow, Summary, summarize


def report(folders: Sequence[Path], metric: str | None = None, out: Path | None = None) -> Summary:
    """Summarise folders of runs: write summary.csv, summary.md and summary.png, and print the table.

    Args:
        folders: of sweeps; the first one is also where the files go, if it is the only one.
        metric: what the picture shows and the table shows first; null: test/error, or test/loss for regression.
        out: folder of the files; null: the one folder, or beside the first one a folder named after all of them.

    Raises:
        NothingToShow: if there is no run, or no such metric.
        WriteError: if a file cannot be written.
    """
    summary = summarize(*folders)
    if not summary.rows and not summary.others:
        raise NothingToShow(f"there are no runs in {', '.join(map(str, folders))}: give a folder such as runs/<name>")
    if metric is not None and metric not in summary.metrics:
        raise NothingToShow(f"metric must be one of {', '.join(summary.metrics)}, got {metric!r}")
    if out is None:
        out = folders[0] if len(folders) == 1 else folders[0].parent / "+".join(folder.name for folder in folders)
    table.write(summary, out, metric or summary.metric)
    figure.write(summary, out, metric or summary.metric)
    table.show(summary, out, metric or summary.metric)
    return summary
