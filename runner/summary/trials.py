"""The picture of the trials: what validation measured for each arm over its weight, beside the baseline as a band."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.summary.groups import Row, Summary
from runner.summary.settings import is_number

COLUMNS = 3
GREY, BLACK = "0.6", "0.0"


def figure_of(summary: Summary) -> Figure | None:
    """Return a panel for each number that was tuned, with the seeds as dots; None if nothing was tuned by a number."""
    panels = _panels(summary.trials)
    metric = next((name for name in ("validation/error", "validation/loss") if _has(summary.trials, name)), None)
    if not panels or metric is None:
        return None
    height = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(2.9 * min(COLUMNS, len(panels)), 0.7 + 2.1 * height), dpi=120, layout="constrained")
    grid = figure.subplots(height, min(COLUMNS, len(panels)), sharey=True, squeeze=False)
    band = _band(summary, metric)
    for axes, ((arm, key), rows) in zip(grid.flat, panels.items(), strict=False):
        _draw(axes, key, rows, metric, band)
        axes.set_title(arm, fontsize=9)
        axes.set_xlabel(key, fontsize=8)
    for axes in list(grid.flat)[len(panels) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_ylabel(metric, fontsize=8)
    band_words = "; band: the baseline, mean ± standard deviation" if band else ""
    figure.suptitle(f"trials: seeds as dots, means as a line, × at the top: diverged{band_words}", fontsize=9)
    return figure


def _panels(trials: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of each arm, by its name and the key that was tuned, in the order of the arms."""
    panels: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in trials:
        for key, value in row.options.items():
            if is_number(value):
                panels[str(row.keys.get("arm")), key].append(row)
    return {panel: rows for panel, rows in panels.items() if len({row.options[panel[1]] for row in rows}) > 1}


def _has(rows: Sequence[Row], metric: str) -> bool:
    return any(metric in row.metrics for row in rows)


def _band(summary: Summary, metric: str) -> tuple[float, float] | None:
    """Return mean ± deviation of the baseline on the comparison's seeds; None without a baseline."""
    found = [row.metrics[metric] for row in summary.rows if row.is_baseline and metric in row.metrics]
    if not found:
        return None
    deviation = 0.0 if math.isnan(found[0].deviation) else found[0].deviation
    return found[0].mean - deviation, found[0].mean + deviation


def _draw(axes: Axes, key: str, rows: Sequence[Row], metric: str, band: tuple[float, float] | None) -> None:
    """Draw the trials of one arm over one number; those that diverged at the upper edge."""
    rows = sorted(rows, key=lambda row: row.options[key])
    ended = [row for row in rows if metric in row.metrics]
    axes.set_xscale("log")
    if band:
        axes.axhspan(*band, color="0.88", zorder=0)
    axes.plot(
        [row.options[key] for row in ended],
        [row.metrics[metric].mean for row in ended],
        "o-",
        color=BLACK,
        markersize=4,
    )
    for row in ended:
        values = row.metrics[metric].values
        axes.plot([row.options[key]] * len(values), values, ".", color=GREY, markersize=5)
    for row in rows:
        if row.diverged:
            axes.plot(row.options[key], 0.97, "x", color=BLACK, transform=axes.get_xaxis_transform(), clip_on=False)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)
