"""One style for all pictures of docs/: sizes, colours that also differ in grey, bands over seeds."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from runner.summary.curves import COLORS, MARKERS, STYLES

DPI = 110
WIDTH = 8.0  # inches of a picture
MOST_BYTES = 150_000


def figure(rows: int = 1, columns: int = 1, height: float = 3.4, **options: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (rows, columns), each with a light grid.

    Args:
        rows, columns: of axes.
        height: of a row, in inches.
        options: of `Figure.subplots`, such as sharey=True.
    """
    made = Figure(figsize=(WIDTH, height * rows), dpi=DPI, layout="constrained")
    axes = made.subplots(rows, columns, squeeze=False, **options)
    for each in axes.flat:
        each.grid(color="0.92", linewidth=0.8)
        each.set_axisbelow(True)
        each.tick_params(labelsize=8)
        each.spines[["top", "right"]].set_visible(False)
    return made, axes


def look(index: int) -> dict[str, Any]:
    """Return colour, line and marker of the index-th curve: each differs, so that grey tells them apart."""
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": STYLES[index % len(STYLES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
    }


def band(
    axes: Axes, rows: pd.DataFrame, x: str, y: str, label: str, index: int, marks: int = 10, centre: str = "mean"
) -> None:
    """Draw the mean of y over the rows of each x, and a band from the smallest to the largest of them.

    Args:
        axes: to draw on.
        rows: one for each run and x.
        x, y: columns.
        label: for the legend.
        index: of the curve, for its look.
        marks: about how many markers on the curve.
        centre: mean, or median.
    """
    found = rows.groupby(x)[y].agg([centre, "min", "max"]).sort_index()
    every = max(1, len(found) // marks)
    axes.plot(found.index, found[centre], label=label, markevery=(index % every, every), **look(index))
    axes.fill_between(found.index, found["min"], found["max"], color=COLORS[index % len(COLORS)], alpha=0.15, lw=0)


def log_errors(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    few = (1, 1.2, 1.5, 2, 3, 4, 5, 6, 7, 8) if high / low < 5 else (1, 2, 5)
    axes.yaxis.set_major_locator(LogLocator(subs=few if high / low < 1000 else (1,)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def over_values(axes: Axes, runs: pd.DataFrame, key: str, metric: str, label: str, index: int, centre: str) -> None:
    """Draw a metric over the values of a key, beside each other at equal distances: seeds as dots, a line of `centre`.

    Args:
        axes: to draw on.
        runs: a row for each run.
        key: the column that was swept.
        metric: its column.
        label: for the legend.
        index: of the curve, for its look.
        centre: mean or median.
    """
    values = sorted(runs[key].unique())
    places = runs[key].map(values.index)
    axes.plot(places, runs[metric], ".", color=COLORS[index], alpha=0.35, markersize=6)
    axes.plot(range(len(values)), runs.groupby(key)[metric].agg(centre), label=label, **look(index))
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axes.set_xlabel(f"{key} (not to scale)")


def published(
    axes: Axes, values: Sequence[float], numbers: Mapping[float, float], aside: float = 0, **look: Any
) -> None:
    found = [(place + aside, numbers[value]) for place, value in enumerate(values) if value in numbers]
    axes.plot([place for place, _ in found], [number for _, number in found], **look | {"linestyle": ""})


def legend_below(made: Figure, axes: Axes, columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False, handlelength=3)


def boxes(axes: Axes, samples: Sequence[Sequence[float]], labels: Sequence[str]) -> None:
    for place, values in enumerate(samples):
        axes.plot([place] * len(values), values, ".", color="0.6", markersize=5)
        axes.errorbar(place + 0.15, np.mean(values), np.std(values, ddof=1), fmt="o", color="black", markersize=4)
    axes.set_xticks(range(len(labels)), labels, fontsize=8)


def png(made: Figure) -> bytes:
    """Return the picture as a file; the same bytes for the same picture.

    Raises:
        ValueError: if it is larger than a page should load.
    """
    file = io.BytesIO()
    made.savefig(file, format="png", metadata={"Software": None})
    content = file.getvalue()
    if len(content) > MOST_BYTES:
        raise ValueError(f"a picture must have at most {MOST_BYTES} bytes, got {len(content)}: draw less in it")
    return content
