"""The picture of a comparison: each row's differences to the baseline, paired by seed, with their intervals, sorted."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from runner.config.text import shortened
from runner.summary.compare import Difference, paired
from runner.summary.labels import LONGEST
from runner.summary.rows import Summary

MOST_ROWS = 40
GREY, BLACK = "0.55", "0.0"
REACH = 6.0  # a row further out than so many times the median distance is drawn at the edge, its number beside it


def figure_of(summary: Summary, found: Sequence[Difference], metric: str) -> Figure:
    """Return the picture: the least difference on top; filled markers where a row is called different.

    Args:
        summary: for the rows' labels.
        found: the differences, sorted.
        metric: that they are of, for the axis.
    """
    shown = found[:MOST_ROWS]
    figure = Figure(figsize=(7, 1.7 + 0.34 * len(shown)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    limit = _limit(shown)
    for place, each in enumerate(shown):
        _draw(axes, place, each, metric, limit)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [_label(summary, each) for each in shown], fontsize=9)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    baselines = sorted({summary.short_label(each.baseline) for each in shown})
    to = baselines[0] if len(baselines) == 1 else "the baseline"
    figure.supxlabel(f"{metric}: difference to {to}, paired by seed (left of 0 is less)", fontsize=9)
    axes.locator_params(axis="x", nbins=6)
    if limit < math.inf:
        axes.set_xlim(-limit * 1.12, limit * 1.12)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    counts = sorted({each.n for each in shown})
    pairs = " to ".join(dict.fromkeys(str(count) for count in (counts[0], counts[-1])))
    left_out = f"; the first {MOST_ROWS} of {len(found)} rows" if len(found) > MOST_ROWS else ""
    figure.suptitle(
        f"mean and 95 % t interval, {pairs} seeds as dots; filled: different by Holm's correction{left_out}", fontsize=9
    )
    return figure


def _draw(axes: Axes, place: int, each: Difference, metric: str, limit: float) -> None:
    """Draw one row: its seeds as dots, its mean and interval; at the edge, with its number, if it lies beyond."""
    mean, low, high, _ = each.interval
    if not abs(mean) <= limit:
        side = math.copysign(limit, mean)
        marker, align = (">", "right") if mean > 0 else ("<", "left")
        axes.plot(side * 1.06, place, marker, color=BLACK, markersize=7, clip_on=False)
        axes.text(side * 0.99, place, f"{mean:+.3g}", ha=align, va="center", fontsize=8)
        return
    values = np.clip(paired(each.row, each.baseline, metric), -limit, limit)
    axes.plot(values, np.full(len(values), place + 0.22), ".", color=GREY, markersize=4)
    if not math.isnan(low):
        axes.plot([max(low, -limit), min(high, limit)], [place, place], "-", color=BLACK, linewidth=1.6)
    axes.plot(mean, place, "o", color=BLACK, markerfacecolor=BLACK if each.is_different else "white", markersize=6)


def _limit(shown: Sequence[Difference]) -> float:
    reaches = [max(abs(end) for end in each.interval[:3] if not math.isnan(end)) for each in shown if each.n]
    usual = float(np.median(reaches)) if reaches else math.inf
    inside = [reach for reach in reaches if reach <= REACH * usual]
    return math.inf if len(inside) == len(reaches) or usual == 0 else max(inside)


def _label(summary: Summary, each: Difference) -> str:
    diverged, label = each.row.diverged, summary.short_label(each.row)
    chosen = str(each.row.keys.get("chosen", "")).replace(f"{label}.", "")
    failures = f"({diverged} of {len(each.row.runs)} diverged)" if diverged else ""
    return "\n".join(filter(None, [shortened(f"{label}, {chosen}", LONGEST) if chosen else label, failures]))
