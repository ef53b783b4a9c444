"""The answer of a comparison in words: what differs from the baseline, by how much, and what could have been missed."""

import math
from collections.abc import Sequence

from runner.config.text import LINE, shortened
from runner.summary.compare import LEVEL, POWER, Difference
from runner.summary.rows import Summary
from runner.summary.table import form_for

MOST_LINES = 8  # on the terminal; summary.md has all of it
SAME, UNTESTED, DIVERGED = (
    "no difference found",
    "too few pairs of seeds to tell",
    "nothing can be said after divergence",
)


def answer_of(summary: Summary, differences: Sequence[Difference], metric: str, is_short: bool = False) -> list[str]:
    """Return a line for each row, those that differ first, between what to know; short: 8 lines of 120 characters."""
    if not differences:
        named = summary.baseline and not any(row.is_baseline for row in summary.rows)
        return [f"No comparison: no row is the baseline, sweep.baseline={summary.baseline}."] if named else []
    ordered = sorted(differences, key=lambda each: (not each.is_different, -abs(each.interval.mean or 0)))
    rows = _rows_of(summary, ordered, is_short, metric)
    head = [*_tuned(summary, metric), _head(summary, ordered, metric, is_short)]

    def lines(shown: int) -> list[str]:
        return [*head, *rows[:shown], *_verdicts(ordered, shown), *_notes(summary, ordered)]

    if not is_short:
        return lines(len(rows))
    room = max(1, MOST_LINES - len(lines(0)))
    return [shortened(line, LINE) for line in lines(room)[:MOST_LINES]]


def _head(summary: Summary, differences: Sequence[Difference], metric: str, is_short: bool) -> str:
    baselines = {summary.label(each.baseline) for each in differences}
    to = baselines.pop() if len(baselines) == 1 else "the baseline"
    tail = f", paired by seed: mean, 95 % interval, p by Holm{' for each data set' * (_families(differences) > 1)}"
    if is_short:
        to, metric = shortened(to, 24), shortened(metric, 24)
    return f"Difference to {to} in {metric}{tail}"


def _families(differences: Sequence[Difference]) -> int:
    return len({each.row.family for each in differences})


def _rows_of(summary: Summary, differences: Sequence[Difference], is_short: bool, metric: str) -> list[str]:
    """Return each row's difference in words, in columns."""
    form = form_for([number for each in differences for number in each.interval[:3]])
    labels = [(summary.short_label if is_short else summary.label)(each.row) for each in differences]
    width, what = max(map(len, labels)), "it" if is_short else metric
    lines = []
    for label, each in zip(labels, differences, strict=True):
        mean, low, high, _ = each.interval
        n = f"{each.n} seed{'s' * (each.n != 1)}" + ("" if math.isnan(each.p) else f", p={each.p:.2g}")
        if each.bootstrap and not is_short:
            n += f", bootstrap [{each.bootstrap[0]:+{form}}, {each.bootstrap[1]:+{form}}]"
        if each.is_different:
            size, (low, high) = f"{abs(mean):{form}}", sorted((abs(low), abs(high)))
            interval = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
            verb = "lowers" if mean < 0 else "raises"
            lines.append(f"* {label:<{width}}  {verb} {what} by {size}{interval}, {n}")
        else:
            interval = "" if math.isnan(low) else f" [{low:+{form}}, {high:+{form}}]"
            lines.append(f"  {label:<{width}}  {mean:+{form}}{interval}, {n}: {_verdict(each)}")
    return lines


def _verdict(each: Difference) -> str:
    if each.has_diverged:
        return DIVERGED
    return UNTESTED if math.isnan(each.p) else "different" if each.is_different else SAME


def _verdicts(differences: Sequence[Difference], shown: int) -> list[str]:
    sizes = [each.detectable for each in differences if _verdict(each) == SAME and each.detectable > 0]
    ends = " to ".join(dict.fromkeys(f"{size(sizes):.2g}" for size in (min, max))) if sizes else ""
    missed = f": differences below {ends} could have been missed (power {POWER:.0%})" if ends else ""
    advice = {"different": "", SAME: missed, UNTESTED: ": train more, such as 'seed=range(5)'", DIVERGED: ""}
    lines = []
    for verdict, words in advice.items():
        count = sum(_verdict(each) == verdict for each in differences)
        hidden = sum(_verdict(each) == verdict for each in differences[shown:])
        others = f"{hidden} other{'s' * (hidden > 1)}, see summary.md" if hidden else f"{count} row{'s' * (count > 1)}"
        lines += [f"{verdict} for {others}{words}."] if count and (hidden or words) else []
    return lines


def _tuned(summary: Summary, metric: str) -> list[str]:
    tuned = summary.tuned_on or metric
    is_same_kind = tuned.rpartition("/")[2] == metric.rpartition("/")[2] and not metric.startswith("probe/")
    return [] if is_same_kind or tuned == metric else [f"The weights were tuned on {tuned}, not on {metric}."]


def _notes(summary: Summary, differences: Sequence[Difference]) -> list[str]:
    runs = [run for each in differences for row in (each.row, each.baseline) for run in row.done]
    has_splits = len({run.seeds[1] for run in runs}) > 1
    covered = "the seeds and the splits of the data" if has_splits else "the seeds, not other splits of the data"
    hint = "" if has_splits else " ('data.seed=${seed}' varies these too)"
    row = "row of a data set" if _families(differences) > 1 else "row"
    ends = [f"{summary.short_label(row)} ({end})" for row in summary.rows if (end := summary.end_of(row))]
    return [
        *([f"Chosen at an end of what was tried: {', '.join(ends)}."] if ends else []),
        f"The intervals cover {covered}{hint}.",
        f"By chance alone, any {row} would be called different in at most {LEVEL:.0%} of such tables.",
    ]
