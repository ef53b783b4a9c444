"""The picture of the trials: what validation measured for each arm over its weight, beside the baseline as a band."""

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.config.text import shortened
from runner.summary.labels import LONGEST
from runner.summary.rows import Row, Summary
from runner.summary.settings import is_number

COLUMNS = 3
BEYOND = 4.0  # times the median of all trials: what lies higher is drawn at the edge
GREY, BLACK = "0.6", "0.0"


def figure_of(summary: Summary) -> Figure | None:
    """Return a panel for each number that was tuned, with the seeds as dots; None if nothing was tuned by a number."""
    panels = _panels(summary.trials)
    metric = next((name for name in ("validation/error", "validation/loss") if _has(summary.trials, name)), None)
    if not panels or metric is None:
        return None
    height, width = math.ceil(len(panels) / COLUMNS), min(COLUMNS, len(panels))
    figure = Figure(figsize=(2.9 * width, 0.9 + 2.1 * height), dpi=120, layout="constrained")
    grid = figure.subplots(height, width, sharey=True, squeeze=False)
    band, limits = _band(summary, metric), _limits(summary.trials, metric)
    for axes, ((arm, key), rows) in zip(grid.flat, panels.items(), strict=False):
        _draw(axes, key, rows, metric, band, limits[1])
        _mark_chosen(axes, [row for row in summary.rows if str(row.keys.get("arm")) == arm], key, rows, metric)
        axes.set_title(shortened(arm, LONGEST // 2 if width > 1 else LONGEST), fontsize=9)
        axes.set_xlabel(shortened(key, LONGEST - 10), fontsize=8)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    low, high = min(limits + (band or ())), max(limits + (band or ()))
    grid[0, 0].set_ylim(low - 0.1 * (high - low), high + 0.2 * (high - low))
    for axes in grid[:, 0]:
        axes.set_ylabel(metric, fontsize=8)
    words = ["seeds as dots, means as a line, chosen: ring", "at the top: ▲ beyond, × diverged"]
    words += ["band: the baseline on its own seeds, mean ± sd"] if band else []
    figure.suptitle(("; " if width == COLUMNS else "\n").join(words), fontsize=8)
    return figure


def _panels(trials: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    panels: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in trials:
        for key, value in row.options.items():
            if is_number(value):
                panels[str(row.keys.get("arm")), key].append(row)
    return {panel: rows for panel, rows in panels.items() if len({row.options[panel[1]] for row in rows}) > 1}


def _has(rows: Sequence[Row], metric: str) -> bool:
    return any(metric in row.metrics for row in rows)


def _band(summary: Summary, metric: str) -> tuple[float, float] | None:
    found = [row.metrics[metric] for row in summary.rows if row.is_baseline and metric in row.metrics]
    if not found:
        return None
    deviation = 0.0 if math.isnan(found[0].deviation) else found[0].deviation
    return found[0].mean - deviation, found[0].mean + deviation


def _limits(trials: Sequence[Row], metric: str) -> tuple[float, float]:
    values = [value for row in trials if metric in row.metrics for value in row.metrics[metric].values]
    return min(values), max(value for value in values if value <= BEYOND * statistics.median(values))


def _draw(
    axes: Axes, key: str, rows: Sequence[Row], metric: str, band: tuple[float, float] | None, limit: float
) -> None:
    """Draw the trials of one arm over one number; at the upper edge those beyond it, with their means, or diverged."""
    rows = sorted(rows, key=lambda row: row.options[key])
    inside = [row for row in rows if row.mean(metric) <= limit]
    axes.set_xscale("log")
    if band:
        axes.axhspan(*band, color="0.88", zorder=0)
    means = [row.mean(metric) for row in inside]
    axes.plot([row.options[key] for row in inside], means, "o-", color=BLACK, markersize=4)
    at_edge = axes.get_xaxis_transform()
    for row in rows:
        place = row.options[key]
        if row in inside:
            values = [value for value in row.metrics[metric].values if value <= limit]
            axes.plot([place] * len(values), values, ".", color=GREY, markersize=5)
            continue
        axes.plot(place, 0.95, "x" if row.diverged else "^", color=BLACK, transform=at_edge)
        words = "" if math.isnan(row.mean(metric)) else f"{row.mean(metric):.2g}  "
        axes.text(place, 0.95, words, ha="right", va="center", fontsize=7, transform=at_edge)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)


def _mark_chosen(axes: Axes, compared: Sequence[Row], key: str, trials: Sequence[Row], metric: str) -> None:
    chosen = {row.options.get(key) for row in compared}
    for row in trials:
        if row.options[key] in chosen:
            axes.plot(row.options[key], row.mean(metric), "o", color=BLACK, fillstyle="none", markersize=10)
