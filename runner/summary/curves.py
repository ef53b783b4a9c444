"""Any metric against the epoch: for each group of runs the mean over its seeds, with a band. Readable in grey."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from runner.summary.labels import short_labels

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

Band = Literal["range", "sd"]
# Colours that stay apart for colour-blind readers (Okabe and Ito); in grey the lines differ by style and marker.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X<>ph"
MOST_CURVES = len(MARKERS)
MARKS = 8  # on a curve
LONG_LABEL = 30  # characters, of which no two fit beside each other
LOG_RATIO = 100.0  # of the largest to the least mean, from which on the scale is logarithmic


def curves(epochs: pandas.DataFrame, metric: str, group: str = "setting", band: Band = "range") -> Figure:
    """Draw a metric against the epoch, a curve for each group of runs.

    Args:
        epochs: a row for each run and epoch, with the columns `path` (which run), `epoch`, the metric and the group.
        metric: the column to draw, such as "test/error".
        group: the column whose values tell the groups apart; the runs of a group are its seeds.
        band: about the mean, from the least to the greatest seed (range) or one sample standard deviation (sd).

    Raises:
        ValueError: if there is no such column, no finite number, or more groups than can be told apart.
    """
    fault = f"must be one of {', '.join(sorted(column for column in epochs if '/' in column))}, got {metric!r}"
    if metric not in epochs or not (known := epochs.dropna(subset=[metric])).size:
        raise ValueError(f"metric {fault}")
    if group not in epochs:
        raise ValueError(f"the column of the groups must be one of {', '.join(map(str, epochs))}, got {group!r}")
    tables = {str(name): _over_seeds(runs, metric, band) for name, runs in known.groupby(group, dropna=False)}
    if len(tables) > MOST_CURVES:
        fix = "draw fewer runs, or group them by another key"
        raise ValueError(f"there must be at most {MOST_CURVES} curves to tell them apart, got {len(tables)}: {fix}")
    figure = Figure(figsize=(7, 4.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    names = short_labels([name.split(" ") for name in tables], " ")
    tables = dict(zip(names, tables.values(), strict=True))
    for index, name in enumerate(sorted(tables, key=lambda name: -_last(tables[name]))):  # as they lie at the end
        _draw(axes, tables[name], name, index)
    if _is_wide(tables):
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.92")
    most = max(int(table["n"].max()) for table in tables.values())
    about = {"range": "least to greatest seed", "sd": "± standard deviation"}[band]
    axes.set_title(f"mean over seeds; band: {about}" if most > 1 else "one seed", fontsize=9)
    if len(tables) > 1:
        legend = figure.legend(loc="outside lower center", fontsize=8, frameon=False, title=group, handlelength=3.5)
        legend.set_ncols(1 if max(map(len, tables)) > LONG_LABEL else 2)
    return figure


def _over_seeds(runs: pandas.DataFrame, metric: str, band: Band) -> pandas.DataFrame:
    table = runs.groupby("epoch")[metric].agg(["mean", "std", "min", "max", "count"])
    spread = table["std"].fillna(0.0)
    low, high = (table["min"], table["max"]) if band == "range" else (table["mean"] - spread, table["mean"] + spread)
    return table.assign(low=low, high=high, n=table["count"])


def _last(table: pandas.DataFrame) -> float:
    value = float(table["mean"].iloc[-1])
    return value if math.isfinite(value) else math.inf


def _draw(axes: Axes, table: pandas.DataFrame, name: str, index: int) -> None:
    color, step = COLORS[index % len(COLORS)], max(1, len(table) // MARKS)
    axes.plot(
        table.index,
        table["mean"],
        color=color,
        linestyle=STYLES[index % len(STYLES)],
        marker=MARKERS[index],
        markersize=5,
        markevery=(index % step, step),  # not above each other
        label=f"{name or 'all runs'} (n = {int(table['n'].max())})",
    )
    if table["n"].max() > 1:
        axes.fill_between(table.index, table["low"], table["high"], color=color, alpha=0.2, linewidth=0)


def _is_wide(tables: dict[str, pandas.DataFrame]) -> bool:
    means = [value for table in tables.values() for value in table["mean"] if math.isfinite(value)]
    return bool(means) and min(means) > 0 and max(means) / min(means) > LOG_RATIO
