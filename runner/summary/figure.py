"""A summary as a picture: a metric against what was swept, with its spread over the seeds.

One swept number: lines, with all seeds as dots. Two swept keys: a heat map. Anything else: a row for each group.
"""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from runner.config.text import shortened
from runner.summary.axis import LOG_RATIO, set_ticks
from runner.summary.labels import LONGEST
from runner.summary.rows import Row, Summary
from runner.summary.settings import BLANK, as_typed, is_number, sort_key

COLORS = {"train": "#7f7f7f", "validation": "#1f77b4", "test": "#d95f02"}
OTHER = "#1f77b4"
STYLES = {"train": "s:", "validation": "^--", "test": "o-"}  # marker and line, to be told apart in grey
MOST_ROWS = 60  # of the picture with a row for each group: more could not be read


def figure_of(summary: Summary, metric: str | None) -> Figure:
    """Return the picture that suits the swept keys."""
    columns, rows = summary.columns, [row for row in summary.rows if math.isfinite(row.mean(metric))]
    figure = Figure(figsize=(7, 4.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if metric is None or not rows:
        axes.axis("off")
        axes.text(0.5, 0.5, "no run has ended with a finite result", ha="center")
    elif len(columns) == 1 and all(is_number(value) for value in values_of(rows, columns[0]) if value is not BLANK):
        draw_lines(axes, summary, metric)
    elif len(columns) == 2 and is_grid(rows, columns):
        draw_heat_map(axes, summary, rows, metric)
    else:
        draw_rows(axes, summary, rows, metric)
    return figure


def values_of(rows: Sequence[Row], column: str) -> list[Any]:
    """Return the different values of a swept key, in order."""
    return sorted({row.typed(column): row.keys.get(column, BLANK) for row in rows}.values(), key=sort_key)


def is_grid(rows: Sequence[Row], columns: Sequence[str]) -> bool:
    """Tell whether more than half of all pairs of two keys' values have a group, and there is more than one line."""
    first, second = (len(values_of(rows, column)) for column in columns)
    return min(first, second) > 1 and 2 * len(rows) > first * second


def lines_of(summary: Summary, metric: str) -> dict[str, str]:
    """Return the metrics to draw beside each other, those of the parts of the data, and their colours."""
    part, slash, kind = metric.rpartition("/")
    if part not in COLORS or not slash:
        return {metric: OTHER}
    names = {f"{name}/{kind}": color for name, color in COLORS.items()}
    return {name: color for name, color in names.items() if name in summary.metrics}


def draw_lines(axes: Axes, summary: Summary, metric: str) -> None:
    """Draw means, standard deviations and all seeds against one number."""
    (column,) = summary.columns
    values = values_of(summary.rows, column)
    diverged = {row.typed(column): row.diverged for row in summary.rows}
    places = set_ticks(axes, values, diverged)
    for name, color in lines_of(summary, metric).items():
        rows = [row for row in summary.rows if math.isfinite(row.mean(name))]
        x = [places[row.typed(column)] for row in rows]
        means = [row.metrics[name].mean for row in rows]
        deviations = [0.0 if math.isnan(d := row.metrics[name].deviation) else d for row in rows]
        axes.plot(x, means, style_of(name), color=color, markersize=4, label=name, zorder=3)
        low, high = ([m + s * d for m, d in zip(means, deviations, strict=True)] for s in (-1, 1))
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        dots = [(place, value) for place, row in zip(x, rows, strict=True) for value in row.metrics[name].values]
        draw_dots(axes, dots, color)
    for row in summary.best:
        axes.axvline(places[row.typed(column)], color="0.6", linewidth=1, linestyle=":", zorder=0)
    axes.set(xlabel=column, ylabel=metric.rpartition("/")[2] if len(lines_of(summary, metric)) > 1 else metric)
    axes.figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    axes.grid(axis="y", color="0.92")
    axes.figure.suptitle(caption(summary), fontsize=9)


def style_of(metric: str) -> str:
    """Return the marker and the line of a metric, by the part of the data that it is of."""
    return STYLES.get(metric.partition("/")[0], "o-")


def draw_dots(axes: Axes, dots: Sequence[tuple[float, float]], color: str) -> None:
    """Draw the seeds, faintly."""
    if dots:
        axes.plot(*zip(*dots, strict=True), ".", color=color, alpha=0.45, markersize=6, markeredgewidth=0)


def draw_heat_map(axes: Axes, summary: Summary, rows: Sequence[Row], metric: str) -> None:
    """Draw the means of a metric over two keys: that with more values along the picture, the best group framed."""
    across, down = sorted(summary.columns, key=lambda column: -len(values_of(rows, column)))
    wide, high = ([as_typed(value) for value in values_of(rows, column)] for column in (across, down))
    places = [(wide.index(row.typed(across)), high.index(row.typed(down))) for row in rows]
    grid = [[math.nan] * len(wide) for _ in high]
    for (x, y), row in zip(places, rows, strict=True):
        grid[y][x] = row.mean(metric)
    norm = norm_for([row.mean(metric) for row in rows])
    axes.figure.set_size_inches(max(5.0, 1.6 + 0.85 * len(wide)), max(2.6, 1.3 + 0.55 * len(high)))  # type: ignore
    axes.set_facecolor("0.93")  # where there is no group
    picture = axes.imshow(grid, cmap="Blues", norm=norm, origin="lower", aspect="auto")
    for (x, y), row in zip(places, rows, strict=True):
        spread = row.metrics[metric]
        deviation = "" if math.isnan(spread.deviation) else f"\n± {spread.deviation:.2g}"
        color = "white" if norm(spread.mean) > 0.55 else "black"
        axes.text(x, y, f"{spread.mean:.3g}{deviation}", ha="center", va="center", fontsize=8, color=color)
        if row in summary.best:
            axes.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, fill=False, color="#d95f02", linewidth=2))
    across_labels = [shortened(label or "none", LONGEST // 2) for label in wide]
    axes.set_xticks(range(len(wide)), across_labels)
    if max(map(len, across_labels)) > LONGEST // 4:
        axes.tick_params(axis="x", rotation=45)
    axes.set_yticks(range(len(high)), [shortened(label or "none", LONGEST // 2) for label in high])
    axes.set(xlabel=across, ylabel=down)
    axes.figure.colorbar(picture, ax=axes, label=metric)
    axes.figure.suptitle(caption(summary, "framed"), fontsize=9)


def norm_for(means: Sequence[float]) -> Normalize:
    """Return the scale of the colours: by logarithm where the means lie far apart."""
    low, high = min(means), max(means)
    if low > 0 and high / low > LOG_RATIO:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + 1.0)


def draw_rows(axes: Axes, summary: Summary, rows: Sequence[Row], metric: str) -> None:
    """Draw a line of dots for each group, one below the other, under its name."""
    lines = lines_of(summary, metric)
    shown = rows[:MOST_ROWS]
    axes.figure.set_size_inches(7, 1.5 + 0.32 * len(shown))  # type: ignore[union-attr]
    for index, (name, color) in enumerate(lines.items()):
        offset = 0.22 * (index - (len(lines) - 1) / 2)
        found = [(place + offset, row.metrics[name]) for place, row in enumerate(shown) if name in row.metrics]
        dots = [(value, place) for place, spread in found for value in spread.values]
        draw_dots(axes, dots, color)
        means = [spread.mean for _, spread in found]
        deviations = [0.0 if math.isnan(spread.deviation) else spread.deviation for _, spread in found]
        y = [place for place, _ in found]
        marker = style_of(name)[0]
        axes.errorbar(means, y, xerr=deviations, fmt=marker, color=color, markersize=4, elinewidth=0.8, label=name)
    axes.set_yticks(range(len(shown)), [label_with_failures(row, summary) for row in shown], fontsize=8)
    for tick, row in zip(axes.get_yticklabels(), shown, strict=True):
        tick.set_fontweight("bold" if row in summary.best else "normal")
    axes.set_ylim(len(shown) - 0.5, -0.5)
    left_out = f" (the first {MOST_ROWS} of {len(rows)} groups)" if len(rows) > MOST_ROWS else ""
    axes.set_xlabel((metric.rpartition("/")[2] if len(lines) > 1 else metric) + left_out)
    axes.figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    axes.grid(axis="x", color="0.92")
    axes.figure.suptitle(caption(summary, "bold"), fontsize=9)


def label_with_failures(row: Row, summary: Summary) -> str:
    """Return a row's label, and how many of its runs diverged."""
    return summary.short_label(row) + (f" ({row.diverged} diverged)" if row.diverged else "")


def caption(summary: Summary, best: str = "dotted") -> str:
    """Return what the picture shows, in words."""
    counts = sorted({len(row.done) for row in summary.rows if row.done})
    runs = " to ".join(dict.fromkeys(str(count) for count in (counts[0], counts[-1])))
    spread = "mean ± standard deviation, " if counts[-1] > 1 else ""
    among = " of each criterion" if summary.ranks_by_criterion else ""
    tie = ", a tie" if any(row in summary.tied for row in summary.best) and len(summary.best) > 1 else ""
    return f"{spread}n = {runs}" + (f"; {best}: least {summary.monitor}{among}{tie}" if summary.best else "")
